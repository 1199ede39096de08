"""Inputs that would end the process or touch other memory: a defined result, or a refusal where they are constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from tests.support.imports import build

FAR = 10**12


def run(text: str, inputs: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    result = sbnn_tvm.compile(build(text, inputs, constants)).library.run(*inputs.values())
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16"])
def test_division_of_integers(dtype: str) -> None:
    """By zero the result is 0; the least number by -1 stays itself. The others are as in C and in Python."""
    least = int(np.iinfo(dtype).min)
    x = np.array([7, 7, 0, least, least, 5, 9], dtype)
    y = np.array([0, 2, 0, -1, 0, 3, -2] if least < 0 else [0, 2, 0, 1, 0, 3, 4], dtype)
    wide_x, wide_y = x.astype(object), y.astype(object)
    quotient = [
        int(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)) if b else 0
        for a, b in zip(wide_x, wide_y, strict=True)
    ]
    floored = [int(a % b) if b else 0 for a, b in zip(wide_x, wide_y, strict=True)]
    truncated = [int(a - b * q) if b else 0 for a, b, q in zip(wide_x, wide_y, quotient, strict=True)]
    inputs = {"x": x, "y": y}
    span = 1 << np.iinfo(dtype).bits
    wrapped = [(each - least) % span + least for each in quotient]  # of the least number
    np.testing.assert_array_equal(run("q = Div(x, y)", inputs), np.array(wrapped, dtype))
    np.testing.assert_array_equal(run("r = Mod(x, y)", inputs), np.array(floored, dtype))
    np.testing.assert_array_equal(run("r = Mod<fmod = 1>(x, y)", inputs), np.array(truncated, dtype))
    for text in ("q = Div(x, zero)", "r = Mod(x, zero)"):
        with pytest.raises(ModelError, match="divides integers by a constant 0"):
            run(text, {"x": x}, {"zero": np.zeros((), dtype)})


def test_division_of_floats_by_a_constant_zero() -> None:
    x = np.float32([5, -5, 0, np.nan, np.inf])
    for zero in (0.0, -0.0):
        with np.errstate(all="ignore"):
            wanted = x / np.float32(zero)
        np.testing.assert_array_equal(run("q = Div(x, zero)", {"x": x}, {"zero": np.float32(zero)}), wanted)


DATA = np.arange(6, dtype=np.float32).reshape(2, 3)
INDEXED = [
    ("y = Gather<axis = 1>(x, i)", [0, -1, 2], [FAR, -1]),
    ("y = GatherElements<axis = 1>(x, i)", [[0, -1], [2, -3]], [[FAR, -FAR], [0, 1]]),
    ("y = GatherND(x, i)", [[0, -1], [-2, 2]], [[FAR, 0], [0, -FAR]]),
]
SCATTERED = [
    ("y = ScatterElements<axis = 1>(x, i, u)", [[0, -1], [2, -3]], [[FAR, -FAR], [0, 1]], (2, 2)),
    ("y = ScatterND(x, i, u)", [[0, -1], [-2, 2]], [[FAR, 0], [0, -FAR]], (2,)),
]


@pytest.mark.parametrize(("text", "inside", "outside"), INDEXED)
def test_gathers(text: str, inside: list[int], outside: list[int]) -> None:
    known = run(text, {"x": DATA}, {"i": np.int64(inside)})
    np.testing.assert_array_equal(run(text, {"x": DATA, "i": np.int64(inside)}), known)
    assert np.isin(run(text, {"x": DATA, "i": np.int64(outside)}), DATA).all()
    with pytest.raises(ModelError, match=r"which has 3|along an axis of [23] elements"):
        run(text, {"x": DATA}, {"i": np.int64(outside)})


@pytest.mark.parametrize(("text", "inside", "outside", "shape"), SCATTERED)
def test_scatters(text: str, inside: list[int], outside: list[int], shape: tuple[int, ...]) -> None:
    updates = np.full(shape, 100, np.float32)
    known = run(text, {"x": DATA, "u": updates}, {"i": np.int64(inside)})
    np.testing.assert_array_equal(run(text, {"x": DATA, "i": np.int64(inside), "u": updates}), known)
    assert (run(text, {"x": DATA, "i": np.int64(outside), "u": updates}) == 100).any()
    with pytest.raises(ModelError, match=r"along an axis of [23] elements"):
        run(text, {"x": DATA, "u": updates}, {"i": np.int64(outside)})


def test_reversed_sequences() -> None:
    """A length below 0 counts as 0, one above the number of steps as all of them."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    wanted = np.stack([x[::-1, 0], x[:, 1], x[[1, 0, 2, 3], 2]], 1)
    text, lengths = "y = ReverseSequence(x, lengths)", np.int64([9, -2, 2])
    np.testing.assert_array_equal(run(text, {"x": x, "lengths": lengths}), wanted)
    with pytest.raises(ModelError, match="expected numbers from 0 to 4"):
        run(text, {"x": x}, {"lengths": lengths})


def test_unpooling() -> None:
    """Places outside of the tensor wrap around."""
    places = np.int64([[[[0, FAR], [-FAR, 5]]]])
    y = run(
        "y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i)",
        {"x": np.ones((1, 1, 2, 2), np.float32), "i": places},
    )
    wanted = np.zeros(16, np.float32)
    wanted[places.reshape(-1) % 16] = 1
    np.testing.assert_array_equal(y.reshape(-1), wanted)


def test_extrema_of_the_lowest_numbers() -> None:
    """Rows of zeros in an unsigned type, and of infinities."""
    zeros, ones = np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8)
    infinite = np.full((2, 3), np.inf, np.float32)
    for operator, x in (("ArgMax", zeros), ("ArgMin", ones), ("ArgMax", -infinite), ("ArgMin", infinite)):
        assert run(f"y = {operator}<axis = 1>(x)", {"x": x}).tolist() == [[0], [0]]
        assert run(f"y = {operator}<axis = 1, select_last_index = 1>(x)", {"x": x}).tolist() == [[2], [2]]
    assert run("y = Hardmax(x)", {"x": -infinite}).tolist() == [[1, 0, 0]] * 2
