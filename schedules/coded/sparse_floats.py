"""Code float32 weights that are mostly 0, by a Rice code of the positions of the nonzero weights, and their values."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.coding import Rice

from ..kernel import Kernel
from ..tir.llvm import keep_rolled
from .bit_stream import expanding_kernel, int64, length, positions

_MOST_SET = 0.9


def encode(array: np.ndarray) -> Kernel | None:
    """The kernel that expands a float32 array; None if too few of its numbers are 0."""
    flat = array.reshape(-1)
    numbers = flat.view(np.uint32) != 0  # -0.0 is stored as a value
    if numbers.mean() > _MOST_SET:
        return None
    # Append as many zeros: the code would list the zeros if more than half of the numbers were nonzero.
    code = Rice.encode(np.concatenate([numbers, np.zeros(flat.size, bool)])[None, :])
    constants = {
        "parameters": np.array([code.remainder_bits], np.int32),
        "quotients": code.quotients,
        "remainders": code.remainders,
        "values": np.append(flat[numbers], np.float32(0)),
    }
    return expanding_kernel("expand_floats", constants, (array.size, "float32"), _body)


def _body(buffers: dict[str, tirx.Buffer], out: tirx.Buffer) -> None:
    with T.serial(int64(0), length(out)) as i:
        keep_rolled()
        T.buffer_store(out, tirx.const(0, "float32"), [i])

    def put(number: tirx.Expr, position: tirx.Expr) -> None:
        T.buffer_store(out, buffers["values"][number], [position])

    positions(buffers["quotients"], buffers["remainders"], int64(buffers["parameters"][0]), put)
