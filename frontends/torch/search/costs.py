"""What a network costs: multiply-accumulates in float, and in bits, of which 64 count as one.

References:
    OPs = FLOPs + BOPs / 64, as in Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278, and most work since.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..export import Shape, eval_mode, example_inputs
from ..layers.modules import BinaryConv2d, BinaryLayer, BinaryLinear

BITS_PER_WORD = 64
"""Binary multiply-accumulates that cost as much as a float one: those of a machine word."""

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, BinaryConv2d, BinaryLinear)
_NOT_COUNTED = (nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates for one image.

    Attributes:
        float_macs: With float weights or activations.
        binary_macs: With two-valued weights and activations.
    """

    float_macs: float
    binary_macs: float

    @property
    def ops(self) -> float:
        """Both together, in units of a float multiply-accumulate."""
        return self.float_macs + self.binary_macs / BITS_PER_WORD


@dataclass(frozen=True)
class LayerCost:
    """One layer with weights.

    Attributes:
        name: Its qualified name in the model.
        macs: Multiply-accumulates for one image, border pixels included.
        binary: Whether they are binary.
    """

    name: str
    macs: int
    binary: bool


def layer_costs(model: nn.Module, input_shape: Shape | None = None) -> tuple[LayerCost, ...]:
    """What each convolution and linear layer costs, in the order of execution.

    What has no weights, and batch norms and activations, do not count. The model runs once, in eval mode.

    Args:
        model: Left unchanged.
        input_shape: Of its input, with the batch; None takes ``model.example_input_array``.

    Raises:
        ModelError: If the input shape is unknown.
        ValueError: If a layer has no known cost (recurrent, attention, transposed).
    """
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        if isinstance(module, _NOT_COUNTED):
            raise ValueError(f"layer {name!r} is a {type(module).__name__}, whose cost is not defined here")
    inputs = example_inputs(model, input_shape)
    batch = len(inputs[0])
    macs: dict[nn.Module, int] = {}

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs[module] = macs.get(module, 0) + output.numel() // batch * weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in names if isinstance(module, _COUNTED)]
    try:
        with eval_mode(model), torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(LayerCost(names[module], number, isinstance(module, BinaryLayer)) for module, number in macs.items())


def operations(model: nn.Module, input_shape: Shape | None = None) -> Operations:
    """What a model costs.

    Args:
        model, input_shape: As of layer_costs.

    Examples:
        >>> from sbnn_tvm.frontends.torch import vgg_small
        >>> operations(vgg_small(image_size=32)).binary_macs / 1e6
        603.979776
    """
    layers = layer_costs(model, input_shape)
    return Operations(
        sum(layer.macs for layer in layers if not layer.binary), sum(layer.macs for layer in layers if layer.binary)
    )
