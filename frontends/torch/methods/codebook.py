"""Weights of less than one bit: every kernel is one of a few learned patterns.

A layer has a codebook of 2^t patterns of kh * kw signs. Each latent kernel is replaced by the pattern nearest to it. A
file stores the codebook and t bits per kernel, which is t / 9 bits per weight for 3x3 kernels. The computation is an
ordinary binary convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, Identity, binarize

_BOUND = 3.0  # largest magnitude of latent patterns


@dataclass(frozen=True)
class SubBit:
    """Weights are -a and +a, with one scale `a` per channel as in ScaledSigns, in kernels from a learned codebook.

    The latent weights get the gradient of the layer's estimator, as if their own signs were used. In one of ``every``
    training passes the patterns get a gradient too, from the kernels that use them. In the same pass, a pattern whose
    signs equal those of an earlier one is drawn anew.

    Attributes:
        index_bits: t; less than the number of weights per kernel.
        every: One of this many forward passes in training mode trains the codebook.

    Raises:
        ArgumentError: If a number is out of range; in ``build``, if the layer's kernels are too small.

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
            raise ArgumentError(
                f"SubBit takes index_bits and every of 1 or more, but got {self.index_bits} and {self.every}"
            )

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter [2^t, kh * kw], the patterns."""
        taps = weight[0, 0].numel() if weight.ndim == 4 else 1
        if self.index_bits >= taps:
            raise ArgumentError(
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
        # All patterns of signs have the same norm, so the nearest one has the largest inner product.
        signs = codebook[(kernels @ codebook.detach().T).argmax(dim=1)].reshape(weight.shape)
        own = binarize(weight, 0.0, SIGN, estimator)
        return (signs if learn else signs.detach()) + (own - own.detach())  # adds an exact 0

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        return weight.detach().abs().flatten(1).mean(1), None

    def _tidy(self) -> None:
        """Clamps the patterns, and draws those anew whose signs equal an earlier pattern's."""
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
    """Draws ``count`` different patterns, as numbers, that are not in ``taken``, bool [n, taps]."""
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
