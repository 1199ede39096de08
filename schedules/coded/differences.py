"""Code integers that grow in small steps, such as the offsets in weight lists, by a Rice code of their differences.

A number is the sum of the number ``stride`` places before it and a difference. If a difference is too large, the stream
has an escape, so many zeros, followed by the number itself. The same is done for negative differences, unless all
differences are coded with their signs. All numbers are divided by a common factor.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..kernel import Kernel
from ..tir.llvm import keep_rolled
from .bit_stream import Variables, bit, expanding_kernel, field, int64, length

_ESCAPES = (6, 10, 20)  # zeros of the unary part that mark an escape, one of them
_WIDEST = 32  # maximum bits of a number


def encode(array: np.ndarray) -> Kernel | None:
    """The kernel that expands an array of integers; None if they are negative or have more than 32 bits."""
    if array.size == 0 or array.min() < 0 or int(array.max()) >= 1 << _WIDEST:
        return None
    flat = array.reshape(-1).astype(np.int64)
    factor = max(1, int(np.gcd.reduce(flat)))
    factor = factor if factor < 1 << 31 else 1  # stored as an int32 parameter
    numbers = flat // factor
    width = max(1, int(numbers.max()).bit_length())
    strides = {1, array.shape[-1]} if array.ndim > 1 and array.shape[-1] <= 8 else {1}
    codes = (
        (*_cheapest(_symbols(numbers, stride, least), width, escape), stride, least, escape)
        for escape in _ESCAPES
        for stride in strides
        for least in (0, 1, _SIGNED)
    )
    _, k, symbols, stride, least, escape = min(codes, key=lambda each: each[0])
    constants = {
        "parameters": np.array([k, width, stride, least, factor, escape], np.int32),
        "stream": _stream(numbers, symbols, k, width, escape),
    }
    return expanding_kernel(f"expand_differences_{array.dtype}", constants, (array.size, str(array.dtype)), _body)


_SIGNED = -1  # in place of the least difference: symbols 0, 1, 2, 3, 4, ... are differences 0, -1, 1, -2, 2, ...


def _symbols(numbers: np.ndarray, stride: int, least: int) -> np.ndarray:
    """The symbols of the differences, from 0 on; negative where a number needs an escape."""
    differences = numbers - np.concatenate([np.zeros(stride, np.int64), numbers])[: len(numbers)]
    return np.where(differences < 0, -2 * differences - 1, 2 * differences) if least == _SIGNED else differences - least


def _cheapest(symbols: np.ndarray, width: int, escape: int) -> tuple[int, int, np.ndarray]:
    """Length in bits, the best Rice parameter k, and the symbols, -1 where k needs an escape."""
    best: tuple[int, int, np.ndarray] | None = None
    for k in range(width + 1):
        quotients = symbols >> k
        escapes = (quotients < 0) | (quotients >= escape)
        bits = int(np.where(escapes, escape + width, quotients + 1 + k).sum())
        if best is None or bits < best[0]:
            best = bits, k, np.where(escapes, -1, symbols)
    assert best is not None
    return best


def _stream(numbers: np.ndarray, symbols: np.ndarray, k: int, width: int, escape: int) -> np.ndarray:
    escapes = symbols < 0
    unary = np.where(escapes, escape, symbols >> k)
    lengths = np.where(escapes, escape + width, unary + 1 + k)
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(int(lengths.sum()), np.uint8)
    ends = (starts + unary)[~escapes]
    bits[ends] = 1
    for i in range(k):
        bits[ends + 1 + i] = symbols[~escapes] >> i & 1
    for i in range(width):
        bits[(starts + escape)[escapes] + i] = numbers[escapes] >> i & 1
    return np.packbits(bits, bitorder="little")


def _body(buffers: dict[str, tirx.Buffer], out: tirx.Buffer) -> None:
    stream, dtype = buffers["stream"], str(out.dtype)
    k, width, stride, least, factor, escape = (T.bind(int64(buffers["parameters"][i])) for i in range(6))
    state = Variables(3)  # the position in the stream, the quotient, the number
    with T.serial(int64(0), length(out)) as i:
        state[1] = 0
        with T.While(tirx.all(bit(stream, state[0]) == 0, state[1] < escape)):
            state[0] = state[0] + int64(1)
            state[1] = state[1] + int64(1)
        with T.If(state[1] < escape):
            with T.Then():
                state[0] = state[0] + int64(1)
                field(stream, state[0], k, state, 2)
                state[0] = state[0] + k
                symbol = T.bind((state[1] << k) | state[2])
                half = (symbol >> int64(1)) ^ -(symbol & int64(1))
                state[2] = tirx.Select(least < 0, half, symbol + least)
                with T.If(i >= stride), T.Then():
                    state[2] = state[2] + int64(out[i - stride])
            with T.Else():
                field(stream, state[0], width, state, 2)
                state[0] = state[0] + width
        T.buffer_store(out, tirx.Cast(dtype, state[2]), [i])
    with T.serial(int64(0), length(out)) as i:
        keep_rolled()
        T.buffer_store(out, tirx.Cast(dtype, int64(out[i]) * factor), [i])
