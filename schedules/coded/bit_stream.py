"""Read bit streams in TIR. sbnn_tvm.algebra.coding packs them; the first bit is the lowest bit of the first byte.

All of this runs once, when a library is loaded, so loops are not unrolled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import keep_rolled


def expanding_kernel(
    name: str,
    constants: dict[str, np.ndarray],
    out: tuple[int, str],
    body: Callable[[dict[str, tirx.Buffer], tirx.Buffer], None],
) -> Kernel:
    """A kernel ``func(*constants, out)`` on flat arrays of any length.

    Args:
        name: Name of the function.
        constants: The coded arrays.
        out: Number of elements and dtype of the output.
        body: Emits the code. It gets the buffers of the constants, by name, and the buffer of the output.
    """

    def size(key: str) -> tuple[tirx.Var]:
        return (tirx.Var(f"{key}_size", "int64"),)

    with KernelBuilder(name) as builder:
        buffers = {
            key: builder.constant(key, np.ascontiguousarray(array).reshape(-1), shape=size(key))
            for key, array in constants.items()
        }
        body(buffers, builder.output((out[0],), out[1], parameter_shape=size("out")))
    return builder.kernel()


def length(buffer: tirx.Buffer) -> tirx.Expr:
    """Number of elements of a flat buffer, int64."""
    return buffer.shape[0]


def as_bytes(buffer: tirx.Buffer) -> tirx.Buffer:
    """The same memory as uint8."""
    size = tvm.DataType(buffer.dtype).bits // 8
    return T.decl_buffer((length(buffer) * size,), "uint8", data=buffer.data)


class Variables:
    """Mutable int64 variables of the emitted code, initially 0; LLVM keeps them in registers."""

    def __init__(self, count: int) -> None:
        self._memory = T.alloc_buffer((count,), "int64")
        for index in range(count):
            self[index] = 0

    def __getitem__(self, index: int) -> tirx.Expr:
        return self._memory[index]

    def __setitem__(self, index: int, value: tirx.Expr | int) -> None:
        T.buffer_store(self._memory, int64(value), [index])


def int64(value: tirx.Expr | int) -> tirx.Expr:
    """A number as int64."""
    return tirx.const(value, "int64") if isinstance(value, int) else tirx.Cast("int64", value)


def bit(stream: tirx.Buffer, at: tirx.Expr) -> tirx.Expr:
    """Bit ``at`` (int64) of a stream, as int64."""
    return (int64(stream[at >> int64(3)]) >> (at & int64(7))) & int64(1)


def field(stream: tirx.Buffer, at: tirx.Expr, width: tirx.Expr, value: Variables, index: int) -> None:
    """Read ``width`` bits, up to 32, from bit ``at`` on into variable ``index``, the lowest bit first."""
    first, skipped = T.bind(at >> int64(3)), T.bind(at & int64(7))
    value[index] = 0
    with T.serial(int64(0), (skipped + width + int64(7)) >> int64(3)) as i:
        keep_rolled()
        value[index] = value[index] | (int64(stream[first + i]) << (i << int64(3)))
    value[index] = (value[index] >> skipped) & ((int64(1) << width) - int64(1))


def positions(
    quotients: tirx.Buffer,
    remainders: tirx.Buffer,
    remainder_bits: tirx.Expr,
    put: Callable[[tirx.Expr, tirx.Expr], None],
) -> None:
    """Decode a Rice code (sbnn_tvm.algebra.coding.Rice): emit ``put(number, position)`` for each set bit, in order."""
    state = Variables(3)  # the next position, its index, and the remainder
    with T.serial(int64(0), length(quotients) * int64(8)) as at, T.If(bit(quotients, at) != 0):
        with T.Then():
            field(remainders, state[1] * remainder_bits, remainder_bits, state, 2)
            state[0] = state[0] + state[2]
            put(state[1], state[0])
            state[0] = state[0] + int64(1)
            state[1] = state[1] + int64(1)
        with T.Else():
            state[0] = state[0] + (int64(1) << remainder_bits)
