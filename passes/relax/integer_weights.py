"""Find the integers that float weights are multiples of: ``w == float32(k * scale)`` with one scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 255
"""The largest magnitude of an integer weight: a number of 8 bits minus a zero point of 8 bits."""
_NEIGHBOURS = 3
_FEW = 8


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
        if not np.isfinite(weight).all() or not weight.size:
            return None
        flat = weight.reshape(len(weight), -1)
        magnitudes = [np.unique(np.abs(row)) for row in flat]
        magnitudes = [each[each > 0] for each in magnitudes]
        if max(len(each) for each in magnitudes) > LARGEST:
            return None
        largest = max(range(len(flat)), key=lambda c: magnitudes[c][-1] if len(magnitudes[c]) else 0.0)
        shared = _scale_of(magnitudes[largest]) if len(magnitudes[largest]) else None
        if shared is not None and (found := _integers(flat, np.array([shared], np.float32))) is not None:
            return cls(found.reshape(weight.shape), np.array([shared], np.float32))
        scales = [_scale_of(each) if len(each) else np.float32(1) for each in magnitudes]
        if any(scale is None for scale in scales):
            return None
        scale = np.array(scales, np.float32)
        found = _integers(flat, scale)
        return None if found is None else cls(found.reshape(weight.shape), scale)


def _integers(flat: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """The integers of weights [OC, n], if the scales give exactly these weights."""
    k = np.rint(flat.astype(np.float64) / scale.reshape(-1, 1))
    exact = np.abs(k).max() <= LARGEST and bool((k.astype(np.float32) * scale.reshape(-1, 1) == flat).all())
    return k.astype(np.int16) if exact else None


def _scale_of(magnitudes: np.ndarray) -> np.float32 | None:
    """The largest scale of which all these distinct positive numbers, ascending, are multiples but for rounding."""
    # Few numbers exclude most multiples; all numbers judge the rest.
    few = magnitudes[:: max(1, len(magnitudes) // _FEW)]
    largest = float(magnitudes[-1])
    top = _near_multiples(few, largest, np.arange(1, LARGEST + 1, dtype=np.float64))
    for k in _near_multiples(magnitudes, largest, top):
        middle = np.float32(largest / k)
        below, above = [middle], [middle]
        for _ in range(_NEIGHBOURS):
            below.append(np.nextafter(below[-1], np.float32(0)))
            above.append(np.nextafter(above[-1], np.float32(np.inf)))
        near = np.array(below[:0:-1] + above, np.float32)
        near = near[near > 0]
        multiples = np.rint(magnitudes.astype(np.float64) / near[:, None])
        same = multiples.astype(np.float32) * near[:, None] == magnitudes
        fits = near[same.all(axis=1) & (multiples[:, -1] <= LARGEST)]
        if len(fits):
            return np.float32(fits[len(fits) // 2])
    return None


def _near_multiples(magnitudes: np.ndarray, largest: float, top: np.ndarray) -> np.ndarray:
    """The multiples of a scale that the largest number may be, so that all numbers are multiples but for rounding."""
    multiples = magnitudes[None, :].astype(np.float64) * (top / largest)[:, None]
    away = np.abs(multiples - np.rint(multiples)).max(axis=1)
    return top[away <= 3 * 2.0**-24 * top + 1e-9]
