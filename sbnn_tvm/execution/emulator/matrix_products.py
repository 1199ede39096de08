"""The matrix products of i8mm, which unicorn lacks: they are computed when it meets them."""

from __future__ import annotations

import numpy as np
import unicorn
from unicorn import arm64_const

_MASK = 0xFFE0_FC00
_TYPES = {0x4E80_A400: ("i1", "i1"), 0x6E80_A400: ("u1", "u1"), 0x4E80_AC00: ("u1", "i1")}
"""``smmla``, ``ummla`` and ``usmmla`` without registers: the types of both factors."""

_UNDEFINED = 1  # QEMU's number of the exception


def add_matrix_products(uc: unicorn.Uc) -> None:
    """Let an emulated AArch64 CPU execute them; every other undefined instruction stops it, as before."""
    uc.hook_add(unicorn.UC_HOOK_INTR, _execute)


def _execute(uc: unicorn.Uc, exception: int, user_data: object) -> None:
    counter = int(uc.reg_read(arm64_const.UC_ARM64_REG_PC))
    word = int.from_bytes(uc.mem_read(counter, 4), "little")
    types = _TYPES.get(word & _MASK)
    if exception != _UNDEFINED or types is None:
        raise unicorn.UcError(unicorn.UC_ERR_EXCEPTION)
    result, *registers = (arm64_const.UC_ARM64_REG_Q0 + (word >> at & 31) for at in (0, 5, 16))
    rows, columns = (
        _vector(uc, register, of).reshape(2, 8).astype(np.int32) for register, of in zip(registers, types, strict=True)
    )
    sums = _vector(uc, result, "<i4").reshape(2, 2) + rows @ columns.T
    uc.reg_write(result, int.from_bytes(sums.astype("<i4").tobytes(), "little"))
    uc.reg_write(arm64_const.UC_ARM64_REG_PC, counter + 4)


def _vector(uc: unicorn.Uc, register: int, dtype: str) -> np.ndarray:
    return np.frombuffer(int(uc.reg_read(register)).to_bytes(16, "little"), dtype)
