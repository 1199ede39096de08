"""BinReLU: one activation for the float and the binary layers of a network.

A ReLU suits float layers, but a binary layer behind it gets no gradient from negative inputs. A hardtanh suits binary
layers, but saturates in float ones. MixBin's abstract says that BinReLU suits networks of which no layer, some layers
or all layers are binary. The paper's text was not available, so the formula here is this project's.

References:
    Bamba, Anand, Aggarwal, Prasad, Gupta, "MixBin: Towards Budgeted Binarization", arXiv 2211.06739, version 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError


class BinReLU(nn.Module):
    """``y = max(x, -|floor|)``, a ReLU with a learned floor per channel.

    Before a float layer it is a shifted ReLU. The floor is never above 0, so y > 0 exactly where x > 0: before a layer
    that binarises at 0, the activation shapes the gradient, and the compiled model does not compute it.

    Args:
        channels: Size of axis 1 of ``x``.
        floor: The initial distance of the floors from 0. At 1, the gradient reaches as far as that of a clipped sign.

    Shapes:
        float32 [N, channels, ...] to the same.

    Raises:
        ArgumentError: If ``channels`` is below 1, or ``floor`` below 0.

    Examples:
        >>> BinReLU(1)(torch.tensor([[-2.0], [-0.5], [2.0]])).flatten()
        tensor([-1.0000, -0.5000,  2.0000], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, floor: float = 1.0) -> None:
        super().__init__()
        if channels < 1:
            raise ArgumentError(f"channels must be 1 or more, but got {channels}")
        if not floor >= 0:
            raise ArgumentError(f"floor is the distance of the floors from 0, so 0 or more, but got {floor}")
        self.floor = nn.Parameter(torch.full((channels,), float(floor)))

    def forward(self, x: Tensor) -> Tensor:
        """Activates x."""
        return torch.maximum(x, -self.floor.abs().reshape(-1, *[1] * (x.ndim - 2)))

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{len(self.floor)}"
