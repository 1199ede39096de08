"""The convolution of a binary layer, whose sums are exact and whose gradients cost those of one float convolution.

The forward pass has the operations of the ai.sbnn operators in the same order::

    (1)  y = conv(x, S) * scale + conv(x, ones) * offset + conv(x, R)

All three are convolutions of x, so y is the convolution of x with ``W = scale * S + offset + R``, but for rounding. The
backward pass takes the gradients of *that* convolution, and derives all others from dL/dW, which is small::

    (2)  dL/dS = dL/dW * scale,  dL/dscale = sum dL/dW * S,  dL/doffset = sum dL/dW,  dL/dR = dL/dW
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .precision import without_autocast

_conv_backward = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Window:
    """How the filters move over the input: what nn.Conv2d calls stride, padding (with zeros), dilation and groups."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolve(
    x: Tensor, signs: Tensor, scale: Tensor, offset: Tensor | None, residual: Tensor | None, window: Window
) -> Tensor:
    """Equation (1), with the gradients of (2).

    Args:
        x: float32 [N, C, H, W].
        signs: S, or other integers; float32 [OC, C / groups, kh, kw].
        scale: float32 [OC].
        offset: float32 [OC]; None for 0.
        residual: R, of the shape of ``signs``; None for 0.
        window: Stride, padding, dilation and groups.

    Returns:
        float32 [N, OC, H', W'].
    """
    return _Convolve.apply(x, signs, scale, offset, residual, window)


class _Convolve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, signs: Tensor, scale: Tensor, offset: Tensor | None, residual: Tensor | None, window: Window
    ) -> Tensor:
        y = _exact_conv2d(x, signs, window) * _column(scale, 3)
        if offset is not None:
            totals = _totals(x, signs, window)  # [N, groups, H', W']: the output channels of a group share them
            if window.groups > 1:
                totals = totals.repeat_interleave(len(signs) // window.groups, 1)
            y = y + totals * _column(offset, 3)
        return y if residual is None else y + _exact_conv2d(x, residual, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.window = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, signs, scale, offset, residual = ctx.saved_tensors
        window: Window = ctx.window
        to_x, to_signs, to_scale, to_offset, to_residual, _ = ctx.needs_input_grad
        weight = signs * _column(scale, 4)
        if offset is not None:
            weight = weight + _column(offset, 4)
        if residual is not None:
            weight = weight + residual
        to_weight = to_signs or to_scale or to_offset or to_residual
        with without_autocast(x):
            of_x, of_weight, _ = _conv_backward(
                grads[0],
                x,
                weight,
                None,
                window.stride,
                window.padding,
                window.dilation,
                False,
                (0, 0),
                window.groups,
                (to_x, to_weight, False),
            )
        return (
            of_x,
            of_weight * _column(scale, 4) if to_signs else None,
            (of_weight * signs).sum((1, 2, 3)) if to_scale else None,
            of_weight.sum((1, 2, 3)) if to_offset else None,
            of_weight if to_residual else None,
            None,
        )


def _totals(x: Tensor, signs: Tensor, window: Window) -> Tensor:
    """``conv(x, ones)``, with one filter per group."""
    if _is_traced():  # a compiler that reads the trace should see a layer on the binary input
        return _exact_conv2d(x, signs.new_ones(window.groups, *signs.shape[1:]), window)
    sums = x.unflatten(1, (window.groups, -1)).sum(2)  # channels first, which is much faster
    return _exact_conv2d(sums, signs.new_ones(window.groups, 1, *signs.shape[2:]), window)


def _is_traced() -> bool:
    """Whether torch.export or torch.jit.trace runs; before torch 2.7, torch.compile too."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return exporting() or torch.jit.is_tracing()


def _column(values: Tensor, rank: int) -> Tensor:
    return values.reshape(-1, *[1] * (rank - 1))


def _exact_conv2d(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The convolution without NNPACK, whose Winograd transforms round sums of integers.

    torch uses NNPACK where oneDNN is missing.
    """
    compiling = torch.compiler.is_compiling()  # the flag cannot be traced
    with nullcontext() if compiling else torch.backends.nnpack.flags(enabled=False):
        return functional.conv2d(x, weight, None, window.stride, window.padding, window.dilation, window.groups)
