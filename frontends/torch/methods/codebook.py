"""Weights of less than one bit: every kernel is one of a few learned patterns.

A layer has a codebook of 2^t patterns of kh * kw signs. Each latent kernel is replaced by the pattern nearest to it. A
file stores the codebook and t bits per kernel, which is t / 9 bits per weight for 3x3 kernels. The computation is an
ordinary binary convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, binarize
from ..layers.training_state import RandomDraws, TrainingState

_BOUND = 3.0  # largest magnitude of latent patterns
_HYSTERESIS = 1e-3  # a latent pattern nearer to 0 than this keeps its sign


@dataclass(frozen=True)
class SubBit:
    """Weights are -a and +a, with one scale `a` per channel as in ScaledSigns, in kernels from a learned codebook.

    The latent weights get the gradient of the layer's estimator, as if their own signs were used. In every 25th
    training pass (``every``) the patterns get a gradient too, from the kernels that use them; in the other passes it is
    0, so that an optimiser with momentum still moves them. Before such a pass, a pattern whose signs equal those of an
    earlier one is drawn anew. The sign of a latent pattern changes only where its magnitude is 1e-3 or more.

    The number of passes and the state of the draws are in the state dict. So a resumed training continues as if it had
    not stopped, and the ranks of a distributed training have the same patterns.

    Attributes:
        index_bits: t; less than the number of weights per kernel.
        every: One of this many forward passes in training mode trains the codebook, the last one first.

    Raises:
        ArgumentError: If a number is out of range; in ``build``, if the layer's kernels are too small.

    References:
        Wang et al., "Sub-bit Neural Networks: Learning to Compress and Accelerate Binary Neural Networks", ICCV 2021,
        arXiv 2110.09195.

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
        return SubBitValues(self, kernel_size(weight, self.index_bits, self)).to(weight)


def kernel_size(weight: Tensor, index_bits: int, domain: Any) -> int:
    """The number of weights of a kernel, kh * kw.

    Raises:
        ArgumentError: If not even ``index_bits`` bits per kernel are less than its weights.
    """
    taps = weight[0, 0].numel() if weight.ndim == 4 else 1
    if index_bits >= taps:
        raise ArgumentError(
            f"{type(domain).__name__}(index_bits={index_bits}) needs kernels of more than {index_bits} weights, "
            f"but the layer's have {taps}: take fewer bits, or ScaledSigns()"
        )
    return taps


class SubBitValues(TrainingState, WeightValues):
    """The codebook.

    Attributes:
        patterns: The latent patterns, a parameter [2^t, kh * kw].
        memory: Whether the signs of the patterns are +1, as the latest training pass had them: bool.
        passes: The number of training passes, int64.
    """

    memory: Tensor
    passes: Tensor

    def __init__(self, domain: SubBit, taps: int) -> None:
        super().__init__()
        self.domain = domain
        self.draws = RandomDraws()
        memory = _drawn(1 << domain.index_bits, torch.empty(0, taps, dtype=torch.bool), self.draws)
        self.patterns = nn.Parameter(memory.float() * 2 - 1)
        self.register_buffer("memory", memory)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def codebook(self) -> Tensor:
        """The patterns' signs: bool [2^t, kh * kw]."""
        patterns = self.patterns.detach()
        return torch.where(patterns.abs() >= _HYSTERESIS, patterns > 0, self.memory)

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """Each kernel is the nearest pattern."""
        learn = self._begin_pass() if self.training else False
        codebook = torch.where(self.codebook(), 1.0, -1.0).to(weight.dtype)
        codebook = codebook + (self.patterns - self.patterns.detach())  # adds an exact 0
        return nearest_kernels(weight, codebook, estimator, learn)

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """The mean magnitude of each channel, without a gradient; no offset."""
        return weight.detach().abs().flatten(1).mean(1), None

    def _begin_pass(self) -> bool:
        """Counts a training pass; returns whether it trains the codebook."""
        self.passes += 1
        learn = int(self.passes) % self.domain.every == 0
        with torch.no_grad():
            if learn:
                self.patterns.clamp_(-_BOUND, _BOUND)
                self._draw_equal_ones_anew()
            self.memory.copy_(self.codebook())
        return learn

    def _draw_equal_ones_anew(self) -> None:
        signs = self.codebook()
        equal = (signs[:, None] == signs).all(2).tril(-1).any(1)  # to an earlier one
        if equal.any():
            drawn = _drawn(int(equal.sum()), signs[~equal].cpu(), self.draws)
            self.patterns[equal] = (drawn.float() * 2 - 1).to(self.patterns)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        patterns = state_dict.get(f"{prefix}patterns")
        if patterns is not None:
            state_dict.setdefault(f"{prefix}memory", patterns > 0)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The number of patterns."""
        return f"{len(self.patterns)} patterns"


def nearest_kernels(weight: Tensor, codebook: Tensor, estimator: Estimator, learn: bool) -> Tensor:
    """Latent weights with each kernel replaced by the nearest row of a codebook of signs, [rows, kh * kw].

    The codebook gets the gradients of the kernels that use it, or 0 without ``learn``. Latent weights get the
    estimator's gradient, as if their own signs were used.
    """
    kernels = weight.detach().reshape(-1, codebook.shape[1])
    # All patterns of signs have the same norm, so the nearest one has the largest inner product.
    nearest = (kernels @ codebook.detach().T).argmax(dim=1)
    own = binarize(weight, 0.0, SIGN, estimator)
    return _Rows.apply(codebook, nearest, learn).reshape(weight.shape) + (own - own.detach())  # adds an exact 0


class _Rows(torch.autograd.Function):
    """The given rows of a matrix; without ``learn`` its gradient is 0."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rows: Tensor, learn: bool) -> Tensor:
        ctx.learn, ctx.shape = learn, matrix.shape
        ctx.save_for_backward(rows)
        return matrix[rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,), (grad,) = ctx.saved_tensors, grads
        total = grad.new_zeros(ctx.shape)
        return total.index_add_(0, rows, grad) if ctx.learn else total, None, None


def _drawn(count: int, taken: Tensor, draws: RandomDraws) -> Tensor:
    """Draws ``count`` different patterns that are not in ``taken``, bool [n, taps]: bool [count, taps]."""
    generator, taps = draws.generator(), taken.shape[1]
    patterns = dict.fromkeys(tuple(row) for row in taken.tolist())
    while len(patterns) < len(taken) + count:
        patterns.setdefault(tuple(torch.randint(2, (taps,), generator=generator, device="cpu").bool().tolist()))
    return torch.tensor(list(patterns)[len(taken) :], device="cpu").reshape(count, taps)
