"""Reductions, cumulative sums and transforms, where random nodes seldom come."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import build, check
from tests.support.small_models import run_reference

INFINITE = np.float32([[-np.inf] * 3, [1, -np.inf, 2], [1, np.inf, 2], [1, np.nan, 2], [0, 0, 0]])


def test_infinite_rows() -> None:
    text = """
        mean = ReduceMean(x, axis)
        total = ReduceSum(x, axis)
        log_sum_exp = ReduceLogSumExp(x, axis)
        l1 = ReduceL1(x, axis)
        l2 = ReduceL2(x, axis)
        product = ReduceProd(x, axis)
        soft = Softmax(x)
        log_soft = LogSoftmax(x)
        """
    constants = {"axis": np.int64([1])}
    model = build(text, {"x": INFINITE}, constants)
    wanted = run_reference(model, {"x": INFINITE})
    got = sbnn_tvm.compile(model).library.run(INFINITE)
    for (name, want), value in zip(wanted.items(), got, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-7, err_msg=name)


def test_axes() -> None:
    """None of them, all, from the end, none by name; integers and truth values."""
    x = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)
    check(
        """
        all = ReduceSum<keepdims = 0>(x)
        noop = ReduceSum<noop_with_empty_axes = 1>(x)
        named = ReduceSum<noop_with_empty_axes = 1, keepdims = 0>(x, axes)
        mean = ReduceMean<keepdims = 0>(x, axes)
        square = ReduceSumSquare<noop_with_empty_axes = 1, keepdims = 0>(x, none)
        some = ReduceMax<keepdims = 0>(truth, axes)
        every = ReduceMin(truth)
        """,
        {"x": x, "truth": x % 5 > 1},
        {"axes": np.int64([-1, 0]), "none": np.int64([])},
        exact=True,
    )


@pytest.mark.parametrize("operator", ["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])
def test_roots_and_logarithms_of_integers_are_refused(operator: str) -> None:
    with pytest.raises(ModelError, match="reads int32, which is not supported; cast it to float32 before"):
        import_onnx(build(f"y = {operator}(x)", {"x": np.ones((2, 3), np.int32)}))


def test_axes_out_of_range_are_refused() -> None:
    x = np.ones((2, 3), np.float32)
    for text in ("y = ReduceSum(x, a)", "y = CumSum(x, a)"):
        with pytest.raises(ModelError):
            import_onnx(build(text, {"x": x}, {"a": np.int64([2])}, outputs=["y"]))


@pytest.mark.parametrize("length", [3, 4, 6, 7, 9])
def test_inverse_of_half_a_spectrum(length: int, rng: np.random.Generator) -> None:
    """As numpy has it: frequencies are cut off or zero; onnxruntime mixes up the two lengths."""
    x = rng.standard_normal((2, 4, 3, 2)).astype(np.float32)
    model = build(
        "y = DFT<inverse = 1, onesided = 1>(x, n, axis)", {"x": x}, {"n": np.int64(length), "axis": np.int64(1)}
    )
    (got,) = [sbnn_tvm.compile(model).library.run(x)]
    wanted = np.fft.irfft(x[..., 0] + 1j * x[..., 1], n=length, axis=1)
    np.testing.assert_allclose(got[..., 0], wanted, rtol=1e-5, atol=1e-6)
