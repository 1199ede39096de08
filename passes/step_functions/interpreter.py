"""What is certain about every value of a program while its input runs over an interval: range, direction, cancellation.

The input runs over float32 numbers in order. A value is *rising* if it never falls while the input rises, as computed,
with all roundings; rounding is monotone itself. The values of a monotone node at both ends of the interval bound it
exactly, and if they are equal, it is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .affine import Form, best_forms
from .ordinals import SMALLEST, grid_of, half_step_below, numbers, rounded
from .program import BOOL, FLOAT, Node, Program, apply

MOST_ROUNDING_STEPS = 64
"""An interval is not cut at the steps of a rounding if it has more of them."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Intervals of the input.

    Attributes:
        lane: The lane of each, int [rows].
        first: Position of the first number of each, int64 [rows].
        last: Position of the last one.
    """

    lane: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.lane)

    @staticmethod
    def of(parts: Sequence[Rows]) -> Rows:
        """All rows of some tables."""
        return Rows(*(np.concatenate([getattr(each, name) for each in parts]) for name in ("lane", "first", "last")))

    def take(self, which: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.lane[which], self.first[which], self.last[which])


@dataclass(frozen=True, eq=False)
class Value:
    """What is certain about one node, in every row; arrays [rows].

    Attributes:
        low: Lower bound, float64.
        high: Upper bound.
        rising: Whether it never falls.
        falling: Whether it never rises; a constant does both.
        unsure: Whether it may be NaN, so that nothing else is certain.
        grid: A power of two that divides the value.
        forms: Affine forms of it, other than itself.
    """

    low: np.ndarray
    high: np.ndarray
    rising: np.ndarray
    falling: np.ndarray
    unsure: np.ndarray
    grid: np.ndarray
    forms: tuple[Form, ...] = ()

    @property
    def constant(self) -> np.ndarray:
        """Where it is one number."""
        return ~self.unsure & (self.low == self.high)

    @property
    def monotone(self) -> np.ndarray:
        """Where it rises or falls."""
        return ~self.unsure & (self.rising | self.falling)


@dataclass(frozen=True)
class Kink:
    """A place where an interval can be cut: where a node, or the order of two nodes, changes.

    Attributes:
        a: A node.
        b: The node that it is compared with, -1 for the number 0, or None: the value of ``a`` itself counts.
    """

    a: int
    b: int | None

    def of(self, values: list[np.ndarray]) -> np.ndarray:
        """A few integers that change where the interval should be cut."""
        if self.b is None:
            return values[self.a]
        other = values[self.b] if self.b >= 0 else 0.0
        a = values[self.a]
        return (a > other).astype(np.float64) - (a < other)


@dataclass(frozen=True, eq=False)
class Interpretation:
    """The values of all nodes over some rows.

    Attributes:
        values: What is certain about each node.
        first: The numbers of each node at the first input of each row.
        last: The numbers at the last one.
        kinks: Where rows can be cut, those of inner operations first, and in which rows that is exact.
    """

    values: list[Value]
    first: list[np.ndarray]
    last: list[np.ndarray]
    kinks: list[tuple[Kink, np.ndarray]]


def interpret(program: Program, rows: Rows) -> Interpretation:
    """Find what is certain about every node."""
    first = program.run(numbers(rows.first), rows.lane)
    last = program.run(numbers(rows.last), rows.lane)
    found = Interpretation([], first, last, [])
    with np.errstate(all="ignore"):
        for number, node in enumerate(program.nodes):
            value = _Step(program, found, number, node, len(rows)).value()
            found.values.append(_settled(value, node, first[number], last[number]))
    rounding = [entry for entry in found.kinks if entry[0].b is None]
    found.kinks[:] = [entry for entry in found.kinks if entry[0].b is not None] + rounding
    return found


def _settled(value: Value, node: Node, first: np.ndarray, last: np.ndarray) -> Value:
    """The value with the exact bounds that follow from its direction."""
    unsure = value.unsure | np.isnan(first) | np.isnan(last)
    monotone = (value.rising | value.falling) & ~unsure
    low = np.where(monotone, np.maximum(value.low, np.minimum(first, last)), value.low)
    high = np.where(monotone, np.minimum(value.high, np.maximum(first, last)), value.high)
    unsure |= np.isnan(low) | np.isnan(high)
    constant = ~unsure & (low == high)
    grid = np.maximum(value.grid, grid_of(low, high)) if node.dtype == FLOAT else np.maximum(value.grid, 1.0)
    return Value(low, high, value.rising | constant, value.falling | constant, unsure, grid, value.forms)


class _Step:
    """One node over all rows."""

    def __init__(self, program: Program, found: Interpretation, number: int, node: Node, rows: int) -> None:
        self.program, self.found, self.number, self.node, self.rows = program, found, number, node, rows
        self.args = [] if node.op in ("input", "constant") else [found.values[arg] for arg in node.args]
        self.never = np.zeros(rows, bool)
        self.unsure = np.logical_or.reduce([arg.unsure for arg in self.args]) if self.args else self.never

    def value(self) -> Value:
        """What is certain about the node."""
        op, args = self.node.op, self.args
        if op in ("input", "constant"):
            first, last = self.found.first[self.number], self.found.last[self.number]
            falls = np.full(self.rows, op == "constant")
            return Value(first, last, ~self.never, falls, self.never, np.full(self.rows, SMALLEST))
        if op in ("add", "subtract"):
            return self._sum(args[0], args[1] if op == "add" else _negated(args[1]), 1 if op == "add" else -1)
        if op == "multiply":
            return self._product(*args)
        if op == "divide":
            return self._quotient(*args)
        if op == "negative":
            negated = _negated(args[0])
            return replace(negated, forms=tuple(form.times(np.full(self.rows, -1.0)) for form in self._forms(0)))
        if op == "abs":
            return self._abs(*args)
        if op in ("maximum", "minimum", "logical_and", "logical_or"):
            return self._extremum(op in ("maximum", "logical_or"), *args)
        if op == "where":
            return self._where(*args)
        if op in ("greater", "greater_equal", "less", "less_equal"):
            return self._ordered(op, *args)
        if op in ("equal", "not_equal", "logical_xor"):
            return self._equal(op == "equal", *args)
        return self._step(op, *args)

    def _forms(self, arg: int) -> list[Form]:
        node = self.node.args[arg]
        return [Form.atom(node, self.rows), *self.found.values[node].forms]

    def _kink(self, a: int, b: int | None, exact: np.ndarray) -> None:
        self.found.kinks.append((Kink(a, b), exact))

    def _value(
        self,
        low: np.ndarray,
        high: np.ndarray,
        rising: np.ndarray,
        falling: np.ndarray,
        unsure: np.ndarray | None = None,
        grid: np.ndarray | None = None,
        forms: tuple[Form, ...] = (),
    ) -> Value:
        unsure = self.unsure if unsure is None else self.unsure | unsure
        grid = np.full(self.rows, SMALLEST) if grid is None else grid
        return Value(low, high, rising, falling, unsure, grid, forms)

    def _sum(self, a: Value, b: Value, sign: int) -> Value:
        whole = self.node.dtype != FLOAT
        low, high = a.low + b.low, a.high + b.high
        most = _largest(low, high)
        if not whole:
            low, high = rounded(low), rounded(high)
        grid = np.minimum(a.grid, b.grid)
        zero = (a.constant & (a.low == 0)) | (b.constant & (b.low == 0))
        exact = zero | (most <= grid * 2**24) | whole
        error = np.where(exact, 0.0, half_step_below(most))
        factor = np.full(self.rows, float(sign))
        lows, highs = ([getattr(each, side) for each in self.found.values] for side in ("low", "high"))
        forms = []
        for first in self._forms(0):
            for second in self._forms(1):
                form = first.plus(second.times(factor))
                below, above = form.bounds(lows, highs)
                if not whole:
                    below, above = rounded(below), rounded(above)
                low, high = np.maximum(low, below), np.minimum(high, above)
                forms.append(form.with_error(error))
        corners = [x + y for x in (a.low, a.high) for y in (b.low, b.high)]
        unsure = np.logical_or.reduce([np.isnan(corner) for corner in corners]) | self._overflows(low, high)
        return self._value(
            low, high, a.rising & b.rising, a.falling & b.falling, unsure, grid, tuple(best_forms(forms))
        )

    def _overflows(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        if self.node.dtype in (FLOAT, BOOL):
            return self.never
        limits = np.iinfo(self.node.dtype)
        return (low < limits.min) | (high > limits.max)

    def _product(self, a: Value, b: Value) -> Value:
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        unsure = np.logical_or.reduce([np.isnan(corner) for corner in corners])
        low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
        most = _largest(low, high)
        if self.node.dtype == FLOAT:
            low, high = rounded(low), rounded(high)
        unsure |= self._overflows(low, high)
        rising, falling = _directions(a, b)
        grid = a.grid * b.grid
        forms: list[Form] = []
        for number, factor in ((0, b), (1, a)):
            if factor.constant.any():
                forms += self._scaled(number, factor.constant, factor.low, grid, most)
        for this, other in ((0, 1), (1, 0)):
            arg = self.args[this]
            if not self.args[other].constant.all():
                self._kink(self.node.args[this], -1, arg.monotone)
        grid = np.where(np.isfinite(grid), np.maximum(grid, SMALLEST), np.inf)
        return self._value(low, high, rising, falling, unsure, grid, tuple(best_forms(forms)))

    def _scaled(
        self, arg: int, holds: np.ndarray, factor: np.ndarray, grid: np.ndarray, most: np.ndarray
    ) -> list[Form]:
        """Forms of a product of at most this magnitude with a number, in the rows where ``holds`` is true."""
        exact = (factor == 0) | ((most <= grid * 2**24) & (grid >= SMALLEST)) | (self.node.dtype != FLOAT)
        error = np.where(exact, 0.0, half_step_below(most))
        factor = np.where(holds, factor, 0.0)
        return [form.times(factor).with_error(error).where(holds) for form in self._forms(arg)]

    def _quotient(self, a: Value, b: Value) -> Value:
        unsure = (b.low <= 0) & (b.high >= 0)
        corners = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
        unsure |= np.logical_or.reduce([np.isnan(corner) for corner in corners])
        low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
        most = _largest(low, high)
        low, high = rounded(low), rounded(high)
        inverse = replace(b, low=1 / b.high, high=1 / b.low, rising=b.falling, falling=b.rising)
        rising, falling = _directions(a, inverse)
        forms: list[Form] = []
        power = b.constant & (np.abs(np.frexp(b.low)[0]) == 0.5)
        if power.any():
            grid = a.grid / np.abs(b.low)
            forms = self._scaled(0, power, 1 / b.low, grid, most)
        self._kink(self.node.args[0], -1, self.args[0].monotone)
        self._kink(self.node.args[1], -1, self.args[1].monotone)
        return self._value(low, high, rising, falling, unsure, None, tuple(best_forms(forms)))

    def _abs(self, a: Value) -> Value:
        positive, negative = a.low >= 0, a.high <= 0
        low = np.where(positive, a.low, np.where(negative, -a.high, 0.0))
        high = np.maximum(np.abs(a.low), np.abs(a.high))
        rising = (positive & a.rising) | (negative & a.falling)
        falling = (positive & a.falling) | (negative & a.rising)
        sign = np.where(positive, 1.0, -1.0)
        forms = [form.times(sign).where(positive | negative) for form in self._forms(0)]
        self._kink(self.node.args[0], -1, a.monotone)
        return self._value(low, high, rising, falling, None, a.grid, tuple(best_forms(forms)))

    def _chosen(self, chosen: list[tuple[int, np.ndarray]]) -> tuple[Form, ...]:
        """Forms of a value that equals an argument in some rows."""
        return tuple(best_forms(form.where(holds) for arg, holds in chosen if holds.any() for form in self._forms(arg)))

    def _extremum(self, largest: bool, a: Value, b: Value) -> Value:
        pick = np.maximum if largest else np.minimum
        above, below = a.low >= b.high, a.high <= b.low
        is_a, is_b = (above, below) if largest else (below, above)
        rising = np.where(is_a, a.rising, np.where(is_b, b.rising, a.rising & b.rising))
        falling = np.where(is_a, a.falling, np.where(is_b, b.falling, a.falling & b.falling))
        self._kink(self.node.args[0], self.node.args[1], _opposed(a, b))
        grid = np.where(is_a, a.grid, np.where(is_b, b.grid, np.minimum(a.grid, b.grid)))
        forms = self._chosen([(0, is_a), (1, is_b & ~is_a)])
        return self._value(pick(a.low, b.low), pick(a.high, b.high), rising, falling, None, grid, forms)

    def _where(self, c: Value, a: Value, b: Value) -> Value:
        is_a, is_b = c.constant & (c.low != 0), c.constant & (c.low == 0)

        def chosen(first: np.ndarray, second: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
            return np.where(is_a, first, np.where(is_b, second, otherwise))

        self._kink(self.node.args[0], -1, c.monotone)
        unsure = c.unsure | chosen(a.unsure, b.unsure, a.unsure | b.unsure)
        self.unsure = self.never
        # Between two numbers, it follows the condition.
        numbers_only = a.constant & b.constant & c.monotone
        up = numbers_only & np.where(a.low >= b.low, c.rising, c.falling)
        down = numbers_only & np.where(a.low >= b.low, c.falling, c.rising)
        return self._value(
            chosen(a.low, b.low, np.minimum(a.low, b.low)),
            chosen(a.high, b.high, np.maximum(a.high, b.high)),
            chosen(a.rising, b.rising, up),
            chosen(a.falling, b.falling, down),
            unsure,
            chosen(a.grid, b.grid, np.minimum(a.grid, b.grid)),
            self._chosen([(1, is_a), (2, is_b)]),
        )

    def _ordered(self, op: str, a: Value, b: Value) -> Value:
        self._kink(self.node.args[0], self.node.args[1], _opposed(a, b))
        if op.startswith("less"):
            a, b = b, a
        strict = op in ("greater", "less")
        always = a.low > b.high if strict else a.low >= b.high
        never = a.high <= b.low if strict else a.high < b.low
        low, high = np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0)
        return self._value(low, high, a.rising & b.falling, a.falling & b.rising)

    def _equal(self, equal: bool, a: Value, b: Value) -> Value:
        self._kink(self.node.args[0], self.node.args[1], _opposed(a, b))
        always = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
        never = (a.low > b.high) | (a.high < b.low)
        low, high = np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0)
        if not equal:
            low, high = 1 - high, 1 - low
        return self._value(low, high, self.never, self.never)

    def _step(self, op: str, a: Value) -> Value:
        """Operations of one argument that never fall, but for negations; and casts to bool, which may do anything."""
        low, high = apply(self.node, [a.low]), apply(self.node, [a.high])
        if op == "nonzero":
            self._kink(self.node.args[0], -1, a.monotone)
            crosses = (a.low < 0) & (a.high > 0)
            least = np.where((a.low <= 0) & (a.high >= 0), np.where(a.low == a.high, low, 0.0), 1.0)
            most = np.where(crosses | (a.low != a.high), 1.0, high)
            rising = ((a.low >= 0) & a.rising) | ((a.high <= 0) & a.falling)
            falling = ((a.low >= 0) & a.falling) | ((a.high <= 0) & a.rising)
            return self._value(least, most, rising, falling)
        if op == "logical_not":
            return self._value(high, low, a.falling, a.rising)
        forms: tuple[Form, ...] = ()
        if op in ("same", "to_float"):
            exact = np.maximum(np.abs(a.low), np.abs(a.high)) <= 2**24
            forms = tuple(form.where(exact) for form in self._forms(0))
        elif op.startswith("sign"):
            self._kink(self.node.args[0], -1, a.monotone)
        else:
            few = a.monotone & (high - low <= MOST_ROUNDING_STEPS)
            self._kink(self.number, None, few)
        unsure = np.isnan(low) | np.isnan(high)
        grid = a.grid if op in ("same", "to_float") else np.ones(self.rows)
        return self._value(low, high, a.rising, a.falling, unsure, grid, forms)


def _largest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A bound of the magnitude before a rounding to float32, from bounds in float64."""
    most = np.maximum(np.abs(low), np.abs(high))
    return np.where(most.astype(np.float32) == most, most, np.nextafter(most, np.inf))


def _negated(a: Value) -> Value:
    return Value(-a.high, -a.low, a.falling, a.rising, a.unsure, a.grid)


def _opposed(a: Value, b: Value) -> np.ndarray:
    """Where the difference of two values is monotone."""
    return ~a.unsure & ~b.unsure & ((a.rising & b.falling) | (a.falling & b.rising))


def _directions(a: Value, b: Value) -> tuple[np.ndarray, np.ndarray]:
    """Where a product rises and where it falls, from the directions and signs of its factors."""
    rising = np.zeros(len(a.low), bool)
    falling = rising.copy()
    for sign_a in (1, -1):
        for sign_b in (1, -1):
            holds = (a.low >= 0 if sign_a > 0 else a.high <= 0) & (b.low >= 0 if sign_b > 0 else b.high <= 0)
            larger_a, smaller_a = (a.rising, a.falling) if sign_a > 0 else (a.falling, a.rising)
            larger_b, smaller_b = (b.rising, b.falling) if sign_b > 0 else (b.falling, b.rising)
            grows, shrinks = larger_a & larger_b & holds, smaller_a & smaller_b & holds
            rising |= grows if sign_a == sign_b else shrinks
            falling |= shrinks if sign_a == sign_b else grows
    # A constant factor needs no sign of the other.
    for x, factor in ((a, b), (b, a)):
        positive, negative = factor.constant & (factor.low >= 0), factor.constant & (factor.low <= 0)
        rising |= (positive & x.rising) | (negative & x.falling)
        falling |= (positive & x.falling) | (negative & x.rising)
    return rising, falling
