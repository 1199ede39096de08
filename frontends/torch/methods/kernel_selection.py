"""Sparse kernel selection: a layer learns which 2^t of all binary kernels it uses, none of them twice.

A 3x3 kernel of signs is one of 512. The layer has a score for each of 2^t places and each of the 512 kernels. A place
takes one kernel, no two places the same, so that the sum of scores is largest. Files, libraries and the computation are
the same as with ``SubBit``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator
from ..layers.training_state import RandomDraws, Scheduled
from .assignment import best_assignment, sinkhorn
from .codebook import kernel_size, nearest_kernels

_MOST_TAPS = 9


@dataclass(frozen=True)
class SelectedKernels:
    """Weights are -a and +a, one scale `a` per channel as in ScaledSigns, in kernels out of 2^t selected binary ones.

    With X the scores, e Gumbel noise, S Sinkhorn's iteration and B the 512 kernels as rows of signs::

        (1)  P = best_assignment(X + e)          a place per row: 0 but for a 1 in a column of its own
        (2)  codebook = P B                      each latent kernel is replaced by the row nearest to it
        (3)  dL/dX = that of S((X + e) / T) in place of P       the permutation straight-through estimator

    The temperature T falls and the noise fades with the progress of the training, see ``set_progress``: at the end, and
    in eval mode, the kernels with the best scores are used. Latent weights get the gradient of the layer's estimator,
    as if their own signs were used. At first the most frequent kernels of the latent weights are selected. All ranks of
    a distributed training draw the same noise, and so does a resumed one.

    Attributes:
        index_bits: t; less than the number of weights per kernel, which is at most 9.
        temperature: T at the beginning and at the end of the training; between them it falls by a constant factor.
        noise: The factor of standard Gumbel noise at the beginning; it falls linearly to 0.
        iterations: Of Sinkhorn's iteration.

    Raises:
        ArgumentError: If a number is out of range; in ``build``, if the layer's kernels are too small or too large.

    References:
        Wang et al., "Compacting Binary Neural Networks by Sparse Kernel Selection", CVPR 2023, arXiv 2303.14470. From
        its abstract: the selection out of all binary kernels without repetition, Gumbel-Sinkhorn, and the permutation
        straight-through estimator. The rest of the text was not available: one codebook per layer, the first scores,
        the schedules and the default numbers are this project's.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryConv2d
        >>> layer = BinaryConv2d(16, 16, 3, domain=SelectedKernels(4))
        >>> len(layer.values.selected().unique())
        16
    """

    index_bits: int = 4
    temperature: tuple[float, float] = (1.0, 0.1)
    noise: float = 0.1
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.index_bits < 1 or self.iterations < 1:
            raise ArgumentError(
                f"SelectedKernels takes index_bits and iterations of 1 or more, "
                f"but got {self.index_bits} and {self.iterations}"
            )
        first, last = self.temperature
        if not (first >= last > 0 and self.noise >= 0):
            raise ArgumentError(
                f"SelectedKernels takes two temperatures above 0, the second not above the first, and noise from 0, "
                f"but got temperature={self.temperature}, noise={self.noise}"
            )

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter [2^t, 2^(kh * kw)], the scores."""
        taps = kernel_size(weight, self.index_bits, self)
        if taps > _MOST_TAPS:
            raise ArgumentError(
                f"SelectedKernels takes kernels of at most {_MOST_TAPS} weights, but the layer's have {taps}: "
                f"use SubBit({self.index_bits})"
            )
        return KernelSelection(self, weight.detach(), taps)


class KernelSelection(WeightValues, Scheduled):
    """The scores.

    Attributes:
        scores: A parameter, X [2^t, 2^(kh * kw)]; column j stands for the kernel whose sign i is +1 if bit i of j is 1.
    """

    kernels: Tensor

    def __init__(self, domain: SelectedKernels, weight: Tensor, taps: int) -> None:
        super().__init__()
        self.domain = domain
        self.draws = RandomDraws()
        bits = 1 << torch.arange(taps, device=weight.device)
        numbers = torch.arange(1 << taps, device=weight.device)[:, None]
        self.register_buffer("kernels", ((numbers & bits) > 0).to(weight.dtype) * 2 - 1, persistent=False)
        signs = ((weight.reshape(-1, taps) > 0) * bits).sum(1)
        frequency = torch.zeros_like(numbers[:, 0]).index_add_(0, signs, torch.ones_like(signs))
        places = 1 << domain.index_bits
        scores = weight.new_zeros(places, 1 << taps)
        frequent = frequency.argsort(descending=True, stable=True)[:places, None]
        self.scores = nn.Parameter(scores.scatter_(1, frequent, 1.0))

    def selected(self) -> Tensor:
        """The number of the kernel at each place, all different: int64 [2^t]."""
        return best_assignment(self.scores)

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """Each kernel is the nearest one of those selected."""
        if not self.training:
            return nearest_kernels(weight, self.kernels[self.selected()], estimator, learn=False)
        noisy = self.scores + self._noise()
        plan = sinkhorn(noisy / self._temperature(), self.domain.iterations)
        selected = torch.zeros_like(plan).scatter_(1, best_assignment(noisy)[:, None], 1.0)
        codebook = (selected + (plan - plan.detach())) @ self.kernels  # adds an exact 0
        return nearest_kernels(weight, codebook, estimator, learn=True)

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """The mean magnitude of each channel, without a gradient; no offset."""
        return weight.detach().abs().flatten(1).mean(1), None

    def _temperature(self) -> Tensor:
        first, last = self.domain.temperature
        return first * (last / first) ** self.progress

    def _noise(self) -> Tensor:
        exponential = torch.empty(self.scores.shape, device="cpu").exponential_(generator=self.draws.generator())
        return (self.domain.noise * (1 - self.progress)) * -exponential.log().to(self.scores)

    def extra_repr(self) -> str:
        """The number of places and kernels."""
        return f"{self.scores.shape[0]} of {self.scores.shape[1]} kernels"
