"""Packed words of channels in groups, as the binary convolutions read them."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_codes


def pack_groups(codes: np.ndarray, groups: int, isa: Isa, bits: int = 1) -> np.ndarray:
    """Pack codes of some bits (bits themselves are codes of one) along the channels; every group starts a new word."""
    return np.concatenate([pack_codes(group, bits, isa) for group in np.split(codes, groups, axis=-1)], axis=-1)
