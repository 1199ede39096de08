"""Read the constant weights of convolutions and dense layers; find those with two values per output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr

from .graph import constant, op_name


@dataclass(frozen=True, eq=False)
class BinaryWeight:
    """Weights with at most two values per output channel, as ``tau * signs + phi``.

    For example, a channel with the values {-0.1, 0.3} has tau = 0.2 and phi = 0.1.

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
        """Decompose weights [OC, ...]; None if a channel has more than two values, or any that is not finite."""
        if not np.isfinite(weight).all():
            return None
        flat = weight.reshape(len(weight), -1)
        lo, hi = flat.min(axis=1), flat.max(axis=1)
        if not np.all((flat == lo[:, None]) | (flat == hi[:, None])):
            return None
        # A channel with a single value a is |a| * (+1) or |a| * (-1), phi = 0; a zero channel has tau = 0.
        single = lo == hi
        bits = np.where(single[:, None], flat > 0, flat == hi[:, None])
        tau = np.where(single, np.abs(hi), (hi.astype(np.float64) - lo) / 2).astype(np.float32)
        phi = np.where(single, 0, (hi.astype(np.float64) + lo) / 2).astype(np.float32)
        signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(weight.shape)
        return cls(signs, tau, phi)

    @staticmethod
    def telling(weight: np.ndarray) -> bool:
        """Whether weights [out channels, ...] have two values per channel, and more than two weights per channel.

        One or two weights per channel always have at most two values, which says nothing about the network.
        """
        return weight[0].size > 2 and BinaryWeight.of(weight) is not None

    @property
    def plain(self) -> bool:
        """Whether the weights are -1 and +1 already: tau = 1 and phi = 0 in every channel."""
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
    """Whether a linear call only sums its input over each window: one output channel, all weights 1."""
    weight = linear_weight(call)
    return weight is not None and len(weight) == 1 and all_ones(weight)


def all_ones(weight: np.ndarray | None) -> bool:
    """Whether constant weights are all 1."""
    return weight is not None and bool(np.all(weight == 1))
