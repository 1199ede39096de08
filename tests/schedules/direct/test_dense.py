"""The direct dense layers against numpy: bits, codes and floats, with weights of -1 and +1 or 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT
from sbnn_tvm.schedules.direct.dense import float_dense, popcount_dense
from sbnn_tvm.schedules.epilogue.program import STORE, Channel, FloatOutput, Program, Ref, Scalar, Step, Tensor
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes
from tests.support.epilogues import integer_threshold, integer_thresholds
from tests.support.kernel_execution import FEWER, run, target_for
from tests.support.random_arrays import bits_and_signs, codes_and_levels


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("batch, depth, channels", [(1, 64, 10), (1, 300, 100), (5, 130, 67), (17, 33, 8)])
def test_bits(batch: int, depth: int, channels: int, name: str, rng: np.random.Generator) -> None:
    target = target_for(name)
    x_bits, x = bits_and_signs(rng, batch, depth)
    w_bits, w = bits_and_signs(rng, channels, depth)
    sums = x @ w.T
    threshold, bits = integer_threshold(rng, sums)
    data = pack_channels(x_bits, target.isa)
    (words,) = run(popcount_dense(batch, w_bits, threshold, target.isa), target, data)
    np.testing.assert_array_equal(words, pack_channels(bits, target.isa))
    bias = Channel(rng.integers(-9, 9, channels).astype(np.float32))
    program = Program((Step("add", Ref(0), bias), Step("add", Ref(1), Tensor(0))), (FloatOutput(Ref(2)),))
    residual = rng.integers(-9, 9, sums.shape).astype(np.float32)
    for kernel, inputs in (
        (popcount_dense(batch, w_bits, program, target.isa), data),
        (float_dense(batch, w.astype(np.float32), program, target.isa), x.astype(np.float32)),
    ):
        (output,) = run(kernel, target, inputs, residual)
        np.testing.assert_array_equal(output, sums + bias.values + residual)


@pytest.mark.parametrize("name", FEWER)
def test_sums_of_bits_beyond_a_narrow_counter(name: str, rng: np.random.Generator) -> None:
    """Rows of 2^16 - 1 and more features overflow counters of 16 bits."""
    target = target_for(name)
    for depth in (65534, 65535, 65600):
        x_bits, w_bits = rng.integers(0, 2, (1, depth)).astype(bool), np.zeros((8, depth), bool)
        w_bits[0], w_bits[1], w_bits[2, : depth // 2] = x_bits, ~x_bits, True
        sums = np.where(x_bits, 1, -1) @ np.where(w_bits, 1, -1).T
        data = pack_channels(x_bits, target.isa)
        (stored,) = run(popcount_dense(1, w_bits, STORE, target.isa), target, data)
        np.testing.assert_array_equal(stored, sums)
        threshold, bits = integer_threshold(rng, sums)
        (words,) = run(popcount_dense(1, w_bits, threshold, target.isa), target, data)
        np.testing.assert_array_equal(words, pack_channels(bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("batch, depth, channels, bits", [(1, 300, 100, 2), (5, 130, 67, 3), (17, 33, 8, 2)])
def test_codes(batch: int, depth: int, channels: int, bits: int, name: str, rng: np.random.Generator) -> None:
    target = target_for(name)
    codes, x = codes_and_levels(rng, bits, batch, depth)
    w_bits, w = bits_and_signs(rng, channels, depth)
    data, sums = pack_codes(codes, bits, target.isa), x @ w.T
    threshold, expected = integer_thresholds(rng, sums, bits)
    (words,) = run(popcount_dense(batch, w_bits, threshold, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(words, pack_codes(expected, bits, target.isa))
    program = Program((Step("multiply", Ref(0), Scalar(0.5)),), (FloatOutput(Ref(1)),))
    (stored,) = run(popcount_dense(batch, w_bits, program, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(stored, sums / 2)


@pytest.mark.parametrize("name", FEWER)
def test_sums_of_codes_beyond_a_narrow_counter(name: str, rng: np.random.Generator) -> None:
    """Rows whose popcounts fit 16 bits a plane, but not their sum."""
    target = target_for(name)
    for depth in (21845, 21846):
        codes = rng.integers(0, 4, (1, depth))
        w_bits = np.stack([codes[0] > 1, codes[0] <= 1, rng.integers(0, 2, depth) > 0])
        sums = (2 * codes - 3) @ np.where(w_bits, 1, -1).T
        data = pack_codes(codes, 2, target.isa)
        threshold, expected = integer_thresholds(rng, sums, 2)
        (words,) = run(popcount_dense(1, w_bits, threshold, target.isa, bits=2), target, data)
        np.testing.assert_array_equal(words, pack_codes(expected, 2, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("batch, depth, channels", [(1, 300, 100), (5, 130, 67), (17, 33, 8)])
def test_set_weights(batch: int, depth: int, channels: int, name: str, rng: np.random.Generator) -> None:
    target = target_for(name)
    codes, x = codes_and_levels(rng, 1, batch, depth)
    w = rng.random((channels, depth)) < 0.2
    sums = x @ w.T.astype(np.int64)
    threshold, expected = integer_thresholds(rng, sums, 1)
    (words,) = run(
        popcount_dense(batch, w, threshold, target.isa, weight_domain=BIT), target, pack_codes(codes, 1, target.isa)
    )
    np.testing.assert_array_equal(words, pack_codes(expected, 1, target.isa))
