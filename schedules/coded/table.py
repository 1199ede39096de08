"""Code numbers with few distinct values, such as threshold planes, by a table of the values and indices into it."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.coding import pack_fields

from ..kernel import Kernel
from .bit_stream import Variables, expanding_kernel, field, int64, length

_MOST_BITS = 12  # maximum bits of an index


def encode(array: np.ndarray) -> Kernel | None:
    """The kernel that expands an array of integers or float32; None if it has too many distinct values."""
    # The bits of floats are compared: NaN and -0.0 are values like others.
    table, indices = np.unique(array.view(np.uint32) if array.dtype == np.float32 else array, return_inverse=True)
    width = max(1, (len(table) - 1).bit_length())
    if width > min(_MOST_BITS, 8 * array.itemsize - 1):
        return None
    constants = {
        "parameters": np.array([width], np.int32),
        "indices": pack_fields(indices.reshape(-1), width),
        "table": table.view(array.dtype),
    }
    return expanding_kernel(f"expand_table_{array.dtype}", constants, (array.size, str(array.dtype)), _body)


def _body(buffers: dict[str, tirx.Buffer], out: tirx.Buffer) -> None:
    width, index = T.bind(int64(buffers["parameters"][0])), Variables(1)
    with T.serial(int64(0), length(out)) as i:
        field(buffers["indices"], i * width, width, index, 0)
        T.buffer_store(out, buffers["table"][index[0]], [i])
