"""Sums in which terms cancel: affine forms over values of the program, with exact bounds of the rounding.

``(sign(x) - clamp(x)) + clamp(x)`` is ``sign(x)``, but for roundings. A form says that a value is ``sum(coefficient *
atom) + constant``, at most ``error`` away; the atoms are values of other nodes. In float64 all of it is exact, or is
rounded to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MOST_FORMS = 4


@dataclass(frozen=True, eq=False)
class Form:
    """One way to write a value, in every row.

    Attributes:
        terms: The coefficient of each atom, a number of a node; float64 [rows].
        constant: float64 [rows].
        error: float64 [rows], infinite in rows where the form does not hold.
    """

    terms: dict[int, np.ndarray]
    constant: np.ndarray
    error: np.ndarray

    @staticmethod
    def atom(node: int, rows: int) -> Form:
        """The value of a node as itself."""
        return Form({node: np.ones(rows)}, np.zeros(rows), np.zeros(rows))

    def with_error(self, more: np.ndarray) -> Form:
        """The form of a value that is at most ``more`` away from this one."""
        return Form(self.terms, self.constant, _up(self.error, more))

    def where(self, holds: np.ndarray) -> Form:
        """The form of a value that is equal where ``holds`` is true."""
        return Form(self.terms, self.constant, np.where(holds, self.error, np.inf))

    def times(self, factor: np.ndarray) -> Form:
        """The form of the product with an exact number."""
        constant, slack = _product(self.constant, factor)
        terms: dict[int, np.ndarray] = {}
        error = _up(_up_product(self.error, np.abs(factor)), slack)
        for atom, coefficient in self.terms.items():
            terms[atom], inexact = _product(coefficient, factor)
            error = np.where(inexact > 0, np.inf, error)
        return Form(terms, constant, error)

    def plus(self, other: Form) -> Form:
        """The form of the sum. Atoms whose coefficients cancel in all rows are left out."""
        constant, slack = _sum(self.constant, other.constant)
        error = _up(_up(self.error, other.error), slack)
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            if atom not in terms:
                terms[atom] = coefficient
                continue
            total, inexact = _sum(terms[atom], coefficient)
            error = np.where(inexact > 0, np.inf, error)
            if total.any():
                terms[atom] = total
            else:
                del terms[atom]
        return Form(terms, constant, error)

    def bounds(self, low: Sequence[np.ndarray], high: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the value.

        Args:
            low: Lower bounds of all nodes, float64 [rows] each.
            high: Upper bounds.
        """
        below, above = self.constant, self.constant
        for atom, coefficient in self.terms.items():
            zero = coefficient == 0
            first, slack = _product(np.where(zero, 0, low[atom]), coefficient)
            second, more = _product(np.where(zero, 0, high[atom]), coefficient)
            below = _down(below, np.minimum(first - slack, second - more))
            above = _up(above, np.maximum(first + slack, second + more))
        below, above = _down(below, -self.error), _up(above, self.error)
        return np.where(np.isnan(below), -np.inf, below), np.where(np.isnan(above), np.inf, above)


def best_forms(forms: Iterable[Form]) -> list[Form]:
    """The forms with fewest atoms, one of each set of atoms, at most ``MOST_FORMS``."""
    best: dict[frozenset[int], Form] = {}
    for form in forms:
        key = frozenset(form.terms)
        if key not in best or form.error.sum() < best[key].error.sum():
            best[key] = form
    return sorted(best.values(), key=lambda form: len(form.terms))[:MOST_FORMS]


def _sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum in float64, and a bound of its error: 0 where it is exact (Knuth's two-sum)."""
    total = a + b
    part = total - a
    return total, np.abs((a - (total - part)) + (b - part))


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and a bound of its error: 0 where both are float32 numbers, or one is a power of two."""
    product = a * b
    exact = ((a.astype(np.float32) == a) & (b.astype(np.float32) == b)) | (np.abs(np.frexp(b)[0]) == 0.5)
    return product, np.where(exact | (product == 0), 0.0, np.abs(product) * 2**-52)


def _up(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total, error = _sum(a, b)
    return np.where(error == 0, total, np.nextafter(total, np.inf))


def _down(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -_up(-a, -b)


def _up_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product, error = _product(a, b)
    product = np.where((a == 0) | (b == 0), 0.0, product)
    return np.where(error == 0, product, np.nextafter(product, np.inf))
