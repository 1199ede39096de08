"""The code of an epilogue against its interpreter, bit by bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Border,
    Channel,
    CodesOutput,
    Element,
    FloatOutput,
    Number,
    Operand,
    Pixel,
    Program,
    Ref,
    Sample,
    SampleChannel,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.epilogue.writer import EpilogueWriter
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.words import pack_channels, unpack_channels
from sbnn_tvm.schedules.shapes import BorderClasses, Conv2dShape
from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder
from sbnn_tvm.schedules.tir.llvm import pack
from sbnn_tvm.schedules.tir.vectors import VectorType, load
from tests.support.grids import every
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal

CHANNELS = [1, 3, 16, 17, 63, 65, 100]


def rich_program(rng: np.random.Generator, channels: int, table: Border | None = None) -> Program:
    """Every kind of operand and output."""

    def constant() -> Channel:
        return Channel(normal(rng, channels))

    return Program(
        (
            Step("multiply", Ref(0), constant()),
            Step("add", Ref(1), table or constant()),
            Step("prelu", Ref(2), Scalar(0.25)),
            Step("add", Ref(3), Tensor(0)),
            Step("multiply", Ref(4), Pixel(1)),
            Step("subtract", Ref(5), Ref(1)),
        ),
        (
            FloatOutput(Ref(4)),
            BitsOutput(Ref(6), constant()),
            FloatOutput(Ref(6)),
            BitsOutput(Ref(3), Scalar(0.1), inclusive=True),
        ),
    )


def assert_same(outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("target_name", X86 + ARM)
def test_every_kind_of_operand_and_output(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = (2, 3, 5, channels)
    program = rich_program(rng, channels)
    data, tensors = normal(rng, *shape), [normal(rng, *shape), normal(rng, 2, 3, 5, 1)]
    outputs = run(elementwise(shape, program, target.isa), target, data, *tensors)
    assert_same(outputs, evaluate(program, data, tensors, target.isa))


@pytest.mark.parametrize("channels", [16, 65])
@pytest.mark.parametrize("target_name", X86 + ARM)
def test_operands_of_samples_and_computed_thresholds(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = (3, 2, 5, channels)
    steps = (Step("subtract", Ref(0), Sample(0)), Step("multiply", Ref(1), SampleChannel(1)))
    thresholds = (Sample(0), SampleChannel(1), Tensor(2), Pixel(3))
    program = Program(steps, (*(BitsOutput(Ref(2), each) for each in thresholds), FloatOutput(Ref(2))))
    data, sizes = normal(rng, *shape), [(3, 1), (3, channels), shape, (*shape[:3], 1)]
    tensors = [
        normal(rng, *size) - 0.5 for size in sizes
    ]  # below 0, the value that vectors hold beyond the last channel
    outputs = run(elementwise(shape, program, target.isa), target, data, *tensors)
    assert_same(outputs, evaluate(program, data, tensors, target.isa))


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_rows_of_features(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    program, data = rich_program(rng, 35), normal(rng, 4, 35)
    tensors = [normal(rng, 4, 35), normal(rng, 4, 1)]
    outputs = run(elementwise((4, 35), program, target.isa), target, data, *tensors)
    assert_same(outputs, evaluate(program, data, tensors, target.isa))


def store_in_runs(
    shape: tuple[int, ...], program: Program, isa: Isa, run_length: int, lanes: int, classes: BorderClasses
) -> Kernel:
    """A kernel that hands runs of some length to the writer; its data is padded to whole runs."""
    blocks = -(-shape[-1] // run_length)
    writer = EpilogueWriter(program, shape, isa, classes, tile=384)
    with KernelBuilder("stored_in_runs") as builder:
        data = builder.data((*shape[:-1], blocks * run_length), "float32")
        writer.declare(builder)
        with T.grid(*shape[:-1], blocks) as (n, y, x, block):
            starts = range(0, run_length, lanes)
            values = [load(data, (n, y, x), block * run_length + i, lanes) for i in starts]
            writer.store(values, (n, y, x), block * run_length)
    return builder.kernel("stored in runs")


@pytest.mark.parametrize(
    "run_length, lanes", every(2, [(8, 8), (16, 8), (64, 8), (32, 8), (64, 16), (128, 16), (48, 8), (8, 4)])
)
@pytest.mark.parametrize("isa", [isas.AVX2, isas.NEON], ids=["64-bit words", "16-bit words"])
def test_runs_of_any_length(isa: Isa, run_length: int, lanes: int, rng: np.random.Generator) -> None:
    target = target_for("x86-64-v3")
    for channels in (17, 64, 96, 100):
        shape = (2, 3, 4, channels)
        conv = Conv2dShape(2, 3, 4, 1, channels, (3, 3), (1, 1), (1, 1, 1, 1))
        table = Border(normal(rng, conv.border_classes().count, channels))
        program = rich_program(rng, channels, table)
        data, tensors = normal(rng, *shape), [normal(rng, *shape), normal(rng, 2, 3, 4, 1)]
        kernel = store_in_runs(shape, program, isa, run_length, lanes, conv.border_classes())
        padded = np.pad(data, [(0, 0)] * 3 + [(0, -channels % run_length)], constant_values=9)
        outputs = run(kernel, target, padded, *tensors)
        assert_same(outputs, evaluate(program, data, tensors, isa, conv.border_classes()))


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("target_name", X86 + ARM)
def test_ties_and_special_values(target_name: str, inclusive: bool) -> None:
    target = target_for(target_name)
    special = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan], np.float32)
    pairs = np.array(list(itertools.product(special, special)), np.float32)
    data, thresholds = np.ascontiguousarray(pairs[None, :, 0]), pairs[:, 1]
    outputs = (BitsOutput(Ref(0), Channel(thresholds), inclusive), BitsOutput(Ref(0), Scalar(1.5), inclusive))
    program = Program((), outputs)
    bits, scalar_bits = run(elementwise(data.shape, program, target.isa), target, data)
    with np.errstate(invalid="ignore"):
        expected = data >= thresholds if inclusive else data > thresholds
        scalar_expected = data >= 1.5 if inclusive else data > 1.5
    np.testing.assert_array_equal(unpack_channels(bits, data.shape[1]), expected)
    np.testing.assert_array_equal(bits, pack_channels(expected, target.isa))  # the tail is 0
    np.testing.assert_array_equal(scalar_bits, pack_channels(scalar_expected, target.isa))


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_products_are_rounded_before_they_are_added(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    data, scale = normal(rng, 64, 64), normal(rng, 64)
    product = data * scale
    # Minus the rounded product: 0, where a fused multiply-add leaves the rounding error.
    program = Program(
        (Step("multiply", Ref(0), Channel(scale)), Step("subtract", Ref(1), Tensor(0))), (FloatOutput(Ref(2)),)
    )
    (rest,) = run(elementwise(data.shape, program, target.isa), target, data, product)
    assert not rest.any()


@st.composite
def programs(draw: st.DrawFn, channels: int) -> Program:
    numbers = st.floats(-4, 4, width=32).map(lambda value: round(value, 2))
    constants = st.lists(numbers, min_size=channels, max_size=channels).map(lambda each: Channel(np.float32(each)))

    def operand(step: int) -> st.SearchStrategy[Operand]:
        refs = st.integers(0, step).map(Ref)
        return st.one_of(refs, refs, constants, numbers.map(Scalar), st.just(Tensor(0)), st.just(Pixel(1)))

    ops = st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "minimum", "prelu"])
    count = draw(st.integers(0, 6))
    steps = tuple(Step(draw(ops), draw(operand(i)), draw(operand(i))) for i in range(count))
    outputs = [BitsOutput(draw(operand(count)), draw(st.one_of(constants, numbers.map(Scalar))), draw(st.booleans()))]
    outputs += draw(st.lists(operand(count).map(FloatOutput), max_size=2))
    # Tensors that no step reads would have no parameter.
    used = (Step("add", Tensor(0), Pixel(1)),)
    return Program((*steps, *used), tuple(draw(st.permutations(outputs))))


@pytest.mark.parametrize("zero", [Step("subtract", Ref(0), Ref(0)), Step("multiply", Ref(0), Scalar(0.0))])
def test_zeros_that_are_folded_divide(zero: Step, rng: np.random.Generator) -> None:
    target = target_for("x86-64-v3")
    steps = (zero, Step("divide", Ref(0), Ref(1)), Step("divide", Ref(0), Scalar(0.0)))
    program = Program(steps, (FloatOutput(Ref(2)), FloatOutput(Ref(3))))
    values = normal(rng, 1, 2, 3, 9)
    outputs = run(elementwise(values.shape, program, target.isa), target, values)
    assert_same(outputs, evaluate(program, values, [], target.isa))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 3, 8, 21, 64, 70]), label="channels")
    program = data.draw(programs(channels), label="program")
    target = target_for(data.draw(st.sampled_from(["x86-64-v3", "x86-64"]), label="target"))
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    shape = (1, 2, 3, channels)
    values = np.round(normal(rng, *shape) * 4) / 4  # ties are likely
    tensors = [np.round(normal(rng, *shape)), np.round(normal(rng, 1, 2, 3, 1))]
    outputs = run(elementwise(shape, program, target.isa), target, values, *tensors)
    assert_same(outputs, evaluate(program, values, tensors, target.isa))


def test_wrong_constants_are_refused() -> None:
    program = Program((Step("add", Ref(0), Channel(np.zeros(3, np.float32))),), (FloatOutput(Ref(1)),))
    with pytest.raises(ValueError, match=r"Channel constant of an epilogue is \(3,\), not \(4,\)"):
        elementwise((1, 4), program, isas.AVX2)
    table = Program((Step("add", Ref(0), Border(np.zeros((9, 4), np.float32))),), (FloatOutput(Ref(1)),))
    with pytest.raises(ValueError, match="needs the border classes"):
        elementwise((1, 2, 2, 4), table, isas.AVX2)
    with pytest.raises(ValueError, match="24 bits are not 8, 16, 32 or 64"):
        pack("ult", VectorType("uint64", 8), 3)


def test_store_is_a_copy(rng: np.random.Generator) -> None:
    target = target_for("x86-64-v3")
    data = normal(rng, 2, 40, 33, 9)  # enough for several threads
    np.testing.assert_array_equal(run(elementwise(data.shape, STORE, target.isa), target, data)[0], data)


TIES = np.array(
    [0.5, 1.5, -0.5, -2.5, 126.5, 127.5, -128.5, 254.5, 255.5, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32
)


@pytest.mark.parametrize("channels", [1, 16, 37])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("target_name", X86 + ARM)
def test_integers_in_and_out(target_name: str, dtype: Element, channels: int, rng: np.random.Generator) -> None:
    """Ties, numbers beyond the type, infinities and NaN; the data and an operand are integers."""
    target = target_for(target_name)
    shape, info = (2, 3, 3, channels), np.iinfo(dtype)
    zero_point = int(rng.integers(info.min, info.max, endpoint=True))
    codes = [rng.integers(info.min, info.max, shape, dtype, endpoint=True) for _ in range(2)]
    program = Program(
        (Step("multiply", Ref(0), Scalar(0.5)), Step("add", Ref(1), Tensor(0, dtype)), Step("add", Ref(2), Tensor(1))),
        (
            CodesOutput(Ref(3), dtype, zero_point),
            CodesOutput(Ref(1), "uint8", 3),
            FloatOutput(Ref(3)),
            CodesOutput(Ref(3), dtype, Number(2, dtype)),  # a zero point that is known only at run time
            CodesOutput(Ref(1), "uint8", Number(3, "uint8")),
        ),
    )
    special = rng.choice(TIES, shape)
    operands = codes[1], special, np.full((1, 1), zero_point, dtype), np.full((1, 1), 3, np.uint8)
    outputs = run(elementwise(shape, program, target.isa, dtype), target, codes[0], *operands)
    assert_same(outputs, evaluate(program, codes[0], operands, target.isa))
    assert_same(outputs[3:], outputs[:2])
    value = codes[0].astype(np.float32) * np.float32(0.5)
    expected = np.clip(np.round(value) + 3, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(outputs[1], expected)


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_divisions_before_a_rounding(target_name: str, rng: np.random.Generator) -> None:
    """Numbers next to each tie, infinities and NaN; divisors of every kind; only the last two need a division."""
    target = target_for(target_name)
    scales = [np.float32(scale) for scale in (0.25, 3.0, 0.0231, 1 / 255, 7.3e-9, 28.999998, 1e20)]
    ties = np.concatenate([TIES, np.arange(-260.5, 260.5, dtype=np.float32)])
    near = [(ties * scale).astype(np.float32) for scale in scales]
    data = np.concatenate(
        [np.nextafter(x, towards) for x in near for towards in (x, np.float32(-1e38), np.float32(1e38))]
    )
    data = np.pad(data, (0, -len(data) % 16)).reshape(1, 1, -1, 16)
    program = Program(
        tuple(Step("divide", Ref(0), Scalar(float(scale))) for scale in scales),
        tuple(CodesOutput(Ref(i + 1), "uint8", 128) for i in range(len(scales))),
    )
    outputs = run(elementwise(data.shape, program, target.isa), target, data)
    assert_same(outputs, evaluate(program, data, [], target.isa))
