"""Concatenation, split and shuffle of channels, of floats and of packed bits."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.bits.channel_selection import select_channels_bits
from sbnn_tvm.schedules.elementwise.channel_selection import select_channels
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    CodesOutput,
    Element,
    FloatOutput,
    Program,
    Ref,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.selection import InputChannel, Selection
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.random_integers import integers
from tests.support.reference.elementwise import selected


def shuffle(channels: int, groups: int) -> list[int]:
    return np.arange(channels).reshape(groups, -1).T.reshape(-1).tolist()


SELECTIONS = {
    "64+64": Selection.concatenation((64, 64)),
    "1+3+63": Selection.concatenation((1, 3, 63)),
    "65+100": Selection.concatenation((65, 100)),
    "256+128": Selection.concatenation((256, 128)),
    "slice of 100": Selection.concatenation((100,)).take(range(30, 97)),
    "upper half of 128": Selection.concatenation((128,)).take(range(64, 128)),
    "every third": Selection.concatenation((100,)).take(range(1, 100, 3)),
    "shuffle 128/2": Selection.concatenation((128,)).take(shuffle(128, 2)),
    "shuffle 60/3": Selection.concatenation((60,)).take(shuffle(60, 3)),
    "shuffled halves": Selection.concatenation((48, 48)).take(shuffle(96, 2)),
    "reversed": Selection.concatenation((65,)).take(range(64, -1, -1)),
    "random": Selection.concatenation((70, 30)).take(np.random.default_rng(3).integers(0, 100, 130).tolist()),
    "twice": Selection.concatenation((64,)).take([*range(64), *range(64)]),
    "one": Selection.concatenation((3,)).take([2]),
}
selections = pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())


def check_floats(rng: np.random.Generator, selection: Selection, target_name: str, pixels: tuple[int, ...]) -> None:
    target = target_for(target_name)
    channels = len(selection.sources)
    inputs = [normal(rng, *pixels, count) for count in selection.inputs]
    expected = selected(inputs, selection)
    (output,) = run(select_channels(pixels, selection, STORE, target.isa), target, *inputs)
    np.testing.assert_array_equal(output, expected)
    steps = (Step("multiply", Ref(0), Channel(rng.standard_normal(channels))), Step("add", Ref(1), Tensor(0)))
    threshold = Channel(rng.standard_normal(channels))
    program = Program(steps, (FloatOutput(Ref(2)), BitsOutput(Ref(2), threshold)))
    residual = normal(rng, *pixels, channels)
    outputs = run(select_channels(pixels, selection, program, target.isa), target, *inputs, residual)
    for output, reference in zip(outputs, evaluate(program, expected, [residual], target.isa), strict=True):
        np.testing.assert_array_equal(output, reference)


def check_bits(rng: np.random.Generator, selection: Selection, target_name: str, pixels: tuple[int, ...]) -> None:
    target = target_for(target_name)
    inputs = [rng.random((*pixels, count)) < 0.5 for count in selection.inputs]
    expected = selected(inputs, selection)
    words = [pack_channels(bits, target.isa) for bits in inputs]
    (output,) = run(select_channels_bits(pixels, selection, target.isa), target, *words)
    np.testing.assert_array_equal(output, pack_channels(expected, target.isa))


@selections
def test_channels(selection: Selection, rng: np.random.Generator) -> None:
    check_floats(rng, selection, "x86-64-v3", (2, 3, 5))
    check_bits(rng, selection, "x86-64-v3", (2, 3, 5))


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("name", ["65+100", "shuffle 128/2", "random"])
def test_channels_on_every_target(target_name: str, name: str, rng: np.random.Generator) -> None:
    check_floats(rng, SELECTIONS[name], target_name, (2, 2, 3))
    check_bits(rng, SELECTIONS[name], target_name, (2, 2, 3))


def test_features_without_pixels(rng: np.random.Generator) -> None:
    check_floats(rng, SELECTIONS["65+100"], "x86-64-v3", (3,))
    check_bits(rng, SELECTIONS["65+100"], "x86-64-v3", (3,))


def test_channels_on_several_threads(rng: np.random.Generator) -> None:
    check_floats(rng, SELECTIONS["64+64"], "x86-64-v3", (2, 17, 16))
    check_bits(rng, SELECTIONS["64+64"], "x86-64-v3", (2, 70, 70))


def test_a_channel_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"no channel 3 of input 1 in \(5, 3\)"):
        Selection((5, 3), (InputChannel(0, 4), InputChannel(1, 3)))


@pytest.mark.parametrize("dtype", ["int8", "uint16"])
@pytest.mark.parametrize("name", ["65+100", "every third", "random"])
def test_selections_of_integers(name: str, dtype: Element, rng: np.random.Generator) -> None:
    target, selection, pixels = target_for("x86-64-v3"), SELECTIONS[name], (2, 3, 5)
    inputs = [integers(rng, dtype, *pixels, count) for count in selection.inputs]
    program = Program((), (CodesOutput(Ref(0), dtype),))
    (output,) = run(select_channels(pixels, selection, program, target.isa, dtype=dtype), target, *inputs)
    np.testing.assert_array_equal(output, selected(inputs, selection))
