"""Operations of a whole network, as papers count them: to compare with published numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sbnn_tvm.frontends.torch.search.costs import MEASURES, layer_costs


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates for one image, those with two-valued weights and activations counted apart."""

    float_macs: float
    binary_macs: float

    @property
    def ops(self) -> float:
        """The sum, in units of a float multiply-accumulate."""
        return self.float_macs + self.binary_macs * MEASURES["operations"].binary


def operations(model: nn.Module) -> Operations:
    """Counts the operations of a model that has an ``example_input_array``."""
    layers = layer_costs(model)
    return Operations(
        sum(layer.macs for layer in layers if not layer.binary), sum(layer.macs for layer in layers if layer.binary)
    )
