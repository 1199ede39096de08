"""Which loops are parallel, and how much work they say that they have."""

import pytest
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder
from sbnn_tvm.schedules.tir.loops import GRAIN, grains, one_thread, parallel_rows


def loop(rows: int, elements: int) -> tirx.For:
    with KernelBuilder("loop") as builder:
        out = builder.output((rows,), "float32")
        with parallel_rows(rows, elements) as row:
            T.buffer_store(out, tirx.const(0, "float32"), [row])
    body = builder.kernel().func.body
    while not isinstance(body, tirx.For):
        body = body.seq[-1] if isinstance(body, tirx.SeqStmt) else body.body
    return body


@pytest.mark.parametrize(("rows", "elements", "expected"), [(2, GRAIN, 1), (9, 5 * GRAIN - 1, 4), (3, 10 * GRAIN, 10)])
def test_the_work_of_a_parallel_loop_is_counted_in_grains(rows, elements, expected):
    parallel = loop(rows, elements)
    assert (parallel.kind, grains(parallel)) == (tirx.ForKind.PARALLEL, expected)
    with one_thread():
        assert loop(rows, elements).kind == tirx.ForKind.SERIAL


@pytest.mark.parametrize(("rows", "elements"), [(1, 10 * GRAIN), (9, GRAIN - 1)])
def test_small_loops_are_serial(rows, elements):
    assert loop(rows, elements).kind == tirx.ForKind.SERIAL
