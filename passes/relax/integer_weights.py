"""Find the integers that float weights are multiples of: ``w == float32(k * scale)`` with one scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 255
"""The largest magnitude of an integer weight: a number of 8 bits minus a zero point of 8 bits."""
_NEIGHBOURS = 3
_FEW = 4
_AT_ONCE = 1 << 16
"""Weights whose channels are looked at together: they stay in the cache."""


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """Weights as integers times a scale.

    Attributes:
        integers: int16, output channels first, of magnitude up to ``LARGEST``.
        scale: float32 [1] or [out channels], positive.
    """

    integers: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> IntegerWeight | None:
        """Decompose float32 weights [OC, ...]; None if a channel has no such scale."""
        if not weight.size:
            return None
        flat = weight.reshape(len(weight), -1)
        largest = np.abs(flat).max(axis=1)
        if not np.isfinite(largest).all():
            return None
        row = int(largest.argmax())
        shared = _scales(flat[row : row + 1])
        if shared is None:
            return None
        if _integers(_few(flat), shared) is not None and (found := _integers(flat, shared)) is not None:
            return cls(found.reshape(weight.shape), shared)
        scale = np.empty(len(flat), np.float32)
        rows = max(1, _AT_ONCE // flat.shape[1])
        for first in range(0, len(flat), rows):
            each = _scales(flat[first : first + rows])
            if each is None:
                return None
            scale[first : first + rows] = each
        found = _integers(flat, scale)
        return None if found is None else cls(found.reshape(weight.shape), scale)


def _integers(flat: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """The integers of weights [OC, n], if the scales give exactly these weights."""
    scale = scale.reshape(-1, 1)
    with np.errstate(all="ignore"):
        k = np.rint(flat / scale)
        exact = np.abs(k).max() <= LARGEST and bool((k * scale == flat).all())
    return k.astype(np.int16) if exact else None


def _scales(flat: np.ndarray) -> np.ndarray | None:
    """The largest scale of each row of which all its weights [rows, n] are multiples; None if a row has none.

    A few weights of a row exclude most multiples of a scale that its largest weight may be. The least that is left is
    nearly always the right one. Where it is not, all weights judge the others.
    """
    magnitudes = np.abs(flat)
    largest = magnitudes.max(axis=1)
    largest[largest == 0] = 1  # any scale
    top = np.arange(1, LARGEST + 1)
    possible = _may_be_multiples(_few(magnitudes), largest, top)
    if not possible.any(axis=1).all():
        return None
    scale, found = _scales_of_multiples(flat, largest, top[possible.argmax(axis=1)])
    for row in np.flatnonzero(~found):
        one, most = flat[row : row + 1], largest[row : row + 1]
        judged = _may_be_multiples(np.unique(magnitudes[row])[None], most, top[possible[row]])[0]
        tried = (_scales_of_multiples(one, most, k[None]) for k in top[possible[row]][judged])
        better = next((each for each, fits in tried if fits), None)
        if better is None:
            return None
        scale[row] = better.item()
    return scale


def _few(flat: np.ndarray) -> np.ndarray:
    """A few columns."""
    return flat[:, :: max(1, flat.shape[1] // _FEW)][:, :_FEW]


def _may_be_multiples(magnitudes: np.ndarray, largest: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Whether rows [rows, n] are multiples of a scale but for rounding, if their largest is ``top`` times that scale.

    Returns:
        bool [rows, len(top)].
    """
    multiples = magnitudes[:, None, :].astype(np.float64) * (top / largest[:, None].astype(np.float64))[:, :, None]
    away = np.abs(multiples - np.rint(multiples)).max(axis=2)
    return np.asarray(away <= 3 * 2.0**-24 * top + 1e-9)


def _scales_of_multiples(flat: np.ndarray, largest: np.ndarray, top: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scale of each row whose largest weight is ``top`` times it, and whether it gives all weights.

    Several float32 numbers may do so. The one in the middle is taken.
    """
    middle = (largest.astype(np.float64) / top).astype(np.float32)
    below, above = [middle], [middle]
    for _ in range(_NEIGHBOURS):
        below.append(np.nextafter(below[-1], np.float32(0)))
        above.append(np.nextafter(above[-1], np.float32(np.inf)))
    near = np.stack(below[:0:-1] + above, axis=1)
    multiples = np.rint(flat * (top / largest.astype(np.float64)).astype(np.float32)[:, None])
    same = np.stack([(multiples * each[:, None] == flat).all(axis=1) for each in near.T], axis=1) & (near > 0)
    place = same.cumsum(axis=1) == same.sum(axis=1, keepdims=True) // 2 + 1
    chosen = (same & place).argmax(axis=1)
    return near[np.arange(len(near)), chosen], np.asarray(same.any(axis=1))
