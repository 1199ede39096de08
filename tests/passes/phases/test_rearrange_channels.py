"""Networks that concatenate, split and shuffle channels: no kernel unpacks or transposes values for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.passes.families.counters import counters_cost
from sbnn_tvm.passes.families.float32 import binary_float_cost
from sbnn_tvm.passes.families.popcount import popcount_cost
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.binarised_models import BINARIZE, binarized, check_exactly, kinds
from tests.support.grids import every
from tests.support.random_arrays import quarters, signs
from tests.support.small_models import small_model


@dataclass
class Case:
    """A graph that rearranges channels of bits or floats, and the kinds of layer that result."""

    text: str
    inputs: Mapping[str, Sequence[int]]
    constants: Mapping[str, object]
    kinds: Sequence[str]
    outputs: Sequence[str] = field(default=("y",))


def narrow(conv: Conv2dShape, weight: np.ndarray) -> str:
    """The kind of a 3x3 convolution with few channels per group: only some CPUs compute it on bits."""
    isa = resolve("native").isa
    on_bits = popcount_cost(conv, isa, floats=True), counters_cost(conv, weight > 0, isa, floats=True, domain=SIGN)
    return "binary conv 3x3" if min(on_bits) <= binary_float_cost(conv, isa, floats=True) else "conv 3x3"


def concatenated_bits(rng: np.random.Generator, first: int, second: int) -> Case:
    text = binarized("b", "x") + binarized("d", "z") + "j = Concat<axis=1>(b, d)\ny = Conv<pads=[1, 1, 1, 1]>(j, w)"
    inputs = {"x": (2, first, 4, 5), "z": (2, second, 4, 5)}
    constants = {**BINARIZE, "w": signs(rng, 9, first + second, 3, 3)}
    conv = Conv2dShape(2, 4, 5, first + second, 9, (3, 3), (1, 1), (1, 1, 1, 1))
    last = "binary conv 3x3" if first + second > 16 else narrow(conv, constants["w"])
    return Case(text, inputs, constants, ["elementwise"] * 2 + ["channels of bits: concatenation", last])


def shuffled_bits(rng: np.random.Generator, channels: int, groups: int) -> Case:
    text = (
        binarized("b", "x")
        + "v = Conv(b, v0)\n"
        + binarized("d", "v")
        + "r = Reshape(d, split)\np = Transpose<perm=[0, 2, 1, 3, 4]>(r)\ns = Reshape(p, whole)\n"
        + f"y = Conv<group={groups}>(s, w)"
    )
    constants = {
        **BINARIZE,
        "v0": signs(rng, channels, 40, 1, 1),
        "w": signs(rng, groups * 2, channels // groups, 3, 3),
        "split": np.array([2, groups, channels // groups, 4, 4]),
        "whole": np.array([2, channels, 4, 4]),
    }
    grouped = Conv2dShape(2, 4, 4, channels, groups * 2, (3, 3), groups=groups)
    last = "binary conv 3x3" if channels // groups > 16 else narrow(grouped, constants["w"])
    return Case(
        text,
        {"x": (2, 40, 4, 4)},
        constants,
        ["elementwise", "binary conv 1x1", "channels of bits: permutation", f"{last}, {groups} groups"],
    )


def cases(rng: np.random.Generator) -> dict[str, Case]:
    """Concatenations, splits and shuffles of bits and floats."""
    return {
        **{f"bits {a}+{b}": concatenated_bits(rng, a, b) for a, b in ((1, 3), (63, 65), (64, 64), (100, 128))},
        **{f"shuffled bits {c}/{g}": shuffled_bits(rng, c, g) for c, g in ((130, 2), (63, 3), (6, 2))},
        "split bits": Case(
            binarized("b", "x")
            + "p, q = Split<axis=1, num_outputs=2>(b)\n"
            + "e = Conv(p, w)\nf = Conv(q, v)\ny = Add(e, f)",
            {"x": (2, 70, 4, 4)},
            {**BINARIZE, "w": signs(rng, 9, 35, 3, 3), "v": signs(rng, 9, 35, 3, 3)},
            ["elementwise", "channels of bits: 0 to 34", "channels of bits: 35 to 69", *["binary conv 3x3"] * 2],
        ),
        "a slice and picked channels": Case(
            binarized("b", "x")
            + "p = Slice(b, from, to, axis)\nq = Gather<axis=1>(b, picks)\nj = Concat<axis=1>(q, p, q)\ny = Conv(j, w)",
            {"x": (2, 70, 4, 4)},
            {
                **BINARIZE,
                "w": signs(rng, 9, 80, 3, 3),
                "from": np.array([7]),
                "to": np.array([47]),
                "axis": np.array([1]),
            }
            | {"picks": rng.integers(0, 70, 20)},
            ["elementwise", "channels of bits: selection", "binary conv 3x3"],
        ),
        "features": Case(
            binarized("b", "x") + binarized("d", "z") + "j = Concat<axis=-1>(b, d)\ny = MatMul(j, w)",
            {"x": (3, 65), "z": (3, 30)},
            {**BINARIZE, "w": signs(rng, 95, 7)},
            ["elementwise", "elementwise", "channels of bits: concatenation", "binary dense"],
        ),
        "floats with what follows": Case(
            "a = Conv(x, v)\ne = Conv(x, u)\nj = Concat<axis=1>(a, e)\nk = Add(j, s)\nm = PRelu(k, p)\n"
            + binarized("b", "m")
            + "f = Conv(b, w)\ny = Add(f, m)",
            {"x": (2, 3, 4, 4)},
            {
                **BINARIZE,
                "v": quarters(rng, 33, 3, 1, 1),
                "u": quarters(rng, 20, 3, 1, 1),
                "s": quarters(rng, 1, 53, 1, 1),
            }
            | {"p": quarters(rng, 53, 1, 1), "w": signs(rng, 53, 53, 1, 1)},
            ["conv 1x1", "conv 1x1", "channels: concatenation", "binary conv 1x1"],
        ),
        "concatenations in concatenations": Case(
            "a = Relu(x)\ne = Concat<axis=1>(a, x)\nf = Relu(e)\ny = Concat<axis=1>(e, f, x)",
            {"x": (2, 5, 3, 3)},
            {},
            ["elementwise", "channels: concatenation", "channels: selection"],
        ),
        "split, changed in part, joined, shuffled": Case(
            "p, q = Split<axis=1, num_outputs=2>(x)\n"
            + binarized("b", "q")
            + "e = Conv(b, w)\nj = Concat<axis=1>(p, e)\n"
            + "r = Reshape(j, split)\nh = Transpose<perm=[0, 2, 1, 3, 4]>(r)\ny = Reshape(h, whole)",
            {"x": (2, 40, 3, 3)},
            {
                **BINARIZE,
                "w": signs(rng, 20, 20, 1, 1),
                "split": np.array([2, 2, 20, 3, 3]),
                "whole": np.array([2, 40, 3, 3]),
            },
            ["channels: 20 to 39", "binary conv 1x1", "channels: selection"],
        ),
    }


CASES = cases(np.random.default_rng(5))


@pytest.mark.parametrize("name", every(2, CASES))
def test_channels(name: str) -> None:
    case = CASES[name]
    module = check_exactly(small_model(case.text, case.inputs, case.constants, case.outputs))
    assert kinds(module) == list(case.kinds)


@pytest.mark.parametrize("name", ["bits 63+65", "shuffled bits 130/2", "split, changed in part, joined, shuffled"])
def test_channels_on_arm(name: str) -> None:
    case = CASES[name]
    check_exactly(small_model(case.text, case.inputs, case.constants, case.outputs), "arm")
