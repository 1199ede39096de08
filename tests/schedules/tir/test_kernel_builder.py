"""The parameters of a kernel, in the order that all kernels share, and the LLVM functions that are linked into it."""

from __future__ import annotations

import numpy as np
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.kernel import IN_PLACE
from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder, Role
from sbnn_tvm.schedules.tir.llvm import fence
from sbnn_tvm.schedules.tir.vectors import VectorType, load, store
from tests.support.kernel_execution import run, target_for


def test_parameters_in_order() -> None:
    table, scale = np.arange(4, dtype=np.float32), np.full(4, 2, np.float32)
    with KernelBuilder("ordered") as builder:
        out = builder.output((4,), "float32")
        scales = builder.constant("scale", scale, Role.EPILOGUE_CONSTANT)
        tensor = builder.tensor("tensor0", (4,))
        own = builder.constant("table", table)
        data = builder.data((4,), "float32")
        builder.in_place = ((0, 0),)
        store(out, load(data, (), 0, 4) * load(scales, (), 0, 4) + load(tensor, (), 0, 4) + load(own, (), 0, 4), (), 0)
    kernel = builder.kernel("ordered 4")
    assert [param.name for param in kernel.func.params] == ["data", "tensor0", "table", "scale", "out"]
    assert [[int(place) for place in pair] for pair in kernel.func.attrs[IN_PLACE]] == [[1, 4]]
    assert kernel.constants == (table, scale) and kernel.outputs == (((4,), "float32"),)
    x, y = np.float32([1, 2, 3, 4]), np.float32([10, 20, 30, 40])
    (result,) = run(kernel, target_for("x86-64"), x, y)
    np.testing.assert_array_equal(result, 2 * x + y + table)


def test_functions_that_are_called_are_linked() -> None:
    vector = VectorType("float32", 4)
    with KernelBuilder("outer") as outer:
        data, out = outer.data((4,), "float32"), outer.output((4,), "float32")
        store(out, T.bind(fence(vector)(load(data, (), 0, 4))), (), 0)
        with KernelBuilder("inner") as inner:
            inner.data((4,), "float32")
            inner.output((4,), "float32")
    assert f"@sbnn_fence_{vector}" in outer.kernel().func.script(show_meta=True)
    assert "@sbnn_fence" not in inner.kernel().func.script(show_meta=True)
