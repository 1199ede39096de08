"""Operations on unpacked bits in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shift_pixels(bits: np.ndarray, shifts: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """Circular shifts of a map [N, H, W, C] by rows and columns [C, 2] of each channel's own.

    ``out[n, y, x, c] = bits[n, (y - shifts[c][0]) % H, (x - shifts[c][1]) % W, c]``
    """
    return np.stack([np.roll(bits[..., c], tuple(shift), (1, 2)) for c, shift in enumerate(shifts)], -1)
