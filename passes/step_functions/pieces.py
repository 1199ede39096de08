"""Find the few values that a program takes, and between which numbers it changes from one to the next.

The line of float32 numbers is cut into intervals until each has a proof: the program is constant there, or monotone
with few levels, which bisection finds. Intervals are cut where a sign, a comparison, an extremum or a rounding changes,
and else at powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .interpreter import Interpretation, Rows, interpret
from .ordinals import INFINITY, numbers, ordinals
from .program import Program

MOST_VALUES = 16
ASSURED = 2.0**20
"""Up to this magnitude of the input everything must be proved."""
_Piece = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Lane, position of the first and of the last number, and value; arrays [pieces]."""
_MOST_ROWS_PER_LANE, _MOST_ROWS, _ROWS_AT_ONCE = 2000, 400_000, 4096


@dataclass(frozen=True, eq=False)
class Pieces:
    """A function of few values.

    Attributes:
        starts: For each lane the positions of the first numbers of its pieces, ascending, int64.
        values: For each lane the values of its pieces, float64.
        of_nan: The value of each lane for NaN, float64 [lanes].
        exact_within: Between these inputs the pieces are proved; outside the nearest piece goes on.
        nan_outside: Whether all numbers that were tried outside agree with the pieces, or give NaN.
    """

    starts: list[np.ndarray]
    values: list[np.ndarray]
    of_nan: np.ndarray
    exact_within: tuple[float, float]
    nan_outside: bool

    @property
    def levels(self) -> np.ndarray:
        """All values of all lanes, ascending, float64."""
        return np.unique(np.concatenate(self.values))


def find_pieces(program: Program, low: float = -np.inf, high: float = np.inf) -> Pieces | None:
    """Find the pieces of the last node of a program; None if there are too many, or something is not proved.

    Args:
        program: The program.
        low: The least input that can occur, except for NaN.
        high: The largest one.
    """
    if not looks_discrete(program, low, high):
        return None
    lanes = program.lanes
    bounds = ordinals(np.array([low, high], np.float32))
    lane = np.arange(lanes)
    starts = [np.full(lanes, each) for each in bounds]
    finite = [np.clip(each, 1 - INFINITY, INFINITY - 1) for each in starts]
    pending = Rows(lane, *finite)
    proved: list[_Piece] = []
    failed: list[Rows] = []
    budget = min(_MOST_ROWS_PER_LANE * lanes, _MOST_ROWS)
    while len(pending):
        budget -= len(pending)
        if budget < 0:
            return None
        every = np.arange(len(pending))
        later, pending = pending.take(every >= _ROWS_AT_ONCE), pending.take(every < _ROWS_AT_ONCE)
        found = interpret(program, pending)
        result = found.values[-1]
        single = pending.first == pending.last
        constant = (result.constant & ~result.unsure) | (single & ~np.isnan(found.first[-1]))
        rows = pending.take(constant)
        value = np.where(single, found.first[-1], result.low)[constant]
        proved.append((rows.lane, rows.first, rows.last, value))
        monotone = result.monotone & ~constant
        levels = _levels(program, pending.take(monotone))
        if levels is None:
            return None
        proved += levels
        cut, hopeless = _cut(program, pending, found, ~constant & ~monotone)
        pending = Rows.of([cut, later])
        if (_distance(hopeless) < ASSURED).any():
            return None
        failed.append(hopeless)
    return _assembled(program, proved, failed, (low, high))


def looks_discrete(program: Program, low: float = -np.inf, high: float = np.inf) -> bool:
    """Whether the result has few values at some inputs. A cheap test, which refuses functions that vary smoothly."""
    rng = np.random.default_rng(0)
    # the last ones are codes of 8 bits
    magnitude = np.concatenate([np.geomspace(1e-3, 1e3, 40), np.linspace(0, 4, 56), np.linspace(8, 256, 32)])
    x = np.concatenate([magnitude, -magnitude, rng.uniform(-2, 2, 32)])
    if np.isfinite(low) and np.isfinite(high):
        x = np.concatenate([x, np.linspace(low, high, 64)])
    x = np.clip(x, low, high).astype(np.float32).astype(np.float64)
    values = program.run(x, np.zeros(len(x), np.int64))[-1]
    return len(np.unique(values[~np.isnan(values)])) <= MOST_VALUES


def _distance(rows: Rows) -> np.ndarray:
    """The least magnitude of the inputs in each row."""
    around = (rows.first <= 0) & (rows.last >= 0)
    return np.where(around, 0.0, np.minimum(np.abs(numbers(rows.first)), np.abs(numbers(rows.last))))


def _levels(program: Program, rows: Rows) -> list[_Piece] | None:
    """Cut rows with monotone results where these change; None if a row has too many levels."""
    levels: list[_Piece] = []
    for _ in range(MOST_VALUES):
        if not len(rows):
            return levels
        value = program.run(numbers(rows.first), rows.lane)[-1]
        end = _last_like_first(program, rows, value)
        levels.append((rows.lane, rows.first, end, value))
        rows = Rows(rows.lane, end + 1, rows.last).take(end < rows.last)
    return levels if not len(rows) else None


def _last_like_first(program: Program, rows: Rows, value: np.ndarray) -> np.ndarray:
    """The last position of each row up to which a monotone result is ``value``, its first one."""
    below, above = rows.first.copy(), rows.last + 1
    while (above - below > 1).any():
        middle = (below + above) // 2
        same = program.run(numbers(middle), rows.lane)[-1] == value
        below, above = np.where(same, middle, below), np.where(same, above, middle)
    return below


def _cut(program: Program, rows: Rows, found: Interpretation, which: np.ndarray) -> tuple[Rows, Rows]:
    """Cut rows in two at their first kink, or at a power of two.

    Returns:
        The new rows, and those that cannot be cut.
    """
    end = np.full(len(rows), 0)
    done = ~which
    for kink, exact in found.kinks:
        if done.all():
            break
        at_first, at_last = kink.of(found.first), kink.of(found.last)
        use = ~done & exact & (at_first != at_last)
        if not use.any():
            continue
        some = rows.take(use)
        middle = (at_first[use] + at_last[use]) / 2
        low_side = at_first[use] < middle
        below, above = some.first.copy(), some.last.copy()
        while (above - below > 1).any():
            centre = (below + above) // 2
            like_first = (kink.of(program.run(numbers(centre), some.lane)) < middle) == low_side
            below, above = np.where(like_first, centre, below), np.where(like_first, above, centre)
        end[use] = below
        done |= use
    left = ~done
    end[left], possible = _power_of_two(rows.first[left], rows.last[left])
    cut = which.copy()
    cut[left] = possible
    hopeless = rows.take(which & ~cut)
    lower = Rows(rows.lane[cut], rows.first[cut], end[cut])
    upper = Rows(rows.lane[cut], end[cut] + 1, rows.last[cut])
    return Rows.of([lower, upper]), hopeless


def _power_of_two(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last position of the lower part of each row, and whether a power of two, or 0, is inside."""
    mirrored = last <= 0
    low, high = np.where(mirrored, -last, first), np.where(mirrored, -first, last)
    binades = (low - 1) >> 23, (high - 1) >> 23
    end = ((binades[0] + binades[1] + 1) // 2) << 23  # the power of two belongs to the part nearer to 0
    end = np.where(mirrored, -end - 1, end)
    around = (first < 0) & (last > 0)
    end = np.where(around, -1, np.where((first == 0) & (last > 0) & (binades[1] == 0), 0, end))
    end = np.where((last == 0) & (first < 0) & (binades[1] == 0), -1, end)
    return end, (end >= first) & (end < last) & (around | (first == 0) | (last == 0) | (binades[0] < binades[1]))


def _assembled(
    program: Program,
    proved: list[_Piece],
    failed: list[Rows],
    bounds: tuple[float, float],
) -> Pieces | None:
    lane, first, last, value = (np.concatenate(parts) for parts in zip(*proved, strict=True))
    if not np.isfinite(value).all():
        return None
    lost = Rows.of(failed)
    above, below = lost.first[lost.first > 0], lost.last[lost.last < 0]
    top = int(above.min()) - 1 if above.size else INFINITY
    bottom = int(below.max()) + 1 if below.size else -INFINITY
    inside = (first <= top) & (last >= bottom)
    lane, first, value = lane[inside], first[inside], value[inside]
    order = np.lexsort((first, lane))
    lane, first, value = lane[order], first[order], value[order]
    new = np.ones(len(lane), bool)
    new[1:] = (lane[1:] != lane[:-1]) | (value[1:] != value[:-1])
    lane, first, value = lane[new], first[new], value[new]
    starts = [first[lane == each] for each in range(program.lanes)]
    values = [value[lane == each] for each in range(program.lanes)]
    of_nan = program.run(np.full(program.lanes, np.nan), np.arange(program.lanes))[-1]
    ends = numbers(np.array([bottom, top]))
    within = (float(ends[0]) if below.size else bounds[0], float(ends[1]) if above.size else bounds[1])
    pieces = Pieces(starts, values, of_nan, within, _agrees_or_nan(program, lost, starts, values))
    return pieces if len(pieces.levels) <= MOST_VALUES else None


def _agrees_or_nan(program: Program, rows: Rows, starts: list[np.ndarray], values: list[np.ndarray]) -> bool:
    rng = np.random.default_rng(0)
    for _ in range(64):
        x = rng.integers(rows.first, rows.last + 1)
        computed = program.run(numbers(x), rows.lane)[-1]
        for lane, place, value in zip(rows.lane, x, computed, strict=True):
            piece = max(np.searchsorted(starts[lane], place, side="right") - 1, 0)
            if not (np.isnan(value) or value == values[lane][piece]):
                return False
    return True
