"""Replaces the convolutions and linear layers of a float model by binary ones, and some by 8-bit ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.errors import ArgumentError

from ..layers.affine_quantizers import WeightQuantizer
from ..layers.domains import ScaledSigns, Signs, WeightDomain
from ..layers.estimators import Estimator, estimator
from ..layers.modules import Binarize, BinaryConv2d, BinaryLayer, BinaryLinear
from ..layers.quantized import EightBit, QuantizedConv2d, QuantizedLinear

FIRST = "<first>"
LAST = "<last>"
POINTWISE = "<pointwise>"
DEPTHWISE = "<depthwise>"

Activations = Callable[[int, int], nn.Module]
"""Makes the module that binarises or quantises a layer's input, from its number of channels and their axis."""

Form = Literal["binary", "8-bit"]

Skip = Collection[str] | Callable[[str, nn.Module], bool]

_SPECIAL = (FIRST, LAST, POINTWISE, DEPTHWISE)
_LINEAR_KINDS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


@dataclass(frozen=True)
class BinaryConfig:
    """How binarize_ converts a layer.

    Attributes:
        weights: The two weight values.
        weight_estimator: The gradient of the weights' signs: a name (estimators.ESTIMATORS) or an Estimator.
        activations: The two values to which a converted layer binarises its input. Or a function that makes a module
            for this from the input's number of channels and their axis, such as ``lambda channels, axis: DoReFa(2)``.
            None leaves inputs as they are.
        activation_estimator: The gradient of that binarisation; not used if ``activations`` is a function.
        learn_threshold: Whether its threshold is learned, one per input channel (RSign); otherwise it is 0. Not used if
            ``activations`` is a function.
        padding_value: The value of padded pixels after the binarisation: 0, -1 or +1.
        eight_bit: How layers become 8-bit ones; None for no such layers.
        eight_bit_layers: Which layers these are: given like ``skip`` in binarize_, which they need not be named in.
    """

    weights: WeightDomain = field(default_factory=ScaledSigns)
    weight_estimator: str | Estimator = "clip"
    activations: BinaryDomain | Activations | None = SIGN
    activation_estimator: str | Estimator = "polynomial"
    learn_threshold: bool = False
    padding_value: int = 0
    eight_bit: EightBit | None = None
    eight_bit_layers: Skip = (FIRST, LAST, POINTWISE, DEPTHWISE)


@dataclass(frozen=True)
class LayerNote:
    """What was done with one layer.

    Attributes:
        name: Its qualified name in the model.
        kind: Its class before the conversion.
        reason: Why it stayed float; empty if it was converted.
    """

    name: str
    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Conversion:
    """The result of binarize_, which can be printed.

    Attributes:
        converted: The layers that are binary now.
        kept: The linear layers that stayed float, with the reason.
        eight_bit: The layers that have 8 bits now.
    """

    converted: tuple[LayerNote, ...]
    kept: tuple[LayerNote, ...]
    eight_bit: tuple[LayerNote, ...] = ()

    def __str__(self) -> str:
        eight = f"{len(self.eight_bit)} of 8 bits, " if self.eight_bit else ""
        lines = [f"{len(self.converted)} layers binary, {eight}{len(self.kept)} float"]
        width = max((len(note.name) for note in self.converted + self.eight_bit + self.kept), default=0)
        lines += [f"  {note.name:{width}}  {note.kind} -> binary" for note in self.converted]
        lines += [f"  {note.name:{width}}  {note.kind} -> 8 bits" for note in self.eight_bit]
        lines += [f"  {note.name:{width}}  {note.kind} stays float: {note.reason}" for note in self.kept]
        return "\n".join(lines)


def binarize_(model: nn.Module, config: BinaryConfig = BinaryConfig(), skip: Skip = (FIRST, LAST)) -> Conversion:
    """Replaces nn.Conv2d and nn.Linear layers of a model by binary ones, and some by 8-bit ones, in place.

    A converted layer binarises its input. It keeps the float weights (the same parameters) as latent weights, and its
    bias. Weights that ``torch.nn.utils.prune`` masks stay masked; the module ``domains`` describes which value they
    take. Parametrisations of the weights (``torch.nn.utils.parametrizations.weight_norm``, ``spectral_norm`` and
    others) become those of the latent weights. By default the first and the last linear layer, in the order in which
    the model registers them, stay float, as in nearly all published binary networks.

    Args:
        model: Changed in place. Optimisers that were made for it before miss new parameters of the config, if any.
        config: How to convert.
        skip: The layers that stay float: qualified names or patterns (``"layer*.downsample.*"``), where ``FIRST`` and
            ``LAST`` mean the first and the last linear layer, ``POINTWISE`` 1x1 convolutions and ``DEPTHWISE`` those
            with one channel per group; or a function of (name, module). An explicit ``skip`` replaces the default: pass
            ``(FIRST, LAST, ...)`` to add to it. Layers that become 8-bit ones are not float, if skipped or not.

    Returns:
        The converted layers, those of 8 bits, and the others with the reason. A warning names the layers that stay
        float without being skipped, and so does the report of the compiled model.

    Raises:
        ArgumentError: If a name or pattern matches no linear layer, the model itself is a layer that would be replaced,
            or weights are pruned and neither of the two values can stand for them.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> print(binarize_(model))
        1 layers binary, 2 float
          1  Conv2d -> binary
          0  Conv2d stays float: skipped, the first linear layer
          3  Linear stays float: skipped, the last linear layer
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, _LINEAR_KINDS)]
    reason_to_skip = _rule("skip", skip, layers)
    has_eight_bits = _rule("eight_bit_layers", config.eight_bit_layers if config.eight_bit else (), layers)
    converted: list[LayerNote] = []
    eight_bit: list[LayerNote] = []
    kept: list[LayerNote] = []
    refused: list[str] = []
    replacements: dict[nn.Module, nn.Module] = {}
    for name, module in layers:
        kind = _kind(module).__name__
        form: Form = "8-bit" if has_eight_bits(name, module) else "binary"
        skipped = reason_to_skip(name, module)
        if isinstance(module, QuantizedConv2d | QuantizedLinear):
            eight_bit.append(LayerNote(name, kind))
        elif skipped and form == "binary":
            kept.append(LayerNote(name, kind, f"skipped{skipped}"))
        elif reason := obstacle(module, form):
            kept.append(LayerNote(name, kind, reason))
            if not skipped:
                refused.append(f"{name!r} stays float: {reason}")
                module.stays_float = refused[-1]  # type: ignore[assignment]  # for the report of its compilation
        elif not name:
            raise ArgumentError(f"the model itself is a {kind}; put it into an nn.Sequential to convert it in place")
        elif form == "8-bit":
            assert config.eight_bit is not None
            replacements[module] = eight_bit_layer(module, config.eight_bit)
            eight_bit.append(LayerNote(name, kind))
        else:
            try:
                replacements[module] = binary_layer(module, config)
            except ValueError as error:
                raise ArgumentError(f"layer {name!r}: {error}") from error
            converted.append(LayerNote(name, kind))
    for parent in list(model.modules()):  # a layer may be registered at several places
        for child_name, child in parent._modules.items():
            if child in replacements:
                parent._modules[child_name] = replacements[child]
    if refused:
        warnings.warn("; ".join([*refused, "name it in skip= to say that this is right"]), stacklevel=2)
    return Conversion(tuple(converted), tuple(kept), tuple(eight_bit))


def _rule(argument: str, chosen: Skip, layers: Sequence[tuple[str, nn.Module]]) -> Callable[[str, nn.Module], str]:
    """A function that returns why a layer is chosen; empty if it is not."""
    if callable(chosen):
        return lambda name, module: " by the given function" if chosen(name, module) else ""
    if isinstance(chosen, str):
        raise ArgumentError(f"{argument} is a collection of names, but got the string {chosen!r}; write ({chosen!r},)")
    names = [name for name, _ in layers]
    for pattern in chosen:
        if layers and pattern not in _SPECIAL and not any(fnmatchcase(name, pattern) for name in names):
            raise ArgumentError(
                f"{argument}={pattern!r} fits no linear layer of the model; they are {', '.join(names)}"
            )

    def reason(name: str, module: nn.Module) -> str:
        if FIRST in chosen and name == names[0]:
            return ", the first linear layer"
        if LAST in chosen and name == names[-1]:
            return ", the last linear layer"
        if POINTWISE in chosen and _is_pointwise(module):
            return ", a 1x1 convolution"
        if DEPTHWISE in chosen and _is_depthwise(module):
            return ", a depthwise convolution"
        found = [pattern for pattern in chosen if fnmatchcase(name, pattern)]
        return f" by {found[0]!r}" if found else ""

    return reason


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def obstacle(module: nn.Module, form: Form = "binary") -> str:
    """The reason why a layer cannot be converted to a form; empty if it can."""
    kind = _kind(module)
    if kind is not nn.Conv2d and kind is not nn.Linear:
        base = next((base for base in (nn.Conv2d, nn.Linear) if isinstance(module, base)), None)
        return f"a subclass of {base.__name__} with code of its own" if base else f"{kind.__name__} has no {form} form"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros" and form == "binary":
        return f"padding_mode={module.padding_mode!r}, only zeros has a binary form"
    if parametrize.is_parametrized(module, "bias"):
        return f"its bias is parametrised, only the weight of a {form} layer can be"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            old = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            return f"it has torch.nn.utils.{old}; torch.nn.utils.parametrizations.{old} has a {form} form"
    if module._forward_hooks or any(not _prunes_weight(hook) for hook in module._forward_pre_hooks.values()):
        return "it has forward hooks, which would be lost"
    if isinstance(module.weight, nn.UninitializedParameter):
        return "its weights are not initialised yet"
    return ""


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module; without parametrisations, which change it."""
    return parametrize.type_before_parametrizations(module)


def _prunes_weight(hook: Callable) -> bool:
    return isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == "weight"


def binary_layer(module: nn.Module, config: BinaryConfig) -> BinaryLayer:
    """The binary form of an nn.Conv2d or nn.Linear, with the same parameters."""
    layer: BinaryLayer
    with torch.device("meta"):  # its weights, and what a domain takes from them, are about to be replaced
        if isinstance(module, nn.Conv2d):
            layer = BinaryConv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                module.groups,
                padding_value=config.padding_value,
                domain=Signs(),
            )
            channels, axis = module.in_channels, 1
        else:
            assert isinstance(module, nn.Linear)
            layer = BinaryLinear(module.in_features, module.out_features, domain=Signs())
            channels, axis = module.in_features, -1
    _take_parameters(layer, module)
    layer.domain, layer.values = config.weights, config.weights.build(module.weight)  # type: ignore[arg-type]
    layer.estimator = estimator(config.weight_estimator).to(module.weight)
    if _keep_mask(layer, module):
        layer.mask()  # raises if the domain has no value for pruned weights
    if callable(config.activations):
        layer.binarize = config.activations(channels, axis).to(module.weight)  # type: ignore[arg-type]
    elif config.activations is not None:
        layer.binarize = Binarize(
            channels if config.learn_threshold else None,
            learned=config.learn_threshold,
            domain=config.activations,
            estimator=config.activation_estimator,
            channel_axis=axis,
        ).to(module.weight)
    return layer.train(module.training)


def eight_bit_layer(module: nn.Module, config: EightBit) -> QuantizedConv2d | QuantizedLinear:
    """The 8-bit form of an nn.Conv2d or nn.Linear, with the same parameters."""
    layer: QuantizedConv2d | QuantizedLinear
    with torch.device("meta"):
        if isinstance(module, nn.Conv2d):
            layer = config.conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                padding_mode=module.padding_mode,
            )
        else:
            assert isinstance(module, nn.Linear)
            layer = config.linear(module.in_features, module.out_features)
    weight = module.weight
    assert isinstance(weight, Tensor)
    layer.quantize = config.quantizer().to(weight)
    layer.weight_quantizer = WeightQuantizer(weight, config.weights == "learned")
    _take_parameters(layer, module)
    _keep_mask(layer, module)
    return layer.train(module.training)


def _take_parameters(layer: nn.Module, module: nn.Module) -> None:
    """Makes the weights, parametrised or not, and the bias of a module those of a layer."""
    if parametrize.is_parametrized(module):
        layer.register_parameter("weight", nn.Parameter(module.weight.detach().clone()))  # type: ignore[operator]
        parametrize.register_parametrization(layer, "weight", nn.Identity())
        layer.parametrizations["weight"] = module.parametrizations["weight"]  # type: ignore[index, operator]
    else:
        pruned = "weight_mask" in module._buffers
        layer.register_parameter("weight", module._parameters["weight_orig" if pruned else "weight"])
    layer.register_parameter("bias", module._parameters["bias"])


def _keep_mask(layer: nn.Module, module: nn.Module) -> bool:
    """Prunes the layer's weights by the mask of ``torch.nn.utils.prune`` of a module; whether it has one."""
    mask = module._buffers.get("weight_mask")
    if mask is not None:
        prune.custom_from_mask(layer, "weight", mask)
    return mask is not None
