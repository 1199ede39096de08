"""The layout of values in memory: convert numpy arrays as in ONNX to the layout that kernels read, and back.

Where the compiler moved a transposition past an operator, the value has another order of axes as well.
"""

from __future__ import annotations

from math import prod

import numpy as np

from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.passes.lowering.lower import Physical, planes_of
from sbnn_tvm.passes.relax.graph import channels_last
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_codes, unpack_codes

from ..algebra.domain import codes


def encode(value: np.ndarray, physical: Physical, isa: Isa) -> np.ndarray:
    """Store a value, given as in ONNX, in the layout that kernels read."""
    if physical.view is not None:
        value = physical.view.store(value)
    if physical.form == Form.PLAIN:
        return np.asarray(value, order="C")  # ascontiguousarray would make a scalar an array
    last = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    if physical.form == Form.CHANNELS_LAST:
        return np.ascontiguousarray(last)
    domain = physical.bits_domain
    code = codes(domain, last.reshape(-1, last.shape[-1]) if value.ndim != 4 else last)
    if physical.form == Form.PLANES:
        return planes_of(physical.extent, isa).encode(code > 0)
    groups = np.split(code, physical.groups, axis=-1)
    return np.concatenate([pack_codes(group, domain.bits, isa) for group in groups], axis=-1)


def decode(array: np.ndarray, physical: Physical, isa: Isa) -> np.ndarray:
    """Read a value from that layout as in ONNX; bits and codes become uint8."""
    value = _decode(array, physical, isa)
    return value if physical.view is None else physical.view.read(value)


def shape_in_onnx(physical: Physical) -> tuple[int, ...]:
    """The shape of a value in ONNX."""
    return physical.extent if physical.view is None else physical.view.shape


def _decode(array: np.ndarray, physical: Physical, isa: Isa) -> np.ndarray:
    extent = physical.extent
    if physical.form == Form.PLAIN:
        return array.reshape(extent)
    if physical.form == Form.PLANES:
        array = planes_of(extent, isa).decode(array).astype(np.uint8)
    elif physical.form == Form.BITS:
        array = _unpack(array, physical)
    if len(extent) == 4:
        batch, channels, height, width = extent
        return np.moveaxis(array.reshape(batch, height, width, channels), -1, 1)
    return array.reshape(extent)


def _unpack(words: np.ndarray, physical: Physical) -> np.ndarray:
    *pixel, channels = channels_last(physical.extent)
    bits = physical.bits_domain.bits
    planes = words.reshape(pixel[0], *([bits] if bits > 1 else []), *pixel[1:], physical.groups, -1)
    return unpack_codes(planes, channels // physical.groups, bits).reshape(*pixel, channels)


def holds_rows(stored: tuple[int, ...], extent: tuple[int, ...]) -> bool:
    """Whether a value of shape ``extent`` may be stored in another shape (passes/phases/merge_leading_axes.py).

    Its leading axes may be merged to one, or it may have kept the axis, of size 1, that a reduction drops.
    """
    if stored == extent or prod(stored) != prod(extent):
        return False
    if len(stored) == len(extent) + 1:
        return extent == stored[:-1] or (len(stored) == 4 and extent == (stored[0], *stored[2:]))
    dropped = stored[2:] == (1,) and len(extent) > 2 and extent[-1] == stored[1]
    return len(stored) == 3 and (dropped or (len(extent) > 3 and extent[-2:] == stored[1:]))
