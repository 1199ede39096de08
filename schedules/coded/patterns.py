"""Code packed weights with few distinct kernels, by a codebook of the kernels and indices into it.

In packed weights [blocks, taps * words, lanes], a kernel has one bit per tap, and the bits of neighbouring taps are
``words * lanes`` words apart.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.coding import pack_fields

from ..kernel import Kernel
from ..tir.llvm import keep_rolled
from .bit_stream import Variables, expanding_kernel, field, int64, length

_TAPS = (9, 4, 25)  # taps of the kernel sizes that are tried: 3x3, 2x2, 5x5
_MOST_BITS = 12  # maximum bits of an index


def encode(array: np.ndarray) -> Kernel | None:
    """The kernel that expands an array of packed weights; None if it has too many distinct kernels."""
    if array.ndim < 3 or array.dtype.kind != "u":
        return None
    blocked = array.reshape(-1, *array.shape[-2:])
    found = (_with_taps(blocked, taps) for taps in _TAPS if blocked.shape[1] % taps == 0)
    return min((kernel for kernel in found if kernel is not None), key=lambda each: each.constant_bytes, default=None)


def _with_taps(array: np.ndarray, taps: int) -> Kernel | None:
    blocks, steps, lanes = array.shape
    run = steps // taps * lanes
    octets = array.reshape(blocks, taps, run).view(np.uint8)
    kernels = np.zeros((blocks, octets.shape[-1] * 8), np.uint32)
    for tap in range(taps):
        kernels |= np.unpackbits(octets[:, tap], axis=1, bitorder="little").astype(np.uint32) << np.uint32(tap)
    patterns, indices = np.unique(kernels, return_inverse=True)
    width = max(1, (len(patterns) - 1).bit_length())
    if width > min(_MOST_BITS, taps - 1):
        return None
    constants = {
        "parameters": np.array([width, blocks, taps, run], np.int32),
        "indices": pack_fields(indices.reshape(-1), width),
        "patterns": patterns,
    }
    return expanding_kernel(f"expand_patterns_{array.dtype}", constants, (array.size, str(array.dtype)), _body)


def _body(buffers: dict[str, tirx.Buffer], out: tirx.Buffer) -> None:
    width, blocks, taps, run = (T.bind(int64(buffers["parameters"][i])) for i in range(4))
    dtype = str(out.dtype)
    bits = tvm.DataType(dtype).bits
    index, zero = Variables(1), int64(0)
    with T.serial(zero, length(out)) as i:
        keep_rolled()
        T.buffer_store(out, tirx.const(0, dtype), [i])
    with T.serial(zero, blocks) as block, T.serial(zero, run) as word, T.serial(zero, int64(bits)) as j:
        field(buffers["indices"], ((block * run + word) * int64(bits) + j) * width, width, index, 0)
        pattern = T.bind(int64(buffers["patterns"][index[0]]))
        with T.serial(zero, taps) as tap:
            keep_rolled()
            at = (block * taps + tap) * run + word
            placed = tirx.Cast(dtype, (pattern >> tap) & int64(1)) << tirx.Cast(dtype, j)
            T.buffer_store(out, out[at] | placed, [at])
