"""The groups of operators that become one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tvm.ir import Call, GlobalVar, IRModule
from tvm.relax import Function

from sbnn_tvm.passes.layers.kinds import Layer
from sbnn_tvm.passes.layers.read import read_layer
from sbnn_tvm.passes.pipeline import to_composites
from sbnn_tvm.passes.relax.graph import Graph, op_name
from sbnn_tvm.schedules.epilogue.program import (
    Pixel,
    Tensor,
)
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.passes import agrees, imported
from tests.support.random_arrays import normal, signs, two_valued
from tests.support.small_models import small_model


@dataclass
class Fused:
    """A graph, and the kinds of its layers after fusion, including operators that are left to TVM."""

    text: str
    constants: Mapping[str, Any]
    kinds: Sequence[str]
    inputs: Mapping[str, Any] = field(default_factory=lambda: IMAGE)
    outputs: Sequence[str] = ("y",)


def fused_graphs(rng: np.random.Generator) -> dict[str, Fused]:
    """One graph for each rule of fusion."""
    w1, w2 = normal(rng, 8, 8, 1, 1), signs(rng, 8, 8, 1, 1)
    return {
        "an epilogue": Fused(
            "d = Conv(x, w, a)\nr = Relu(d)\nm = Mul(r, s)\nn = Sub(o, m)\nz = Clip(n, o, h)\ny = LeakyRelu(z)",
            {"w": w1, "a": normal(rng, 8), "s": normal(rng, 8, 1, 1), "o": -1.0, "h": 1.0},
            ["conv2d"],
        ),
        "a residual": Fused("d = Conv(x, w)\ny = Add(d, x)", {"w": w1}, ["conv2d"]),
        "a diamond": Fused(
            "d = Conv(x, w)\ne = Conv(d, w)\nf = Conv(d, w)\ng = Add(e, f)\ny = Add(g, d)",
            {"w": w1},
            ["conv2d", "conv2d", "conv2d"],
        ),
        "a diamond that closes before its side arm": Fused(
            "d = Conv(x, w)\nr = Relu(d)\ns = Sin(d)\nm = Mul(r, s)\ny = Conv(m, w)",
            {"w": w1},
            ["conv2d", "sin", "elementwise", "conv2d"],
        ),
        "outputs in the middle": Fused(
            "d = Conv(x, w)\ne = Mul(d, s)\nr = Relu(e)\ny = Conv(r, w)",
            {"w": w1, "s": 0.5},
            ["conv2d", "conv2d"],
            outputs=("y", "e", "d", "r"),
        ),
        "floats and bits of one layer": Fused(
            "d = Conv(x, w)\nc = Greater(d, t)\nb = Where(c, hi, lo)\ne = Conv(b, v)\ny = Add(e, d)",
            {**BINARIZE, "w": w1, "v": w2},
            ["conv2d", "binary_conv2d"],
        ),
        "bits computed with": Fused(
            "d = Conv(x, w)\nc = Greater(d, t)\nb = Where(c, hi, lo)\ny = Mul(b, d)",
            {**BINARIZE, "w": w1},
            ["conv2d", "elementwise"],
            outputs=("y", "b"),
        ),
        "an offset of the weights": Fused(
            BITS + "d = Conv<pads=[1, 1, 1, 1]>(b, w)\ny = Relu(d)",
            {**BINARIZE, "w": two_valued(rng, -0.1, 0.3, 5, 8, 3, 3)},
            ["elementwise", "window_sum", "binary_conv2d"],
        ),
        "offsets in groups": Fused(
            BITS + "y = Conv<group=2>(b, w)",
            {**BINARIZE, "w": two_valued(rng, -0.1, 0.3, 6, 4, 3, 3)},
            ["elementwise", "binary_conv2d", "binary_conv2d"],
        ),
        "a dense offset on {0, 1}": Fused(
            BITS + "y = MatMul(b, w)",
            {**BINARIZE, "lo": 0.0, "w": two_valued(rng, -0.1, 0.3, 20, 5)},
            ["elementwise", "binary_dense", "binary_dense"],
            {"x": (3, 20)},
        ),
        "padding with a value": Fused(
            BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)\nz = Conv(p, v)",
            {
                **BINARIZE,
                "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
                "w": signs(rng, 5, 8, 3, 3),
                "v": signs(rng, 4, 8, 3, 3),
            },
            ["elementwise", "binary_conv2d", "binary_conv2d"],
            outputs=("y", "z"),
        ),
        "padding with a value that others read": Fused(
            BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)\nz = Relu(p)",
            {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": signs(rng, 5, 8, 3, 3)},
            ["elementwise", "select_channels_bits", "binary_conv2d", "elementwise"],
            outputs=("y", "z"),
        ),
        "one value per pixel": Fused(
            "d = Conv(x, w)\nm = Mul(p, v)\nn = Mul(d, p)\ny = Add(n, m)",
            {"w": w1, "v": normal(rng, 8, 1, 1)},
            ["conv2d"],
            {**IMAGE, "p": (2, 1, 6, 6)},
        ),
        "one value per pixel, convolved": Fused(
            "m = Mul(p, v)\nd = Conv(m, w)\ny = Add(d, m)",
            {"w": w1, "v": normal(rng, 8, 1, 1)},
            ["multiply", "conv2d"],
            {"p": (2, 1, 6, 6)},
        ),
        "the same value twice": Fused("d = Conv(x, w)\ne = Add(d, d)\ny = Mul(e, d)", {"w": w1}, ["conv2d"]),
        "an input and itself": Fused("a = Add(x, x)\ny = Mul(a, x)", {}, ["elementwise"]),
        "an input that is returned": Fused("y = Identity(x)\nz = Relu(x)", {}, ["elementwise"], outputs=("y", "z")),
        "constants first": Fused("d = Conv(x, w)\ne = Sub(o, d)\ny = Div(e, o)", {"w": w1, "o": 2.0}, ["conv2d"]),
        "pools and the steps after them": Fused(
            "m = MaxPool<kernel_shape=[2, 2]>(x)\nr = Relu(m)\na = AveragePool<kernel_shape=[2, 2]>(r)\nb = Mul(a, s)\n"
            "g = GlobalAveragePool(b)\nf = Flatten(g)\ny = Add(f, s2)",
            {"s": normal(rng, 8, 1, 1), "s2": normal(rng, 8)},
            ["max_pool2d", "avg_pool2d", "global_avg_pool2d"],
        ),
        "bits are pooled": Fused(
            BITS + "m = MaxPool<kernel_shape=[2, 2]>(b)\na = AveragePool<kernel_shape=[2, 2]>(b)\ny = Add(m, a)",
            BINARIZE,
            ["elementwise", "max_pool2d_bits", "avg_pool2d"],
        ),
        "a prelu on rows of rows": Fused(
            "d = MatMul(x, w)\ny = PRelu(d, s)\nz = Relu(d)",
            {"w": normal(rng, 20, 7), "s": normal(rng, 7, 1)},
            ["dense", "nn.prelu"],
            {"x": (2, 7, 20)},
            ("y", "z"),
        ),
    }


FUSED = fused_graphs(np.random.default_rng(0))


def kinds_of(mod: IRModule) -> list[str]:
    """The kinds of the composites, and the names of the operators between them, in order."""
    found = []
    for _, value in Graph(mod["main"]).bindings:
        if isinstance(value, Call) and isinstance(value.op, GlobalVar):
            found.append(str(mod[value.op].attrs["Composite"]).removeprefix("sbnn."))
        elif op_name(value):
            found.append(op_name(value))
    return found


@pytest.mark.parametrize("name", FUSED)
def test_fused_layers(name: str) -> None:
    case = FUSED[name]
    model = small_model(case.text, case.inputs, case.constants, case.outputs)
    mod = to_composites(imported(model))
    assert sorted(kinds_of(mod)) == sorted(case.kinds)
    agrees(mod, model)
    for gvar, func in mod.functions.items():
        if gvar.name_hint != "main" and isinstance(func, Function):
            check_layer(func, read_layer(func))


def check_layer(func: Function, layer: Layer) -> None:
    """Check that a layer has the operands and outputs of the function that it was read from."""
    results = func.ret_ty.fields if len(layer.outputs) > 1 else [func.ret_ty]
    assert len(results) == len(layer.outputs) == len(layer.program.outputs) or layer.kind in (
        "max_pool2d_bits",
        "window_sum",
    )
    used = [operand for step in layer.program.steps for operand in (step.a, step.b)]
    indices = {operand.index for operand in used if isinstance(operand, Tensor | Pixel)}
    assert indices == set(range(len(func.params) - 1))
    assert len(layer.step_names) == len(layer.program.steps)
