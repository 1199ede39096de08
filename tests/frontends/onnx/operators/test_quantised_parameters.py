"""Operators on quantised values over random scales and zero points, which are inputs of the model, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnxruntime
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import build

Feeds: TypeAlias = dict[str, np.ndarray]
Runner: TypeAlias = Callable[[Feeds], tuple[list[np.ndarray], list[np.ndarray]]]

TEXT = """
    q = QuantizeLinear(x, xs, xz)
    d = DequantizeLinear(a, as, az)
    p = QLinearMatMul(a, as, az, b, bs, bz, ys, yz)
    m = MatMulInteger(a, b, az, bz)
    c = QLinearConv<pads = [1, 0, 1, 1]>(i, as, az, w, ws, wz, ys, yz, k)
    g = DequantizeLinear(q, xs, xz)
"""


def feeds_of(rng: np.random.Generator, scale: Callable[[], float]) -> Feeds:
    """Random codes, and scales from a function; weights have seven bits (see test_quantization.py)."""

    def codes(dtype: str, *shape: int) -> np.ndarray:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)

    xs = np.float32(scale())
    values = {
        "x": (rng.integers(-300, 300, (4, 50)) * xs / 2).astype(np.float32),  # half of them ties
        "xs": xs,
        "xz": codes("int8"),
        "a": codes("uint8", 5, 24),
        "as": np.float32(scale()),
        "az": codes("uint8"),
        "b": rng.integers(-64, 64, (24, 7)).astype(np.int8),
        "bs": np.float32(scale()),
        "bz": np.int8(rng.integers(-20, 20)),
        "i": codes("uint8", 1, 3, 5, 6),
        "w": rng.integers(-64, 64, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.array([scale() for _ in range(4)], np.float32),
        "wz": np.zeros(4, np.int8),
        "k": rng.integers(-999, 999, 4).astype(np.int32),
        "ys": np.float32(50 * scale()),
        "yz": codes("uint8"),
    }
    return {name: np.asarray(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def runner() -> Runner:
    """Runs the imported model and onnxruntime; both are made once."""
    model = build(TEXT, feeds_of(np.random.default_rng(0), lambda: 0.1), outputs=["q", "d", "p", "m", "c", "g"])
    imported = import_onnx(model)
    executable = tvm.compile(imported.mod, tvm.target.Target({"kind": "llvm", "opt-level": 1}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> tuple[list[np.ndarray], list[np.ndarray]]:
        values = machine["main"](*(tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs))
        return [value.numpy() for value in values], session.run(None, feeds)

    return run


SCALES = {
    "decimal": st.integers(1, 40).map(lambda number: number / 20),
    "binary": st.integers(-3, 3).map(lambda power: 2.0**power),
    "any": st.floats(2**-9, 8, width=32),
}


@pytest.mark.parametrize("kind", SCALES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_equal_onnxruntime(runner: Runner, kind: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    got, want = runner(feeds_of(rng, lambda: data.draw(SCALES[kind])))
    for name, value, expected in zip("qdpmcg", got, want, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)
