"""Write a function of few values as thresholds: how many of them the input exceeds says which value it has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from .ordinals import INFINITY, lowest_bit, numbers
from .pieces import MOST_VALUES, Pieces


@dataclass(frozen=True, eq=False)
class Steps:
    """A function that only rises, or in some lanes only falls: ``levels[number of thresholds that x exceeds]``.

    Attributes:
        levels: The values, ascending, float32 [K].
        last: Position of the last number below each step, int64 [K - 1, lanes]; ``INFINITY`` where it is never taken,
            ``-INFINITY - 1`` where it always is.
        falls: Lanes in which the function falls; their thresholds are those of ``-x``. bool [lanes].
        of_nan: The value for NaN, float64 [lanes].
    """

    levels: np.ndarray
    last: np.ndarray
    falls: np.ndarray
    of_nan: np.ndarray

    @classmethod
    def of(cls, pieces: Pieces) -> Steps | None:
        """The steps between pieces; None if a lane both rises and falls."""
        levels = pieces.levels
        columns, falls = [], []
        for starts, values in zip(pieces.starts, pieces.values, strict=True):
            down = len(values) > 1 and values[0] > values[-1]
            if down:  # in terms of -x, the pieces are reversed, and each begins after the end of the next one
                starts = np.concatenate([[-INFINITY], 1 - starts[:0:-1]])
                values = values[::-1]
            if (np.diff(values) < 0).any():
                return None
            # A level is reached where the first piece of at least its value begins.
            first = np.searchsorted(values, levels[1:])
            before = np.concatenate([[-INFINITY - 1], starts[1:] - 1, [INFINITY]])
            columns.append(before[first])
            falls.append(down)
        last = np.stack(columns, axis=1).astype(np.int64)
        return cls(levels.astype(np.float32), last, np.array(falls), pieces.of_nan)

    def spread(self, lane_of: np.ndarray) -> Steps:
        """The steps of all lanes, from those of distinct lanes: lane i is lane ``lane_of[i]`` of these."""
        return Steps(self.levels, self.last[:, lane_of], self.falls[lane_of], self.of_nan[lane_of])

    def exclusive(self) -> np.ndarray:
        """Thresholds t for ``x > t``, float32 [K - 1, lanes]."""
        return numbers(np.maximum(self.last, -INFINITY)).astype(np.float32)

    def inclusive(self) -> np.ndarray:
        """Thresholds t for ``x >= t``, float32 [K - 1, lanes]."""
        return numbers(np.minimum(self.last + 1, INFINITY)).astype(np.float32)

    @property
    def prefers_inclusive(self) -> bool:
        """Whether ``x >= t`` has the rounder thresholds. Example: ``x >= 0`` rather than ``x > -1.4e-45``."""
        inner = np.abs(self.last) < INFINITY - 1
        after, before = (_digits(self.last[inner] + more) for more in (1, 0))
        return int(after.sum()) < int(before.sum())


def _digits(positions: np.ndarray) -> np.ndarray:
    """Number of significant binary digits; more for numbers so small that some hardware takes them for 0."""
    values = numbers(positions)
    bit = lowest_bit(values)
    digits = np.where(values == 0, 0, np.log2(np.maximum(np.abs(values), bit) / np.where(values == 0, 1, bit)) + 1)
    return digits + 100 * ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class Grid:
    """Levels as arithmetic on codes, exact in float32: ``(code + before) * by + after``, or divided by ``by``.

    Attributes:
        codes: The code of each level, ascending from 0.
        before: Added to the code.
        by: Factor or divisor.
        divides: Whether it is a divisor.
        after: Added at the end.
    """

    codes: tuple[int, ...]
    before: float
    by: float
    divides: bool
    after: float

    @classmethod
    def of(cls, levels: np.ndarray) -> Grid | None:
        """The arithmetic that gives exactly these ascending levels, float32 [K]; None if none of this kind does."""
        exact = levels.astype(np.float64)
        gaps = np.diff(exact)
        least = gaps.min()
        for parts in (1, 2, 3):
            codes = np.rint((exact - exact[0]) / (least / parts))
            even = np.abs(exact[0] + codes * (exact[-1] - exact[0]) / codes[-1] - exact).max()
            if codes[-1] >= MOST_VALUES:
                return None
            if even <= 2**-21 * np.abs(exact).max():
                break
        else:
            return None
        step = (exact[-1] - exact[0]) / codes[-1]
        codes32 = codes.astype(np.float32)
        zero = np.rint(exact[0] / step)
        shifts = [0.0] if exact[0] == 0 else [float(zero)] if abs(zero) < 256 else []
        factors = dict.fromkeys(float(np.float32(each)) for each in (step, gaps[0], *_ratios(exact, codes + zero)))
        ways = [(before, by, False, 0.0) for before, by in product(shifts, factors)]
        ways += [(before, float(np.rint(1 / step)), True, 0.0) for before in shifts if step < 1]
        ways += [(0.0, by, False, float(exact[0])) for by in factors]
        for before, by, divides, after in ways:
            with np.errstate(all="ignore"):
                inner = codes32 + np.float32(before)
                value = (inner / np.float32(by) if divides else inner * np.float32(by)) + np.float32(after)
            if np.array_equal(value, levels):
                return cls(tuple(int(code) for code in codes), before, by, divides, after)
        return None


def _ratios(levels: np.ndarray, codes: np.ndarray) -> list[float]:
    """Steps that some level suggests, and their neighbours in float32."""
    found: list[float] = []
    for level, code in zip(levels, codes, strict=True):
        if code:
            step = np.float32(level / code)
            found += [float(step), *(float(np.nextafter(step, np.float32(end))) for end in (0, np.inf))]
    return found
