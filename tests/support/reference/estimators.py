"""The gradients of straight-through estimators."""

from __future__ import annotations

from collections.abc import Callable

import torch

SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda u: torch.ones_like(u),
    "clip": lambda u: (u.abs() <= 1).float(),
    "polynomial": lambda u: torch.where(u.abs() < 1, 2 - 2 * u.abs(), 0),
    "ede": lambda u: 10 * 0.1 * (1 - torch.tanh(0.1 * u) ** 2),
}
"""The derivative that each estimator takes for that of the sign, at u = x - threshold; ``ede`` before any progress."""
