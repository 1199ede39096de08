"""The constant weights of convolutions and dense layers, and whether they take two values per output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr

from .graph import constant, op_name


@dataclass(frozen=True, eq=False)
class BinaryWeight:
    """Weights of two values a channel: ``tau * signs + phi``.

    Attributes:
        signs: float32 of -1 and +1, in the shape of the weights, output channels first.
        tau: float32 [out channels].
        phi: float32 [out channels].
    """

    signs: np.ndarray
    tau: np.ndarray
    phi: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> BinaryWeight | None:
        """Read weights [out channels, ...]; None if a channel takes more than two values, or one that is not finite."""
        if not np.isfinite(weight).all():
            return None
        flat = weight.reshape(len(weight), -1)
        lo, hi = flat.min(axis=1), flat.max(axis=1)
        if not np.all((flat == lo[:, None]) | (flat == hi[:, None])):
            return None
        # A channel of one value a is a * (+1) or -a * (-1); a zero channel has tau = 0.
        single = lo == hi
        bits = np.where(single[:, None], flat > 0, flat == hi[:, None])
        tau = np.where(single, np.abs(hi), (hi.astype(np.float64) - lo) / 2).astype(np.float32)
        phi = np.where(single, 0, (hi.astype(np.float64) + lo) / 2).astype(np.float32)
        signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(weight.shape)
        return cls(signs, tau, phi)

    @staticmethod
    def telling(weight: np.ndarray) -> bool:
        """Whether weights [out channels, ...] are two-valued on purpose: two weights a channel always are."""
        return weight[0].size > 2 and BinaryWeight.of(weight) is not None

    @property
    def plain(self) -> bool:
        """Whether the weights are -1 and +1 themselves."""
        return bool(np.all(self.tau == 1) and not self.phi.any())


def linear_weight(call: Expr) -> np.ndarray | None:
    """The constant weights of a convolution or dense layer, output channels first; None for any other call."""
    name = op_name(call)
    if name == "nn.conv2d":
        return constant(call.args[1])
    if name == "matmul":
        weight = constant(call.args[1])
        return None if weight is None or weight.ndim != 2 else np.ascontiguousarray(weight.T)
    return None


def is_window_sum(call: Expr) -> bool:
    """Whether a linear call only sums its windows: one output channel, all weights 1."""
    weight = linear_weight(call)
    return weight is not None and len(weight) == 1 and all_ones(weight)


def all_ones(weight: np.ndarray | None) -> bool:
    """Whether constant weights are all 1."""
    return weight is not None and bool(np.all(weight == 1))
