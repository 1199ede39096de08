"""Choose a coding for a constant. The library stores the coded form and expands it once, when it is loaded.

The form that a kernel reads is often several times larger than its information: lists of offsets, planes of thresholds,
or words with few set bits. :func:`expansion` looks at the array alone, so kernels are independent of codings. It tries
each coding and takes the smallest result if the saving is worth a call. The code of an expanding kernel does not depend
on sizes, so a library holds it once.
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
"""Minimum saving of a coding, in bytes, that is worth a call."""


@dataclass(frozen=True, eq=False)
class Expansion:
    """A coded constant of a kernel.

    Attributes:
        coding: Name of the coding, for reports.
        kernel: ``func(*constants, out)``, which expands the constant into a flat array.
        shape: Shape of the expanded constant.
        dtype: dtype of the expanded constant.
    """

    coding: str
    kernel: Kernel
    shape: tuple[int, ...]
    dtype: str


def expansion(array: np.ndarray) -> Expansion | None:
    """The smallest coding of a constant; None if it should be stored unchanged.

    Args:
        array: The constant: float32 or integers, contiguous.
    """
    kernels: list[tuple[str, Kernel | None]]
    if array.nbytes <= LEAST_SAVED or array.dtype.itemsize > 8:
        return None
    if array.dtype == np.float32:
        kernels = [("sparse", expand_floats.encode(array)), ("table", expand_table.encode(array))]
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
