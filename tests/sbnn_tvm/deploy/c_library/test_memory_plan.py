"""The memory plan of random programs: nothing overlaps that lives at the same time."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.deploy.c_library.memory_plan import ALIGNMENT, plan_memory
from sbnn_tvm.deploy.c_library.program import Buffer, Input, KernelCall, Output, Place, Program, Tensor, Workspaces


def random_program(rng: np.random.Generator, calls: int = 12) -> Program:
    """A chain with branches: each call reads one or two earlier values, and writes a new one."""
    known: list[Place] = [Input(0)]
    run, sizes = [], []
    for step in range(calls):
        read = tuple(known[i] for i in rng.integers(max(0, len(known) - 4), len(known), rng.integers(1, 3)))
        out: Place = Output(0) if step == calls - 1 else Buffer(step)
        sizes.append(int(rng.integers(1, 5000)))
        run.append(KernelCall(f"k{step}", (*read, out), (), 1, ""))
        known.append(out)
    serial = tuple(int(rng.integers(0, 2)) * int(rng.integers(1, 3000)) for _ in range(calls))
    x, y = Tensor("x", (3, 5), "float32"), Tensor("y", (sizes.pop(),), "uint8")
    return Program((x,), (y,), (), (), tuple(sizes), (), tuple(run), (), Workspaces(serial, 0, 0), False)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_overlaps(seed: int) -> None:
    program = random_program(np.random.default_rng(seed))
    plan = plan_memory(program)
    taken: list[dict[int, object]] = [{} for _ in range(len(program.run) + 1)]

    def take(owner: object, offset: int, size: int, steps: range) -> None:
        assert offset % ALIGNMENT == 0 and offset + size <= plan.size
        for step in steps:
            for byte in range(offset, offset + size, ALIGNMENT):
                assert taken[step].setdefault(byte, owner) == owner

    def steps(place: Place) -> range:
        uses = [step for step, call in enumerate(program.run) if place in call.places]
        return range(uses[0], uses[-1] + 1) if uses else range(0)

    for i, size in enumerate(program.buffers):
        take(("buffer", i), plan.buffers[i], size, steps(Buffer(i)))
    take("input", plan.inputs[0], program.inputs[0].bytes, range(0, max(steps(Input(0)), default=0) + 1))
    take("output", plan.outputs[0], program.outputs[0].bytes, range(steps(Output(0))[0], len(program.run) + 1))
    for step, size in enumerate(program.workspaces.serial):
        take(("workspace", step), plan.workspaces[step], size, range(step, step + 1))
    assert plan.largest_live_set <= plan.size <= 1.1 * plan.largest_live_set
