"""Selection of rows and columns, with channels and padding, of floats and of packed bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sbnn_tvm.schedules.bits.channel_selection import select_channels_bits
from sbnn_tvm.schedules.elementwise.channel_selection import select_channels
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import BitsOutput, Channel, FloatOutput, Program, Ref, Step, Tensor
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes
from sbnn_tvm.schedules.selection import OUTSIDE, PixelSelection, Selection
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.reference.elementwise import selected

HEIGHT, WIDTH = 5, 7
PIXELS = {
    "every second": (range(0, 5, 2), range(1, 7, 2)),
    "twice": (np.repeat(range(5), 2), np.repeat(range(7), 2)),
    "reflected": ([1, 0, 1, 2, 3, 4, 3], [2, 1, *range(7), 5]),
    "flipped": (range(5), range(6, -1, -1)),
    "cropped": (range(1, 4), [6]),
    "padded": ([OUTSIDE, *range(5)], [OUTSIDE, OUTSIDE, *range(7), OUTSIDE]),
}
CHANNELS = {
    "all": Selection.concatenation((65,)),
    "two inputs": Selection.concatenation((32, 3)),
    "some": Selection.concatenation((70, 9)).take([*range(20, 79, 3)]),
    "padded": Selection((16,), (None,) * 8 + Selection.concatenation((16,)).sources + (None,) * 8),
    "padded far": Selection((64,), (None,) * 64 + Selection.concatenation((64,)).sources + (None,) * 65),
}


@dataclass(frozen=True)
class Case:
    """A selection and the result that numpy gives for it."""

    selection: Selection
    pixels: PixelSelection
    batch: int

    @property
    def extent(self) -> tuple[int, int, int]:
        """Batch, rows and columns of the result."""
        return (self.batch, len(self.pixels.rows), len(self.pixels.columns))

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Random numbers for all inputs."""
        return [normal(rng, self.batch, HEIGHT, WIDTH, count) for count in self.selection.inputs]


def case(channels: str, pixels: str, batch: int = 2) -> Case:
    rows, columns = (tuple(int(each) for each in digits) for digits in PIXELS[pixels])
    return Case(CHANNELS[channels], PixelSelection(HEIGHT, WIDTH, rows, columns), batch)


def check_floats(rng: np.random.Generator, case: Case, target_name: str) -> None:
    target, inputs, channels = target_for(target_name), case.inputs(rng), len(case.selection.sources)
    expected = selected(inputs, case.selection, case.pixels, 0.5)
    steps = (Step("multiply", Ref(0), Channel(normal(rng, channels))), Step("add", Ref(1), Tensor(0)))
    program = Program(steps, (FloatOutput(Ref(2)), BitsOutput(Ref(2), Channel(normal(rng, channels)))))
    residual = normal(rng, *case.extent, channels)
    kernel = select_channels(case.extent, case.selection, program, target.isa, case.pixels, 0.5)
    outputs = run(kernel, target, *inputs, residual)
    for output, reference in zip(outputs, evaluate(program, expected, [residual], target.isa), strict=True):
        np.testing.assert_array_equal(output, reference)


def check_bits(rng: np.random.Generator, case: Case, target_name: str, *, fill: bool) -> None:
    target, inputs = target_for(target_name), [x > 0 for x in case.inputs(rng)]
    expected = selected(inputs, case.selection, case.pixels, fill)
    kernel = select_channels_bits(case.extent, case.selection, target.isa, case.pixels, (fill,))
    (output,) = run(kernel, target, *(pack_channels(bits, target.isa) for bits in inputs))
    np.testing.assert_array_equal(output, pack_channels(expected, target.isa))


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("channels", ["all", "padded"])
def test_rows_and_columns(channels: str, pixels: str, rng: np.random.Generator) -> None:
    check_floats(rng, case(channels, pixels), "x86-64-v3")
    check_bits(rng, case(channels, pixels), "x86-64-v3", fill=pixels == "padded")


@pytest.mark.parametrize("channels", ["two inputs", "some", "padded far"])
def test_channels_with_rows_and_columns(channels: str, rng: np.random.Generator) -> None:
    check_floats(rng, case(channels, "every second"), "x86-64-v3")
    check_bits(rng, case(channels, "padded"), "x86-64-v3", fill=True)


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_every_target(target_name: str, rng: np.random.Generator) -> None:
    check_floats(rng, case("padded", "padded"), target_name)
    check_bits(rng, case("padded", "padded"), target_name, fill=True)


def test_several_threads(rng: np.random.Generator) -> None:
    check_floats(rng, case("padded far", "twice", 4), "x86-64-v3")
    check_bits(rng, case("padded far", "twice", 4), "x86-64-v3", fill=True)


def test_each_digit_of_a_code_has_its_own_fill(rng: np.random.Generator) -> None:
    isa, padded = target_for("x86-64-v3").isa, case("padded", "padded")
    codes = rng.integers(0, 4, (2, HEIGHT, WIDTH, 16))
    expected = selected([codes], padded.selection, padded.pixels, 2)
    images = (4, *padded.extent[1:])
    kernel = select_channels_bits(images, padded.selection, isa, padded.pixels, (False, True))
    packed = pack_codes(codes, 2, isa)
    (output,) = run(kernel, target_for("x86-64-v3"), packed.reshape(4, HEIGHT, WIDTH, -1))
    np.testing.assert_array_equal(output.reshape(2, 2, *output.shape[1:]), pack_codes(expected, 2, isa))


def test_a_row_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="there is no row 5 of 5"):
        PixelSelection(5, 7, (0, 5), (0,))
