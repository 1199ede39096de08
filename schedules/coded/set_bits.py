"""Code words with few set bits, by a Rice code of the bits' positions.

A lane of the last axis (an output channel of packed weights) is stored inverted if most of its bits are set.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.coding import Rice

from ..kernel import Kernel
from ..tir.llvm import keep_rolled
from .bit_stream import as_bytes, expanding_kernel, int64, positions

_MOST_SET = 0.4  # with a larger share of set bits, a Rice code is not shorter than the bits


def encode(array: np.ndarray) -> Kernel | None:
    """The kernel that expands an array of integers; None if too many of its bits are set."""
    *_, steps, lanes = (1, 1, *array.shape)
    blocked = array.reshape(-1, steps, lanes)
    octets = blocked.view(np.uint8).reshape(*blocked.shape, array.itemsize)
    set_bits = np.bitwise_count(octets).sum(axis=(1, 3), dtype=np.int64)  # [blocks, lanes]
    inverted = 2 * set_bits > steps * array.itemsize * 8
    rarer = np.minimum(set_bits, steps * array.itemsize * 8 - set_bits)
    if rarer.sum() > _MOST_SET * array.nbytes * 8:
        return None
    minority = octets ^ (inverted[:, None, :, None] * np.uint8(255))
    bits = np.unpackbits(minority.reshape(1, -1), axis=1, bitorder="little")
    code = Rice.encode(bits)
    flags = inverted.astype(np.uint8) * np.uint8(255)
    extents = (len(blocked), steps, lanes, array.itemsize)
    if (flags == flags[:1, :1]).all():
        flags, extents = flags[:1, :1], (1, 1, 1, array.nbytes)
    constants = {
        "parameters": np.array([code.remainder_bits, *extents], np.int32),
        "quotients": code.quotients,
        "remainders": code.remainders,
        "inverted": flags,
    }
    return expanding_kernel(f"expand_bits_{array.dtype}", constants, (array.size, str(array.dtype)), _body)


def _body(buffers: dict[str, tirx.Buffer], out: tirx.Buffer) -> None:
    parameters, inverted, octets = buffers["parameters"], buffers["inverted"], as_bytes(out)
    remainder_bits, blocks, steps, lanes, size = (T.bind(int64(parameters[i])) for i in range(5))
    zero = int64(0)
    with T.serial(zero, blocks) as block, T.serial(zero, steps) as step, T.serial(zero, lanes) as lane:
        first = T.bind(((block * steps + step) * lanes + lane) * size)
        with T.serial(zero, size) as i:
            keep_rolled()
            T.buffer_store(octets, inverted[block * lanes + lane], [first + i])

    def put(number: tirx.Expr, position: tirx.Expr) -> None:
        at = position >> int64(3)
        mask = tirx.const(1, "uint8") << tirx.Cast("uint8", position & int64(7))
        T.buffer_store(octets, octets[at] ^ mask, [at])

    positions(buffers["quotients"], buffers["remainders"], remainder_bits, put)
