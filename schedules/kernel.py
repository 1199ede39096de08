"""A kernel as the schedules hand it over: a TIR function and the constants packed for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

IN_PLACE = "sbnn.in_place"
"""Attribute of a kernel's function: pairs of parameters, a tensor operand and an output that may take its place.

Of such an operand each element is read once, before the same element of the output is stored.
"""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A scheduled kernel.

    Attributes:
        name: Family and tile, as the report shows it, for example ``"popcount 7x4"``.
        func: ``func(data, *tensor operands, *constants, *outputs)``; tensor operands in the order of the epilogue's
            Tensor and Pixel indices, outputs in the order of the epilogue's outputs.
        constants: Packed weights, tables and per-channel vectors.
        outputs: Shape and dtype of each output.
    """

    name: str
    func: tirx.PrimFunc
    constants: tuple[np.ndarray, ...]
    outputs: tuple[tuple[tuple[int, ...], str], ...]

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants, as they are stored in the library."""
        return sum(array.nbytes for array in self.constants)
