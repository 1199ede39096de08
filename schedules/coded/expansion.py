"""Constants that lie in the library in a shorter coding, and are expanded once when it is loaded.

What a kernel wants to read is often several times larger than what it says: lists of offsets, planes of thresholds,
words with few set bits. :func:`expansion` looks at nothing but the array, so kernels need not know of it: each coding
is tried, and the smallest taken where it is worth a call. The code of an expanding kernel is independent of sizes, so
that a library holds it once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernel import Kernel
from . import differences as expand_differences
from . import patterns as expand_patterns
from . import set_bits as expand_bits
from . import sparse_floats as expand_floats
from . import table as expand_table

LEAST_SAVED = 1024
"""Bytes that a coding must save, to be worth a call."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """A constant of a kernel as it is stored.

    Attributes:
        coding: Its name, for reports.
        kernel: ``func(*constants, out)``: makes the constant, flat.
        shape: Of the constant.
        dtype: Of the constant.
    """

    coding: str
    kernel: Kernel
    shape: tuple[int, ...]
    dtype: str


def expansion(array: np.ndarray) -> Expansion | None:
    """The smallest coding of a constant, or None if it is best stored as it is.

    Args:
        array: The constant: float32 or integers, contiguous.
    """
    kernels: list[tuple[str, Kernel | None]]
    if array.nbytes <= LEAST_SAVED or array.dtype.itemsize > 8:
        return None
    if array.dtype == np.float32:
        kernels = [("sparse", expand_floats.encode(array))]
    elif array.dtype.kind in "iu":
        kernels = [
            ("rice", expand_bits.encode(array)),
            ("codebook", expand_patterns.encode(array)),
            ("table", expand_table.encode(array)),
            ("differences", expand_differences.encode(array)),
        ]
    else:
        return None
    best = min(
        ((kernel.constant_bytes, name, kernel) for name, kernel in kernels if kernel is not None),
        key=lambda each: each[0],
        default=None,
    )
    if best is None or best[0] + LEAST_SAVED > array.nbytes:
        return None
    return Expansion(best[1], best[2], array.shape, str(array.dtype))
