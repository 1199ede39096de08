"""Replaces the convolutions and linear layers of a float model by binary ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import ScaledSigns, Signs, WeightDomain
from ..layers.estimators import Estimator, estimator
from ..layers.modules import Binarize, BinaryConv2d, BinaryLayer, BinaryLinear

FIRST = "<first>"
LAST = "<last>"

Activations = Callable[[int, int], nn.Module]
"""Makes the module that binarises or quantises a layer's input, from its number of channels and their axis."""

Skip = Collection[str] | Callable[[str, nn.Module], bool]

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
    """

    weights: WeightDomain = field(default_factory=ScaledSigns)
    weight_estimator: str | Estimator = "clip"
    activations: BinaryDomain | Activations | None = SIGN
    activation_estimator: str | Estimator = "polynomial"
    learn_threshold: bool = False
    padding_value: int = 0


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
    """

    converted: tuple[LayerNote, ...]
    kept: tuple[LayerNote, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} layers binary, {len(self.kept)} float"]
        width = max((len(note.name) for note in self.converted + self.kept), default=0)
        lines += [f"  {note.name:{width}}  {note.kind} -> binary" for note in self.converted]
        lines += [f"  {note.name:{width}}  {note.kind} stays float: {note.reason}" for note in self.kept]
        return "\n".join(lines)


def binarize_(model: nn.Module, config: BinaryConfig = BinaryConfig(), skip: Skip = (FIRST, LAST)) -> Conversion:
    """Replaces nn.Conv2d and nn.Linear layers of a model by binary ones, in place.

    A converted layer binarises its input. It keeps the float weights (the same parameters) as latent weights, and its
    bias. Weights that ``torch.nn.utils.prune`` masks stay masked; the module ``domains`` describes which value they
    take. Parametrisations of the weights (``torch.nn.utils.parametrizations.weight_norm``, ``spectral_norm`` and
    others) become those of the latent weights. By default the first and the last linear layer, in the order in which
    the model registers them, stay float, as in nearly all published binary networks.

    Args:
        model: Changed in place. Optimisers that were made for it before miss new parameters of the config, if any.
        config: How to convert.
        skip: The layers that stay float: qualified names or patterns (``"layer*.downsample.*"``), where ``FIRST`` and
            ``LAST`` mean the first and the last linear layer; or a function of (name, module). An explicit ``skip``
            replaces the default: pass ``(FIRST, LAST, ...)`` to add to it.

    Returns:
        The converted layers, and the others with the reason. A warning names the layers that stay float without being
        skipped, and so does the report of the compiled model.

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
    reason_to_skip = _skip_rule(skip, layers)
    converted: list[LayerNote] = []
    kept: list[LayerNote] = []
    refused: list[str] = []
    replacements: dict[nn.Module, BinaryLayer] = {}
    for name, module in layers:
        kind = _kind(module).__name__
        if reason := reason_to_skip(name, module):
            kept.append(LayerNote(name, kind, reason))
        elif reason := obstacle(module):
            kept.append(LayerNote(name, kind, reason))
            refused.append(f"{name!r} stays float: {reason}")
            module.stays_float = refused[-1]  # type: ignore[assignment]  # for the report of its compilation
        elif not name:
            raise ArgumentError(f"the model itself is a {kind}; put it into an nn.Sequential to convert it in place")
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
    return Conversion(tuple(converted), tuple(kept))


def _skip_rule(skip: Skip, layers: Sequence[tuple[str, nn.Module]]) -> Callable[[str, nn.Module], str]:
    """A function that returns why a layer is skipped; empty if it is not."""
    if callable(skip):
        return lambda name, module: "skipped by the given function" if skip(name, module) else ""
    if isinstance(skip, str):
        raise ArgumentError(f"skip is a collection of names, but got the string {skip!r}; write ({skip!r},)")
    names = [name for name, _ in layers]
    for pattern in skip:
        if layers and pattern not in (FIRST, LAST) and not any(fnmatchcase(name, pattern) for name in names):
            raise ArgumentError(f"skip={pattern!r} fits no linear layer of the model; they are {', '.join(names)}")

    def reason(name: str, module: nn.Module) -> str:
        if FIRST in skip and name == names[0]:
            return "skipped, the first linear layer"
        if LAST in skip and name == names[-1]:
            return "skipped, the last linear layer"
        found = [pattern for pattern in skip if fnmatchcase(name, pattern)]
        return f"skipped by {found[0]!r}" if found else ""

    return reason


def obstacle(module: nn.Module) -> str:
    """The reason why a layer cannot be converted; empty if it can."""
    kind = _kind(module)
    if kind is not nn.Conv2d and kind is not nn.Linear:
        base = next((base for base in (nn.Conv2d, nn.Linear) if isinstance(module, base)), None)
        return f"a subclass of {base.__name__} with code of its own" if base else f"{kind.__name__} has no binary form"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r}, only zeros has a binary form"
    if parametrize.is_parametrized(module, "bias"):
        return "its bias is parametrised, only the weight of a binary layer can be"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            old = "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
            return f"it has torch.nn.utils.{old}; torch.nn.utils.parametrizations.{old} has a binary form"
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
    pruned = "weight_mask" in module._buffers
    if parametrize.is_parametrized(module):
        layer.register_parameter("weight", nn.Parameter(module.weight.detach().clone()))  # type: ignore[operator]
        parametrize.register_parametrization(layer, "weight", nn.Identity())
        layer.parametrizations["weight"] = module.parametrizations["weight"]  # type: ignore[index, operator]
    else:
        layer.register_parameter("weight", module._parameters["weight_orig" if pruned else "weight"])
    layer.register_parameter("bias", module._parameters["bias"])
    layer.domain, layer.values = config.weights, config.weights.build(module.weight)  # type: ignore[arg-type]
    layer.estimator = estimator(config.weight_estimator).to(module.weight)
    if pruned:
        prune.custom_from_mask(layer, "weight", module._buffers["weight_mask"])
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
