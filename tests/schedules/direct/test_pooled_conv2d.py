"""A convolution and its max pooling in one kernel, against the two kernels one after the other; minimal filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.passes.families import float32
from sbnn_tvm.schedules.direct import pooled_conv2d as module
from sbnn_tvm.schedules.direct.conv2d import float_conv2d
from sbnn_tvm.schedules.direct.filtered_rows import filters_pay
from sbnn_tvm.schedules.direct.minimal_filters import MOST_TAPS, OUTPUTS, minimal_filter
from sbnn_tvm.schedules.direct.pooled_conv2d import can_pool, pooled_conv2d
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Border,
    Channel,
    FloatOutput,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.pooling import max_pool2d
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.reference.convolution import conv2d
from tests.support.small_models import small_model

Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]
"""Kernel, strides and padding of a pooling."""

CONV = Conv2dShape(1, 20, 27, 3, 40, (7, 7), (2, 2), (3, 3, 3, 3))
THREE = ((3, 3), (2, 2), (1, 1, 1, 1))
CASES = {
    "7x7/2, 3x3/2": (CONV, THREE),
    "batch": (replace(CONV, batch=3, out_channels=64), THREE),
    "3x3/1": (CONV, ((3, 3), (1, 1), (1, 1, 1, 1))),
    "no overlap": (CONV, ((2, 2), (2, 2), (0, 0, 0, 0))),
    "rows between the windows": (CONV, ((1, 2), (3, 3), (0, 0, 0, 0))),
    "5x5/1, wide border": (CONV, ((5, 5), (1, 1), (2, 2, 2, 2))),
    "asymmetric": (CONV, ((3, 2), (2, 1), (0, 1, 2, 0))),
    "odd channels": (replace(CONV, in_channels=5, out_channels=19), THREE),
    "1x1 after it": (CONV, ((1, 1), (1, 1), (0, 0, 0, 0))),
    "narrow": (Conv2dShape(2, 9, 1, 4, 8, (3, 1)), ((3, 1), (2, 1), (1, 0, 1, 0))),
}
cases = pytest.mark.parametrize("shape, window", CASES.values(), ids=CASES.keys())


def pooling(shape: Conv2dShape, window: Window) -> Conv2dShape:
    channels = shape.out_channels
    return Conv2dShape(shape.batch, shape.out_height, shape.out_width, channels, channels, *window)


def check(rng: np.random.Generator, shape: Conv2dShape, pool: Conv2dShape, target_name: str) -> None:
    """Exactly what the two kernels give, with epilogues that read and store whatever epilogues can."""
    target, channels = target_for(target_name), shape.out_channels
    x, weight = normal(rng, shape.batch, shape.height, shape.width, shape.in_channels), normal(rng, channels, 1, 1, 1)
    x[0, shape.height // 2, shape.width // 2] = np.nan  # ignored by the maximum
    weight = weight * normal(rng, channels, shape.in_channels, *shape.kernel)
    steps = (
        Step("multiply", Ref(0), Channel(normal(rng, channels))),
        Step("add", Ref(1), Channel(normal(rng, channels))),
    )
    before = Program((*steps, Step("prelu", Ref(2), Scalar(0.25))), (FloatOutput(Ref(3)),))
    border = Border(normal(rng, pool.border_classes().count, channels))
    after = Program(
        (Step("add", Ref(0), Tensor(0)), Step("multiply", Ref(1), border)),
        (FloatOutput(Ref(2)), BitsOutput(Ref(1), Channel(normal(rng, channels)))),
    )
    residual = normal(rng, pool.batch, pool.out_height, pool.out_width, channels)
    (between,) = run(float_conv2d(shape, weight, before, target.isa), target, x)
    expected = run(max_pool2d(pool, after, isa=target.isa), target, between, residual)
    results = run(pooled_conv2d(shape, weight, before, pool, after, isa=target.isa), target, x, residual)
    for result, reference in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, reference)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are convolved as the convolution's own kernel does it."""
    monkeypatch.setattr(module, "filters_pay", lambda shape: False)


@pytest.mark.usefixtures("direct")
@cases
def test_pooled_conv2d(
    shape: Conv2dShape, window: Window, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(module, "_TWICE", 0.5)  # several bands, though these maps are small
    check(rng, shape, pooling(shape, window), "x86-64-v3")


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("target_name", X86 + ARM)
def test_instruction_sets(target_name: str, rng: np.random.Generator) -> None:
    check(rng, CONV, pooling(CONV, THREE), target_name)


@pytest.mark.usefixtures("direct")
def test_one_band(rng: np.random.Generator) -> None:
    check(rng, CONV, pooling(CONV, CASES["5x5/1, wide border"][1]), "x86-64-v3")


@pytest.mark.parametrize("taps", range(1, MOST_TAPS + 1))
def test_minimal_filter(taps: int, rng: np.random.Generator) -> None:
    """As many products as inputs, and the same sums."""
    each = minimal_filter(taps)
    inputs, weights = rng.standard_normal(OUTPUTS + taps - 1), rng.standard_normal(taps)
    outputs = each.to_outputs @ ((each.of_taps @ weights) * (each.of_inputs @ inputs))
    assert each.products == OUTPUTS + taps - 1
    np.testing.assert_allclose(outputs, np.correlate(inputs, weights, "valid"), rtol=0, atol=1e-12)


FILTERED = {
    "7x7/2": CONV,
    "batch": replace(CONV, batch=2, height=11, width=14),
    "3x3/1": Conv2dShape(1, 9, 21, 4, 24, (3, 3), (1, 1), (1, 1, 1, 1)),
    "4 columns": Conv2dShape(1, 8, 40, 3, 16, (5, 4), (1, 1), (2, 0, 1, 3)),
    "stride 3": Conv2dShape(1, 20, 50, 2, 19, (9, 9), (3, 3), (4, 4, 4, 4)),
    "strides, dilated rows": Conv2dShape(1, 20, 23, 3, 8, (3, 6), (1, 2), (2, 3, 2, 1), (2, 1)),
    "columns are left over": Conv2dShape(1, 7, 30, 3, 8, (5, 5), (2, 4)),
    "narrow": Conv2dShape(2, 9, 3, 3, 8, (3, 3), (1, 1), (1, 1, 1, 1)),
}


def check_filtered(rng: np.random.Generator, shape: Conv2dShape, target_name: str) -> None:
    """Within the rounding of the direct sum, in units of the largest result."""
    target = target_for(target_name)
    x = normal(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    weight = normal(rng, shape.out_channels, shape.in_channels, *shape.kernel)
    bias = Channel(normal(rng, shape.out_channels))
    before = Program((Step("add", Ref(0), bias),), (FloatOutput(Ref(1)),))
    pool = pooling(shape, ((1, 1), (1, 1), (0, 0, 0, 0)))
    (result,) = run(pooled_conv2d(shape, weight, before, pool, STORE, isa=target.isa), target, x)
    expected = conv2d(x, weight, shape) + bias.values
    unit = np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=12 * unit)


@pytest.mark.parametrize("shape", FILTERED.values(), ids=FILTERED.keys())
def test_filtered_rows(shape: Conv2dShape, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(module, "filters_pay", lambda shape: True)
    check_filtered(rng, shape, "x86-64-v3")


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_filtered_rows_on_instruction_sets(target_name: str, rng: np.random.Generator) -> None:
    assert filters_pay(CONV)
    check_filtered(rng, CONV, target_name)


def test_where_filters_pay() -> None:
    """Wide windows of few channels, without what the transforms cannot do."""
    assert filters_pay(Conv2dShape(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)))
    assert not filters_pay(Conv2dShape(1, 224, 224, 3, 32, (3, 3), (2, 2), (1, 1, 1, 1)))
    assert not filters_pay(Conv2dShape(1, 56, 56, 64, 64))
    assert not filters_pay(Conv2dShape(1, 224, 224, 3, 64, (9, 9)))  # too many taps of one phase
    assert not filters_pay(replace(CONV, dilation=(1, 2)))
    assert not filters_pay(replace(CONV, in_channels=4, groups=2))


def test_what_cannot_be_pooled() -> None:
    shape, pool = CONV, pooling(CONV, THREE)
    add = Program((Step("add", Ref(0), Tensor(0)),), (FloatOutput(Ref(1)),))
    bits = Program((), (BitsOutput(Ref(0), Scalar(0.0)),))
    assert can_pool(shape, STORE, pool)
    assert not can_pool(shape, add, pool)
    assert not can_pool(shape, bits, pool)
    assert not can_pool(shape, STORE, replace(pool, dilation=(2, 2)))
    assert not can_pool(replace(shape, in_channels=4, groups=2), STORE, pool)
    with pytest.raises(ValueError, match="cannot be pooled"):
        pooled_conv2d(shape, np.zeros((40, 3, 7, 7), np.float32), add, pool, STORE, isa=target_for("x86-64").isa)


STEM = """
c = Conv<kernel_shape = [7, 7], strides = [2, 2], pads = [3, 3, 3, 3]>(x, w)
r = Relu(c)
p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r)
"""
STEM_WEIGHT = {"w": np.random.default_rng(0).standard_normal((32, 3, 7, 7))}
FORCED = {"Conv:c": "sparse_float"}


@pytest.mark.parametrize(
    "text, outputs, kernels, pooled",
    [
        (STEM + "y = Mul(p, p)", ["y"], {}, True),
        (STEM + "y = Add(p, x2)", ["y"], {}, True),
        (STEM + "y = Identity(p)", ["y", "r"], {}, False),
        (STEM + "y = Identity(p)\nz = Neg(r)", ["y", "z"], {}, False),
        (STEM + "y = Identity(p)", ["y"], FORCED, False),
    ],
    ids=["alone", "residual", "the map is an output", "the map has another reader", "another family"],
)
def test_compiled(
    text: str, outputs: list[str], kernels: dict[str, str], pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel where nothing else reads the map between; the report has both layers."""
    monkeypatch.setattr(float32, "POOLED_BYTES", 0)
    inputs = {"x": (1, 3, 30, 30)} | ({"x2": (1, 32, 8, 8)} if "x2" in text else {})
    compiled = sbnn_tvm.compile(small_model(text, inputs, STEM_WEIGHT, outputs), kernels=kernels)
    assert compiled.verify(samples=1).passed
    names = [layer.kernel.split()[0] for layer in compiled.report.layers]
    assert (names[:2] == ["pooled_conv2d"] * 2) == pooled
    assert compiled.report.layers[0].macs == 15 * 15 * 32 * 147
    if pooled and outputs == ["y"] and "x2" not in text:
        assert sum(each.macs for each in compiled.profile()) == compiled.report.layers[0].macs


def test_direct_sums_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32, "POOLED_BYTES", 0)
    model = small_model(STEM + "y = Mul(p, p)", {"x": (1, 3, 30, 30)}, STEM_WEIGHT, ["y"])
    for kernels, filtered in (({}, True), ({"Conv:c": "float"}, False)):
        stem = sbnn_tvm.compile(model, kernels=kernels).report.layers[0]
        assert stem.kernel.startswith("pooled_conv2d")
        assert ("filtered" in stem.kernel) == filtered
