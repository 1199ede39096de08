"""A mixture of a float layer and its binary form, for searches that move gradually from one to the other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..convert.replace_layers import BinaryConfig, binary_layer


class MixedLayer(nn.Module):
    """``y = m * binary(x) + (1 - m) * float(x)`` with ``m = sigmoid(crispness * z)`` and a trained z.

    Args:
        layer: The float layer, nn.Conv2d or nn.Linear; it becomes the float part.
        config: How to make the binary part, which starts from a copy of the same weights.

    Attributes:
        z: The trained parameter, a scalar; it starts at 0, which gives m = 1/2.
        crispness: The larger it is, the closer m is to 0 or 1; set it from outside.

    Shapes:
        Same as those of the layer.
    """

    def __init__(self, layer: nn.Module, config: BinaryConfig = BinaryConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.float_part = layer
        self.binary_part = binary_layer(copy.deepcopy(layer), config)
        self.z = nn.Parameter(torch.zeros(()))
        self.crispness = 1.0

    def share(self) -> Tensor:
        """The share m of the binary part, a scalar from 0 to 1."""
        return torch.sigmoid(self.crispness * self.z)

    def forward(self, x: Tensor) -> Tensor:
        """The mixture of both parts."""
        m = self.share()
        return m * self.binary_part(x) + (1 - m) * self.float_part(x)


def mixed_layers(model: nn.Module) -> dict[str, MixedLayer]:
    """The mixtures of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixedLayer)}
