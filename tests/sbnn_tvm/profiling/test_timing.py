"""Timing: only what does not depend on how fast the machine is."""

import time

import pytest

from sbnn_tvm.profiling.timing import Timing, interleave


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
