"""The result of a schedule: a TIR function and the constants packed for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

IN_PLACE = "sbnn.in_place"
"""Attribute of a kernel's function: pairs of parameters (tensor operand, output) that may share memory.

The function reads each element of such an operand once, before it stores the same element of the output.
"""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A scheduled kernel.

    Attributes:
        name: Family and tile, shown in the report, for example ``"popcount 7x4"``.
        func: ``func(data, *tensor operands, *constants, *outputs)``. Tensor operands are in the order of the epilogue's
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
        """Total size of the constants in bytes."""
        return sum(array.nbytes for array in self.constants)
