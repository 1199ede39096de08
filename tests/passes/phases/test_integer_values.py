"""Quantised values stay integers where the model only moves them, whatever form quantisation is written in."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import CompileError
from sbnn_tvm.report.report import UNSCHEDULED

from ...support.small_models import small_model

_RNG = np.random.default_rng(0)
_WEIGHT = _RNG.integers(-127, 128, (8, 4, 3, 3)).astype(np.float32) * np.float32(0.01)
_CONSTANTS = {
    "s": 0.05, "z": np.uint8(3), "z8": np.int8(0), "s2": 0.1, "zero": np.uint8(0), "zf": 100.0, "low": 0.0,
    "high": 255.0, "low8": np.int8(-127), "high8": np.int8(127), "s16": 0.003, "z16": np.int16(0), "w": _WEIGHT,
    "b": _RNG.standard_normal(8), "real": _RNG.standard_normal((8, 4, 3, 3)), "half": 0.5,
}  # fmt: skip

MODELS = {
    "fake quantisation": """
        a = Div (x, s)
        r = Round (a)
        h = Add (r, zf)
        c = Clip (h, low, high)
        i = Sub (c, zf)
        d = Mul (i, s)
        e = Conv <pads = [1, 1, 1, 1]> (d, w, b)
        y = Relu (e)
    """,
    "quantise, clip, dequantise": """
        q = QuantizeLinear (x, s, z8)
        c = Clip (q, low8, high8)
        d = DequantizeLinear (c, s, z8)
        e = Conv <pads = [1, 1, 1, 1]> (d, w)
        f = QuantizeLinear (e, s16, z16)
        y = DequantizeLinear (f, s16, z16)
    """,
    "moves": """
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
        a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (d)
        qa = QuantizeLinear (a, s2, zero)
        da = DequantizeLinear (qa, s2, zero)
        c = Concat <axis = 1> (p, da)
        t = Transpose <perm = [0, 2, 3, 1]> (p)
        v = QuantizeLinear (c, s2, zero)
        y = DequantizeLinear (v, s2, zero)
    """,
    "residual": """
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        r = Relu (d)
        a = Add (r, d)
        m = Mul (a, d)
        u = QuantizeLinear (m, s2, zero)
        y = DequantizeLinear (u, s2, zero)
    """,
}


@pytest.mark.parametrize("name", MODELS)
def test_forms(name: str) -> None:
    outputs = ("y", "t") if name == "moves" else ("y",)
    module = sbnn_tvm.compile(small_model(MODELS[name], {"x": [2, 4, 6, 6]}, _CONSTANTS, outputs))
    assert not [layer for layer in module.report.layers if layer.kernel == UNSCHEDULED], str(module.report)
    assert not [layer for layer in module.report.layers if layer.weights == "float32"]
    module.verify(samples=1)


def test_a_layer_that_stays_float_is_named() -> None:
    text = """
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        y = Conv (d, real)
    """
    model = small_model(text, {"x": [1, 4, 6, 6]}, _CONSTANTS)
    (note,) = sbnn_tvm.compile(model).report.notes
    assert note == (
        "a layer that reads quantised data stays float: its weights are not integers of 8 bits times a scale per "
        "output channel: Conv:y"
    )
    with pytest.raises(CompileError, match="stays float"):
        sbnn_tvm.compile(model, strict=True)
