"""Vectors of one lane and of many: types, constants, partial loads and stores, transposes."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder
from sbnn_tvm.schedules.tir.vectors import VectorType, load, powers_of_two, store, transposed
from tests.support.kernel_execution import run, target_for


def test_types() -> None:
    many, one = VectorType("uint64", 4), VectorType("uint64", 1)
    assert [str(many), str(one)] == ["uint64x4", "uint64"]
    assert [many.llvm, one.llvm, VectorType("float32", 8).llvm] == ["<4 x i64>", "i64", "<8 x float>"]
    assert VectorType.of(many.constant(3)) == many and VectorType.of(one.constant(3)) == one
    assert isinstance(many.constant(3), tirx.Broadcast) and isinstance(one.constant(3), tirx.IntImm)
    assert VectorType.of(VectorType("int32", 4).cast(many.constant(1))) == VectorType("int32", 4)
    assert VectorType.of(VectorType("uint8", 32).reinterpret(many.constant(1))) == VectorType("uint8", 32)


@pytest.mark.parametrize("length", range(1, 17))
def test_powers_of_two(length: int) -> None:
    pieces = powers_of_two(length)
    assert [i for start, size in pieces for i in range(start, start + size)] == list(range(length))
    assert all(size & (size - 1) == 0 for _, size in pieces)


@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("valid", [-1, 0, 1, 3, 7, 8, 9])
def test_loads_and_stores_of_some_lanes(lanes: int, valid: int) -> None:
    with KernelBuilder("some_lanes") as builder:
        data, out = builder.data((2, 16), "float32"), builder.output((2, 16), "float32")
        for row in (0, 1):
            for first in range(0, 16, lanes):
                store(out, VectorType("float32", lanes).constant(-1), (row,), first)
        vector = T.bind(load(data, (1,), 3, lanes, valid))
        store(out, vector, (0,), 2)
        store(out, vector, (1,), 2, valid)
    data_array = np.arange(1, 33, dtype=np.float32).reshape(2, 16)
    (result,) = run(builder.kernel(), target_for("x86-64-v3"), data_array)
    read = max(0, min(valid, lanes))
    expected = np.full((2, 16), -1, np.float32)
    expected[0, 2 : 2 + lanes] = np.pad(data_array[1, 3 : 3 + read], (0, lanes - read))
    expected[1, 2 : 2 + read] = data_array[1, 3 : 3 + read]
    np.testing.assert_array_equal(result, expected)


def test_transposed() -> None:
    with KernelBuilder("transposed") as builder:
        data, out = builder.data((8, 8), "float32"), builder.output((8, 8), "float32")
        for i, column in enumerate(transposed([T.bind(load(data, (i,), 0, 8)) for i in range(8)])):
            store(out, column, (i,), 0)
    square = np.arange(64, dtype=np.float32).reshape(8, 8)
    (result,) = run(builder.kernel(), target_for("x86-64-v3"), square)
    np.testing.assert_array_equal(result, square.T)
