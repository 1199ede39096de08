"""Weights of less than a bit: every kernel is one of few, which are learned.

A layer has a codebook of 2^t patterns of kh * kw signs; each latent kernel stands for the pattern nearest to it. What
is stored are t bits a kernel and the codebook, t / 9 of a bit a weight for 3x3 kernels; what is computed is the same
binary convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, Identity, binarize

_BOUND = 3.0  # of latent patterns


@dataclass(frozen=True)
class SubBit:
    """Weights are -a and +a, one a per channel as of ScaledSigns, in kernels out of a learned codebook.

    The latent weights' gradient is that of the layer's estimator, as if their own signs were used; every so many
    forward passes of training the patterns get theirs, through the kernels that stand for them. Patterns that became
    equal are drawn anew then.

    Attributes:
        index_bits: t; fewer than a kernel has weights.
        every: Forward passes of training from one that trains the codebook to the next.

    Raises:
        ValueError: If a number is out of range; when it is built, if the layer has no kernels that large.

    References:
        Wang et al., "Sub-bit Neural Networks: Learning to Compress and Accelerate Binary Neural Networks", ICCV 2021,
        arXiv 2110.09195. Its memory of the signs of patterns near 0 is left out.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryConv2d
        >>> layer = BinaryConv2d(16, 16, 3, domain=SubBit(4))
        >>> len(layer.signs().reshape(-1, 9).unique(dim=0)) <= 16
        True
    """

    index_bits: int = 4
    every: int = 25

    def __post_init__(self) -> None:
        if self.index_bits < 1 or self.every < 1:
            raise ValueError(f"SubBit takes index_bits and every from 1 on, but got {self.index_bits} and {self.every}")

    def build(self, weight: Tensor) -> WeightValues:
        """One parameter [2^t, kh * kw], the patterns."""
        taps = weight[0, 0].numel() if weight.ndim == 4 else 1
        if self.index_bits >= taps:
            raise ValueError(
                f"SubBit(index_bits={self.index_bits}) needs kernels of more than {self.index_bits} weights, "
                f"but the layer's have {taps}: take fewer bits, or ScaledSigns()"
            )
        return _SubBitValues(self, taps)


class _SubBitValues(WeightValues):
    def __init__(self, domain: SubBit, taps: int) -> None:
        super().__init__()
        self.domain = domain
        self.patterns = nn.Parameter(_signs_of(_draw(1 << domain.index_bits, taps, torch.empty(0, taps)), taps))
        self._passes = 0

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        learn = self.training and self._passes % self.domain.every == 0
        self._passes += self.training
        if learn:
            self._tidy()
        codebook = binarize(self.patterns, 0.0, SIGN, Identity())
        kernels = weight.detach().reshape(-1, codebook.shape[1])
        # Patterns of signs are equally long: the nearest one has the largest product.
        signs = codebook[(kernels @ codebook.detach().T).argmax(dim=1)].reshape(weight.shape)
        own = binarize(weight, 0.0, SIGN, estimator)
        return (signs if learn else signs.detach()) + (own - own.detach())  # adds an exact 0

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        return weight.detach().abs().flatten(1).mean(1), None

    def _tidy(self) -> None:
        """Bound the patterns, and draw those anew that equal an earlier one."""
        with torch.no_grad():
            patterns = self.patterns.clamp_(-_BOUND, _BOUND)
            signs = patterns > 0
            distinct, which = signs.unique(dim=0, return_inverse=True)
            first = torch.stack([(which == i).nonzero()[0, 0] for i in range(len(distinct))])
            again = torch.ones(len(patterns), dtype=torch.bool, device=patterns.device)
            again[first] = False
            if again.any():
                drawn = _draw(int(again.sum()), patterns.shape[1], distinct.cpu())
                patterns[again] = _signs_of(drawn, patterns.shape[1]).to(patterns)


def _draw(count: int, taps: int, taken: Tensor) -> list[int]:
    """Numbers of ``count`` different patterns that are none of ``taken``, bool [n, taps]."""
    used = {sum(1 << i for i, bit in enumerate(row) if bit) for row in taken.tolist()}
    drawn: list[int] = []
    while len(drawn) < count:
        number = int(sum(1 << i for i in range(taps) if torch.rand(()) < 0.5))
        if number not in used:
            used.add(number)
            drawn.append(number)
    return drawn


def _signs_of(numbers: list[int], taps: int) -> Tensor:
    """float32 [n, taps] of -1 and +1."""
    return torch.tensor([[1.0 if number >> i & 1 else -1.0 for i in range(taps)] for number in numbers])
