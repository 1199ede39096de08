"""Timing: only what does not depend on how fast the machine is."""

import time

import pytest

import sbnn_tvm
from sbnn_tvm.profiling.timing import Timing, interleave
from tests.support import foreign_models


def test_timing_of_calls():
    assert Timing.of([3.0, 1.0, 2.0, 9.0]) == Timing(minimum=1.0, median=2.5, runs=4)


def test_functions_take_turns_and_a_slow_one_is_timed_too():
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    times = interleave({"slow": lambda: call("slow", 0.03), "fast": lambda: call("fast", 0.001)}, seconds=0.01)
    assert times["slow"].runs == 3  # the first call of a burst is not counted
    assert times["fast"].runs > 3
    assert [name for i, name in enumerate(order) if not i or order[i - 1] != name] == ["slow", "fast"] * 3
    assert times["slow"].minimum >= 0.03 > times["fast"].minimum
    assert times["slow"].minimum <= times["slow"].median


def test_an_error_of_a_function_is_not_hidden():
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        interleave({"fail": fail}, seconds=0.01)


def test_the_profile_names_every_layer_and_its_limit():
    module = sbnn_tvm.compile(foreign_models.vgg(channels=32, size=8, hidden=32))
    times = module.profile(seconds=0.001)
    kernels = {layer.name: layer for layer in module.report.layers}
    assert set(kernels) <= {time.layer for time in times}
    for time_ in times:
        assert time_.seconds > 0 and time_.share > 0 and time_.bytes > 0
        layer = kernels.get(time_.layer)
        if layer is not None and layer.macs and time_.kernel == layer.kernel:
            assert (time_.macs, time_.limit) == (layer.macs, "popcount" if layer.binary else "float32")
        elif time_.macs == 0:
            assert time_.limit == "loads, L2"
