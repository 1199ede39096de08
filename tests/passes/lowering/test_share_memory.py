"""Buffers share memory only if their elements have the same type."""

from __future__ import annotations

import pytest
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.tirx.script import builder as T

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.passes.lowering.share_memory import share_memory
from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder


def one_after_the_other(first: str, second: str) -> IRModule:
    """A kernel that fills a buffer and reads it, and then fills and reads another."""
    with KernelBuilder("kernel") as builder:
        data, out = builder.data((512,), "float32"), builder.output((512,), "float32")
        for dtype in (first, second):
            buffer = T.alloc_buffer((512,), dtype)
            with T.serial(0, 512) as i:
                T.buffer_store(buffer, tirx.Cast(dtype, data[i]), [i])
            with T.serial(0, 512) as i:
                T.buffer_store(out, tirx.Cast("float32", buffer[511 - i]) + out[i], [i])
    func = builder.kernel().func.with_attr("target", resolve("x86-64").target)
    module = IRModule({"kernel": func})
    for each in (
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
    ):
        module = each(module)
    return module


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [("float32", "float32", 1), ("float32", "uint32", 2), ("uint64", "uint16", 2), ("uint16", "uint64", 2)],
)
def test_memory_is_shared_by_equal_types_only(first: str, second: str, left: int) -> None:
    module = one_after_the_other(first, second)
    assert module.script().count("alloc_buffer") == 2
    merged = share_memory(module)
    assert merged.script().count("alloc_buffer") == left
    assert merged["kernel"].attrs["target"].same_as(module["kernel"].attrs["target"])
    if second != "uint64":  # what TVM does by itself: a large buffer holds a smaller one of any type
        assert tirx.transform.StorageRewrite()(module).script().count("alloc_buffer") == 1
