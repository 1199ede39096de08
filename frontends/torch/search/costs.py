"""The multiply-accumulates (MACs) and weights of a network's layers, and what a budget counts of them.

References:
    OPs = FLOPs + BOPs / 64, as in Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278, and most work since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..export import Shape, eval_mode, example_inputs
from ..layers.modules import BinaryConv2d, BinaryLayer, BinaryLinear


@dataclass(frozen=True)
class Measure:
    """What a budget counts: the cost of a network is the sum over its layers.

    Attributes:
        of: What is counted of a layer: its multiply-accumulates or its weights.
        binary: What a binary one costs, where one in float costs 1.
    """

    of: Literal["macs", "weights"]
    binary: float


MEASURES = {
    "operations": Measure("macs", 1 / 64),  # a machine word holds 64 bits
    "flops": Measure("macs", 0),
    "weights": Measure("weights", 0),
    "bytes": Measure("weights", 1 / 32),  # a float32 weight has 32 bits
}
"""The measures by name: OPs = FLOPs + BOPs / 64; the MACs in float; the weights in float; the size of all weights."""

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, BinaryConv2d, BinaryLinear)
_NOT_COUNTED = (nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer with weights.

    Attributes:
        name: Its qualified name in the model.
        macs: Multiply-accumulates for one image, border pixels included.
        weights: The number of its weights, without a bias.
        binary: Whether they are binary.
    """

    name: str
    macs: int
    weights: int
    binary: bool


def layer_costs(model: nn.Module, input_shape: Shape | None = None) -> tuple[LayerCost, ...]:
    """The cost of each convolution and linear layer, in the order of execution.

    Operations without weights, batch norms and activations do not count. The model runs once, in eval mode.

    Args:
        model: Left unchanged.
        input_shape: Shape of its input, with the batch; None uses ``model.example_input_array``.

    Raises:
        ModelError: If the input shape is unknown.
        ArgumentError: If a layer has no known cost (recurrent, attention, transposed).
    """
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        if isinstance(module, _NOT_COUNTED):
            raise ArgumentError(f"layer {name!r} is a {type(module).__name__}, whose cost is not defined here")
    inputs = example_inputs(model, input_shape)
    batch = len(inputs[0])
    costs: dict[nn.Module, LayerCost] = {}

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        before = costs[module].macs if module in costs else 0
        macs = before + output.numel() // batch * weight[0].numel()
        costs[module] = LayerCost(names[module], macs, weight.numel(), isinstance(module, BinaryLayer))

    hooks = [module.register_forward_hook(count) for module in names if isinstance(module, _COUNTED)]
    try:
        with eval_mode(model), torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(costs.values())
