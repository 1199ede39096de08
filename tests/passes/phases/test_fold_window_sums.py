"""Layers that compare the sum over their set weights: the bits equal the reference's for every possible sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.domain import BIT, SIGN
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear, TwoValues
from sbnn_tvm.passes.layers import kinds
from sbnn_tvm.passes.phases.fold_window_sums import compare_two_sums, fold_window_sum
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    FloatOutput,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
)
from tests.support.grids import every

CHANNELS = 6


def program_of(scale: np.ndarray, offset: np.ndarray, *more: Step, threshold: Channel | Scalar) -> Program:
    """A program that computes ``D * scale + T * offset``, then more steps, and compares with a threshold."""
    own = (
        Step("multiply", Ref(0), Channel(scale.astype(np.float32))),
        Step("multiply", Pixel(0), Channel(offset.astype(np.float32))),
        Step("add", Ref(1), Ref(2)),
    )
    steps = (*own, *more)
    return Program(steps, (BitsOutput(Ref(len(steps)), threshold),))


@st.composite
def programs(draw: Any) -> Program:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    scale = rng.choice(np.float32([0.1, 1 / 3, 0.5, 0, 2.7]), CHANNELS)
    more = []
    if draw(st.booleans()):
        more.append(Step("multiply", Ref(3), Channel(rng.choice(np.float32([-0.7, 0.01, 1.3, 0]), CHANNELS))))
        more.append(Step("add", Ref(4), Channel(rng.standard_normal(CHANNELS).astype(np.float32))))
    if draw(st.booleans()):
        more.append(Step("prelu", Ref(3 + len(more)), Scalar(0.25)))
    values = rng.standard_normal(CHANNELS) if draw(st.booleans()) else rng.integers(-3, 4, CHANNELS) * 2 * scale
    return program_of(scale, scale, *more, threshold=Channel(values.astype(np.float32)))


@given(programs(), st.integers(1, 30), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_folds_exactly_where_the_sum_over_the_window_does_not_matter(
    program: Program, taps: int, padded: bool, seed: int
) -> None:
    counts = np.random.default_rng(seed).integers(0, taps + 1, CHANNELS)
    folded = fold_window_sum(program, counts, taps=taps, operand=0, fixed_parity=not padded)
    depends = False
    (output,) = program.outputs
    assert isinstance(output, BitsOutput) and isinstance(output.threshold, Channel)
    for c, n in enumerate(counts):
        # All pairs of sums over set and over other weights. Activations are signs; padded windows have zeros as well.
        step = 1 if padded else 2
        e, other = np.meshgrid(np.arange(-n, n + 1, step), np.arange(n - taps, taps - n + 1, step))
        e, t = e.reshape(-1), (e + other).reshape(-1)
        result = np.repeat((2 * e - t).astype(np.float32)[:, None], CHANNELS, axis=1)
        (value,) = evaluate(
            Program(program.steps, (FloatOutput(output.value),)), result, [t.astype(np.float32)[:, None]]
        )
        bits = value[:, c] > output.threshold.values[c]
        if folded is not None:
            np.testing.assert_array_equal((e >= folded.least[c]) ^ folded.inverted[c], bits)
        alike = [bits[e == each] for each in np.unique(e)]
        depends = depends or any(each.any() != each.all() for each in alike)
    assert (folded is None) == depends


def test_a_rounding_that_matters_is_not_folded() -> None:
    """At E = 5, the reference's sum of two rounded products is below or above 1.0000001, depending on T."""
    scale = np.full(CHANNELS, 0.1, np.float32)
    program = program_of(scale, scale, threshold=Scalar(1.0))
    assert fold_window_sum(program, np.full(CHANNELS, 9), taps=300, operand=0, fixed_parity=True) is None
    assert fold_window_sum(program, np.full(CHANNELS, 4), taps=300, operand=0, fixed_parity=True) is not None


@pytest.mark.parametrize(
    "scale, offset, more",
    [(1.0, -1.0, ()), (1.0, 0.5, ()), (0.5, 0.5, (Step("multiply", Ref(3), Pixel(0)),)),
     (0.5, 0.5, (Step("add", Ref(3), Pixel(1)),)), (0.5, 0.5, (Step("prelu", Ref(3), Scalar(-1.0)),))],
    ids=["another weight is 0", "no weight is 0", "times the sum", "another operand", "not monotone"],
)  # fmt: skip
def test_what_does_not_fold(scale: float, offset: float, more: tuple[Step, ...]) -> None:
    program = program_of(np.full(CHANNELS, scale), np.full(CHANNELS, offset), *more, threshold=Scalar(0.0))
    assert fold_window_sum(program, np.full(CHANNELS, 5), taps=30, operand=0, fixed_parity=True) is None


@given(st.sampled_from([-0.33, 0.9, 0.1]), st.integers(5, 30), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_two_sums_give_the_bits(offset: float, taps: int, padded: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale, counts = np.full(CHANNELS, np.float32(0.37)), rng.integers(0, taps // 2, CHANNELS)
    more = Step("multiply", Ref(3), Channel(rng.choice(np.float32([-0.7, 0.01, 1.3, 0]), CHANNELS)))
    program = program_of(scale, np.full(CHANNELS, offset), more, threshold=Channel(rng.standard_normal(CHANNELS)))
    slope = (offset / 0.37 - 1) / 2
    tried = [(shift, round(slope * 2**shift)) for shift in range(1, 21)]
    found = compare_two_sums(program, counts, taps=taps, operand=0, fixed_parity=not padded, window=STORE, tried=tried)
    assert found is not None and (found.shift, found.factor) in tried
    (output,) = program.outputs
    for c, n in enumerate(counts):
        step = 1 if padded else 2
        e, other = np.meshgrid(np.arange(-n, n + 1, step), np.arange(n - taps, taps - n + 1, step))
        e, t = e.reshape(-1), (e + other).reshape(-1)
        result = np.repeat((2 * e - t).astype(np.float32)[:, None], CHANNELS, axis=1)
        (value,) = evaluate(
            Program(program.steps, (FloatOutput(output.value),)), result, [t.astype(np.float32)[:, None]]
        )
        answer = ((e << found.shift) + found.factor * t >= found.least[c]) ^ found.inverted[c]
        np.testing.assert_array_equal(answer, value[:, c] > output.thresholds[0].values[c])
    wrong = [(1, round(slope * 2) + 7)]
    assert (
        compare_two_sums(
            program, np.maximum(counts, 2), taps=taps, operand=0, fixed_parity=not padded, window=STORE, tried=wrong
        )
        is None
    )


def network(
    *, groups: int = 1, density: float = 0.05, pad_value: int = 0, float_end: bool = False, offset: float = 0.37
) -> nn.Module:
    torch.manual_seed(0)

    def weights(layer: Any) -> Any:
        with torch.no_grad():
            layer.weight.copy_(torch.rand_like(layer.weight) - (1 - density))
            layer.values.tau.fill_(0.37)
            layer.values.phi.fill_(offset)
        return layer

    def norm(channels: int) -> nn.Module:
        layer = nn.BatchNorm2d(channels)
        with torch.no_grad():
            layer.running_mean.normal_(0, 2)
            layer.running_var.uniform_(2, 9)
            layer.weight.normal_(0.5)
        return layer

    conv = BinaryConv2d(64, 70, 3, padding=1, groups=groups, padding_value=pad_value, domain=TwoValues(per="channel"))
    middle = [nn.PReLU(70), nn.AvgPool2d(9)] if float_end else [Binarize(70), nn.MaxPool2d(9)]
    end = [nn.Flatten(), *([Binarize(70)] if float_end else []), weights(BinaryLinear(70, 67, domain=TwoValues()))]
    return nn.Sequential(Binarize(64), weights(conv), norm(70), *middle, *end, nn.BatchNorm1d(67), Binarize(67)).eval()


@pytest.mark.parametrize(
    "options, target",
    [({}, "native"), ({"groups": 2, "density": 0.4}, "native"), ({"pad_value": -1, "density": 0.4}, "arm")],
    ids=str,
)
def test_networks_of_set_weights(options: dict[str, Any], target: str) -> None:
    kernels = {"*": "popcount"} if options else None
    module = sbnn_tvm.compile(network(**options), target, input_shape=(2, 64, 9, 9), kernels=kernels)
    assert module.verify().passed
    lines = [layer for layer in module.report.layers if layer.weights]
    assert {layer.weights for layer in lines} == {"{0, 0.74}"}
    assert all(layer.kernel.endswith("+ threshold") for layer in lines)
    assert not any("window" in layer.kind for layer in module.report.layers)
    conv = lines[0]
    assert conv.kernel.startswith("popcount" if options else "counters of bits")
    assert conv.density == pytest.approx(options.get("density", 0.05), abs=0.01)
    assert [
        each.layer.weight_domain for each in module.lowered.layers if isinstance(each.layer, kinds.BinaryLinearLayer)
    ] == [BIT] * 2


@pytest.mark.parametrize("density", [0.05, 0.95])
def test_counters_use_the_window_sum_if_it_exists(density: float) -> None:
    module = sbnn_tvm.compile(network(density=density, float_end=True), "native", input_shape=(2, 64, 9, 9))
    assert module.verify().passed
    conv = next(each for each in module.lowered.layers if isinstance(each.layer, kinds.BinaryConvolution))
    assert isinstance(conv.layer, kinds.BinaryConvolution) and conv.layer.weight_domain == SIGN
    assert conv.choice.kernel.name.startswith("counters of bits")


@pytest.mark.parametrize(
    "options", every(2, [{"density": 0.95}, {}, {"groups": 2, "density": 0.2}, {"pad_value": 1}]), ids=str
)
def test_counters_of_any_two_values_sum_windows_themselves(options: dict[str, Any]) -> None:
    model = network(offset=-0.2, **options)
    module = sbnn_tvm.compile(model, "native", input_shape=(2, 64, 9, 9), kernels={"1": "counters"})
    assert module.verify().passed
    conv = next(each for each in module.lowered.layers if isinstance(each.layer, kinds.BinaryConvolution))
    assert conv.choice.kernel.name.startswith("counters of two values")
    assert sum("window" in layer.kind for layer in module.report.layers) == 1  # only the last layer still needs one
    popcounts = sbnn_tvm.compile(model, "native", input_shape=(2, 64, 9, 9), kernels={"*": "popcount"})
    assert sum("window" in layer.kind for layer in popcounts.report.layers) == 2
