"""BipolarQuant, Quant and Trunc, against formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.dialect_models import numbers_at_ties, one_node, run_standard_form

F = np.float32
SHAPE = (2, 3, 4, 5)

MODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "half_even": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.copysign(np.ceil(np.abs(x)), x),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x),
    "HALF_DOWN": lambda x: np.copysign(np.ceil(np.abs(x) - x.dtype.type(0.5)), x),
}


def quantised(x: np.ndarray, scale: Any, zero: Any, bits: int, signed: int, narrow: int, mode: str) -> np.ndarray:
    codes = x / scale + zero
    if bits == 1 and signed:
        codes = np.where(codes >= 0, F(1), F(-1))
    else:
        low = -(2.0 ** (bits - 1)) + narrow if signed else 0.0
        high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
        codes = MODES[mode](np.clip(codes, low, high))
    return ((codes - zero) * scale).astype(np.float32)


@pytest.mark.parametrize(("opset", "before"), [(9, "Dropout"), (13, "")])
def test_quant(rng: np.random.Generator, opset: int, before: str) -> None:
    per_channel = rng.uniform(0.05, 2, (1, 3, 1, 1)).astype(F)
    scales = [F(1), F(0.037), per_channel, np.float64(0.1), np.float64(0.25), np.int64(1)]
    modes = list(MODES)
    for index, (scale, bits, signed, narrow) in enumerate(product(scales, [1, 2, 8, 32], [0, 1], [0, 1])):
        mode, zero = modes[index % len(modes)], [F(0), F(2), F(0.3)][index % 3]
        attributes = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        width = [F, np.int64][index % 2](bits)
        model = one_node(
            ["Quant", "IntQuant"][index % 2], [scale, zero, width], SHAPE, attributes, opset, before=before
        )
        x = numbers_at_ties(rng, SHAPE, float(np.ravel(scale)[0]))
        with np.errstate(all="ignore"):
            want = quantised(x, scale, zero, bits, signed, narrow, mode)
        np.testing.assert_array_equal(run_standard_form(model, x), want, f"{scale} {bits} {attributes} {zero}")


@pytest.mark.parametrize(("opset", "before"), [(9, "Dropout"), (12, "")])
def test_bipolar_quant(rng: np.random.Generator, opset: int, before: str) -> None:
    for scale in (F(1), F(0.1), F(-2), rng.uniform(0.5, 2, (1, 3, 1, 1)).astype(F)):
        x = numbers_at_ties(rng, SHAPE, 1)
        model = one_node("BipolarQuant", [scale], SHAPE, opset=opset, before=before)
        np.testing.assert_array_equal(run_standard_form(model, x), np.where(x >= 0, scale, -scale))


def test_not_a_number_is_negative() -> None:
    model, x = one_node("BipolarQuant", [F(1)], (1, 3), opset=9), np.array([[np.nan, 0, -1]], F)
    np.testing.assert_array_equal(run_standard_form(model, x), [[-1, 1, -1]])


def test_trunc(rng: np.random.Generator) -> None:
    for mode, zero, after in product(["FLOOR", "ROUND", "CEIL"], [F(0), F(4)], [2, 4]):
        scale, before = F(0.25), 8
        x = numbers_at_ties(rng, SHAPE, 4)
        x = np.where(np.isfinite(x), x, F(0))
        codes = np.rint(x / scale + zero)
        first = one_node("Trunc", [scale, zero, F(before), F(after)], SHAPE, {"rounding_mode": mode})
        want = (MODES[mode](codes / F(2 ** (before - after))) - zero) * scale
        np.testing.assert_array_equal(run_standard_form(first, x), want)
        wide = F(1)  # 4 times the scale before
        parameters = [scale, zero, F(before), wide, F(after)]
        second = one_node("Trunc", parameters, SHAPE, {"rounding_mode": mode, "signed": 1, "narrow": 1})
        limit = 2.0 ** (after - 1) - 1
        want = (MODES[mode](np.clip(codes / F(4), -limit, limit).astype(F)) - zero / F(4)) * wide
        np.testing.assert_array_equal(run_standard_form(second, x), want)


def test_what_is_refused() -> None:
    for operator, parameters, attributes, match in [
        ("Quant", [F(1), F(0), F(2)], {"rounding_mode": "DPU"}, "Quant node 'the_node' has the rounding mode 'DPU'"),
        ("Quant", [F(1), F(0), F(0)], {}, r"has the bit width \[0.0\]; expected 1 to 64"),
        ("Quant", [F(1), F(0)], {}, "has 3 inputs, but input 3 is required"),
        ("Quant", [F(1), F(0), F(2)], {"signed": 2}, "has signed=2; expected 0 or 1"),
        ("Quant", [F(1), F(0), F(2)], {"signed": 1.0}, "has signed=1.0; expected a int"),
        ("Quant", [F(1), F(0), np.array(True)], {}, "of type bool"),
        ("Quant", [F(1), F(0), F([1, 2])], {"signed": 1}, "has some bit widths of 1 and others"),
        ("Trunc", [F(1), F(0)], {}, "has 3 inputs; version 1 has 5, version 2 has 6"),
        ("FloatQuant", [F(1)], {}, "small floating point numbers, which is not supported"),
    ]:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(one_node(operator, parameters, (2, 2), attributes))
        assert "the given ONNX model" in str(caught.value) and "\n" not in str(caught.value)
