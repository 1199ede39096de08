"""Minimal filtering (Toom-Cook, Winograd): m neighbouring outputs of r taps with m + r - 1 products instead of m * r.

``outputs = to_outputs @ ((of_taps @ taps) * (of_inputs @ inputs))`` is the correlation of m + r - 1 inputs with r taps.
The matrices follow from evaluating the filter as a polynomial at m + r - 2 points and at infinity. In float32 the
choice of points determines the rounding error. These points were found by a search. With them, sums over many channels
have about the same rounding error as a direct convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm

import numpy as np

OUTPUTS = 4
"""m. A smaller m saves fewer products; a larger m increases the rounding error."""

_POINTS = {
    2: (Fraction(0), Fraction(-1), Fraction(1, 2), Fraction(3, 2)),
    3: (Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(3, 2), Fraction(-3, 2)),
    4: (Fraction(0), Fraction(1), Fraction(1, 2), Fraction(-1, 2), Fraction(3), Fraction(-3, 2)),
}
"""The evaluation points for each r, without the point at infinity."""

MOST_TAPS = max(_POINTS)


@dataclass(frozen=True, eq=False)
class MinimalFilter:
    """The matrices of a filter of r taps.

    Attributes:
        to_outputs: float64 [m, products].
        of_taps: float64 [products, r].
        of_inputs: float64 [products, inputs], integers.
    """

    to_outputs: np.ndarray
    of_taps: np.ndarray
    of_inputs: np.ndarray

    @property
    def products(self) -> int:
        """Number of products, m + r - 1. This is also the number of inputs."""
        return len(self.of_taps)


@cache
def minimal_filter(taps: int) -> MinimalFilter:
    """The matrices for a filter of ``taps`` taps, at most ``MOST_TAPS``."""
    if taps == 1:
        return MinimalFilter(np.eye(OUTPUTS), np.ones((OUTPUTS, 1)), np.eye(OUTPUTS))
    points = _POINTS[taps]
    interpolation = _inverse(_evaluation(points, len(points) + 1))
    # The filter is the transpose of a product of polynomials: inputs are interpolated, outputs are evaluated.
    inputs = [list(column) for column in zip(*interpolation, strict=True)]
    weights = _evaluation(points, taps)
    for i, row in enumerate(inputs):
        unit = lcm(*(value.denominator for value in row))
        inputs[i], weights[i] = [value * unit for value in row], [value / unit for value in weights[i]]
    outputs = np.array(_evaluation(points, OUTPUTS), np.float64).T
    return MinimalFilter(outputs, np.array(weights, np.float64), np.array(inputs, np.float64))


def _evaluation(points: tuple[Fraction, ...], terms: int) -> list[list[Fraction]]:
    """The matrix that evaluates a polynomial of ``terms`` coefficients at the points and at infinity."""
    at_infinity = [Fraction(power == terms - 1) for power in range(terms)]
    return [*([point**power for power in range(terms)] for point in points), at_infinity]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                rows[j] = [value - rows[j][i] * own for value, own in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]
