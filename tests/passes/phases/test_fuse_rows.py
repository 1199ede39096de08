"""Groups of rows: which operations join a reduction over the channels, and that their kernels agree with ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from tvm.ir import Call

import sbnn_tvm
from sbnn_tvm.passes.pipeline import to_composites
from sbnn_tvm.passes.relax.graph import Graph
from tests.support.passes import imported
from tests.support.small_models import grid_inputs, run_reference, small_model

CONSTANTS = {"axis": np.array([1]), "zero": 0.0, "one": 1.0, "two": 2.0, "minus": -1.0, "k": 0.25, "eps": 1e-5}
WEIGHT = np.resize([1.0, -1.0, -1.0], (7, 4))
FLAT = {"other": np.array([3, 7]), "others": np.array([3, 1])}
IMAGE = {"other": np.array([3, 7, 1, 1]), "others": np.array([3, 1, 1, 1])}

BITS = """
t = Abs (x)
s = ReduceSum <keepdims = 1> (t, axis)
c = Greater (t, k)
y = Where (c, one, minus)
z = Sub (t, s)
"""
CODES = """
t = Abs (x)
s = ReduceSum <keepdims = 1> (t, axis)
q = Clip (t, zero, one)
m = Mul (q, three)
r = Round (m)
l = Div (r, three)
y = MatMul (l, w)
z = Sub (t, s)
"""
SIGNS_OF_SIGNS = """
t = Abs (x)
p = Softmax <axis = 1> (t)
c = Greater (p, k)
b = Where (c, one, minus)
d = Where (c, two, zero)
e = Neg (b)
f = Greater (e, zero)
y = Where (f, one, zero)
g = Add (d, v)
z = ReduceSum <keepdims = 1> (g, axis)
"""
RESHAPED_BEFORE = """
t = Relu (x)
r = Reshape (t, other)
s = ReduceSum <keepdims = 1> (r, axis)
u = Exp (s)
y = Sub (r, s)
"""
RESHAPED_AFTER = """
t = Relu (x)
s = ReduceSum <keepdims = 1> (t, axis)
r = Reshape (t, other)
q = Reshape (s, others)
y = Add (r, q)
z = ReduceMax <keepdims = 1> (y, axis)
"""
NORM = """
r = Reshape (x, other)
t = Relu (r)
m = ReduceMean <keepdims = 1> (t, axis)
c = Sub (t, m)
q = Mul (c, c)
a = ReduceMean <keepdims = 1> (q, axis)
e = Add (a, eps)
d = Sqrt (e)
n = Div (c, d)
f = Reshape (n, flat)
y = Add (f, o)
"""
TWICE = """
t = Relu (x)
s = ReduceSum <keepdims = 1> (t, axis)
u = Add (s, k)
y = ReduceMax <keepdims = 1> (u, axis)
"""


@dataclass
class Rows:
    """A graph, and the sizes of its groups of rows, in bindings."""

    text: str
    shape: Sequence[int]
    rows: Sequence[int]
    outputs: Sequence[str] = ("y",)
    constants: Mapping[str, object] | None = None
    inputs: Mapping[str, Sequence[int]] | None = None


CASES = {
    "bits beside a reduction": Rows(BITS, (3, 7), [3], ("y", "z", "s")),
    "bits beside a reduction of pixels": Rows(BITS, (2, 7, 3, 2), [3], ("y", "z", "s")),
    "codes beside a reduction": Rows(CODES, (3, 7), [3], ("y", "z"), {"three": 3.0, "w": WEIGHT}),
    "bits of a softmax, computed with": Rows(SIGNS_OF_SIGNS, (2, 7), [7, 2], ("y", "z"), {"v": np.arange(7.0)}),
    "a reshape to rows before": Rows(RESHAPED_BEFORE, (3, 7, 1, 1), [5], ("t", "r", "s", "u", "y"), FLAT),
    "a reshape to a map before": Rows(RESHAPED_BEFORE, (3, 7), [5], ("t", "r", "s", "u", "y"), IMAGE),
    "a reshape to rows after": Rows(RESHAPED_AFTER, (3, 7, 1, 1), [6], ("r", "q", "y", "z", "s"), FLAT),
    "a reshape to a map after": Rows(RESHAPED_AFTER, (3, 7), [6], ("r", "q", "y", "z", "s"), IMAGE),
    "a norm between reshapes": Rows(NORM, (3, 7), [10], ("y", "a"), {**IMAGE, "flat": np.array([3, 7])}, {"o": (3, 1)}),
    "a reduction of a row": Rows(TWICE, (3, 7), [3, 1], ("y", "u")),
    "a reduction of a row of one channel": Rows(TWICE, (3, 1), [3, 1], ("y", "u")),
}


@pytest.mark.parametrize("name", CASES)
def test_groups_of_rows(name: str) -> None:
    case = CASES[name]
    constants = {key: value for key, value in {**CONSTANTS, **(case.constants or {})}.items() if key in case.text}
    model = small_model(case.text, {"x": case.shape, **(case.inputs or {})}, constants, case.outputs)
    mod = to_composites(imported(model))
    calls = [value for _, value in Graph(mod["main"]).bindings if isinstance(value, Call)]
    composites = [mod[call.op] for call in calls if call.op in mod.functions]
    sizes = [len(Graph(func).bindings) for func in composites if func.attrs["Composite"] == "sbnn.rows"]
    assert sizes == list(case.rows)

    feeds = grid_inputs(model)
    got = sbnn_tvm.compile(model).run(feeds)
    for output, (key, expected) in zip(got, run_reference(model, feeds).items(), strict=True):
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6, err_msg=key)
