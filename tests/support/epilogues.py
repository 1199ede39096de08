"""Epilogues that the kernels of convolutions are tested with."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Border,
    Channel,
    CodesOutput,
    FloatOutput,
    IntegerThreshold,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.random_arrays import normal


def integer_threshold(rng: np.random.Generator, sums: np.ndarray) -> tuple[IntegerThreshold, np.ndarray]:
    """One threshold per channel of the sums [..., OC], and the bits that it gives.

    Sums hit thresholds exactly, some thresholds are out of range, and both directions occur.
    """
    threshold, codes = integer_thresholds(rng, sums, 1)
    return threshold, codes > 0


def integer_thresholds(rng: np.random.Generator, sums: np.ndarray, bits: int) -> tuple[IntegerThreshold, np.ndarray]:
    """``2^bits - 1`` thresholds per channel of the sums [..., OC], and the codes that they give.

    Sums hit thresholds exactly, some thresholds are equal or out of range, and both directions occur.
    """
    channels, count = sums.shape[-1], (1 << bits) - 1
    flat = sums.reshape(-1, channels)
    threshold = flat[rng.integers(0, len(flat), (count, channels)), np.arange(channels)].astype(np.int64)
    threshold[:, 1::7] += 1
    threshold[count // 2 :, 2::11] = 10**6
    threshold[0, 3::11] = -(10**6)
    threshold[-1, 4::13] = np.iinfo(np.int64).max
    threshold[0, 5::13] = np.iinfo(np.int64).min
    flip = rng.integers(0, 2, channels).astype(bool)
    rising = np.sort(threshold, axis=0)
    threshold = np.where(flip, rising[::-1], rising)
    exceeded = np.where(flip, sums[..., None, :] <= threshold, sums[..., None, :] >= threshold)
    return IntegerThreshold(threshold if bits > 1 else threshold[0], flip), exceeded.sum(axis=-2)


def rising_thresholds(rng: np.random.Generator, bits: int, channels: int, spread: float) -> tuple[Channel, ...]:
    """Float thresholds of codes, ``2^bits - 1`` per channel in rising order."""
    values = np.sort(rng.standard_normal(((1 << bits) - 1, channels)) * spread, axis=0).astype(np.float32)
    return tuple(map(Channel, values))


def border_program(rng: np.random.Generator, shape: Conv2dShape) -> Program:
    """A border table and a residual (its one tensor operand); floats and bits out."""
    table = Border(normal(rng, shape.border_classes().count, shape.out_channels))
    outputs = (FloatOutput(Ref(2)), BitsOutput(Ref(2), Channel(rng.standard_normal(shape.out_channels))))
    return Program((Step("add", Ref(0), table), Step("multiply", Ref(1), Tensor(0))), outputs)


def rich_program(rng: np.random.Generator, shape: Conv2dShape) -> tuple[Program, list[np.ndarray]]:
    """Scale, border table, residual, PReLU; floats, bits and codes of bytes out. Also its tensor operands."""
    channels = shape.out_channels

    def constant() -> Channel:
        return Channel(normal(rng, channels))

    table = Border(normal(rng, shape.border_classes().count, channels))
    program = Program(
        (
            Step("multiply", Ref(0), constant()),
            Step("add", Ref(1), table),
            Step("add", Ref(2), Tensor(0)),
            Step("multiply", Ref(3), Pixel(1)),
            Step("prelu", Ref(4), constant()),
        ),
        (
            BitsOutput(Ref(3), constant()),
            FloatOutput(Ref(5)),
            CodesOutput(Ref(5), "uint8", 128),
            BitsOutput(Ref(5), Scalar(0.25), inclusive=True),
        ),
    )
    pixels = (shape.batch, shape.out_height, shape.out_width)
    return program, [normal(rng, *pixels, channels), normal(rng, *pixels, 1)]
