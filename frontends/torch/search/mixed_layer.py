"""A layer between float and binary, for searches that move from one to the other gradually."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..convert.replace_layers import BinaryConfig, binary_layer


class MixedLayer(nn.Module):
    """``y = m * binary(x) + (1 - m) * float(x)`` with ``m = sigmoid(crispness * z)`` and a trained z.

    Args:
        layer: The float layer, nn.Conv2d or nn.Linear; it becomes the float part.
        config: What the binary part is; it starts from a copy of the same weights.

    Attributes:
        z: The parameter behind the mixture, a scalar; it starts at 0, which is half and half.
        crispness: What makes the mixture a choice as it grows; set it from outside.

    Shapes:
        As of the layer.
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
        """Both parts, mixed."""
        m = self.share()
        return m * self.binary_part(x) + (1 - m) * self.float_part(x)
