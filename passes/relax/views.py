"""The algebra of transpositions and reshapes: how one tensor is read from another with the same elements.

A chain of ``reshape`` and ``permute_dims`` does three things: it cuts the axes of a tensor into factors, puts the
factors into another order, and joins them to axes again. Such chains are closed under composition as long as their cuts
fit each other. Example: [N, 6, H, W] -> [N, H, W, 6] -> [N, H, W * 6] has the factors N, 6, H, W, in the order N, H, W,
6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import numpy as np


@dataclass(frozen=True)
class View:
    """A value that is read from a stored tensor. Axes of extent 1 have no factors.

    Two views that read the same value from tensors of the same shape are equal.

    Attributes:
        stored: Shape of the stored tensor.
        shape: Shape of the value.
        sizes: The factors (each above 1) in the order in which they are stored, outermost first.
        order: The factors, as indices into ``sizes``, in the order of the value.
    """

    stored: tuple[int, ...]
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def identity(cls, shape: Sequence[int]) -> View:
        """The view of a tensor as it is stored."""
        sizes = tuple(extent for extent in shape if extent > 1)
        return cls(tuple(shape), tuple(shape), sizes, tuple(range(len(sizes))))

    @property
    def is_reshape(self) -> bool:
        """Whether the elements of the value are in the order in which they are stored."""
        return self.order == tuple(range(len(self.order)))

    @property
    def is_identity(self) -> bool:
        """Whether the value is the stored tensor, with the same shape."""
        return self.is_reshape and self.stored == self.shape

    # --- Axes and factors -------------------------------------------------------------------------------------------

    @property
    def stored_factors(self) -> list[tuple[int, ...]]:
        """The factors of each stored axis."""
        return _grouped(range(len(self.sizes)), self.sizes, self.stored)

    @property
    def value_factors(self) -> list[tuple[int, ...]]:
        """The factors of each axis of the value."""
        return _grouped(self.order, [self.sizes[factor] for factor in self.order], self.shape)

    def stored_axis(self, axis: int) -> int | None:
        """The stored axis that holds an axis of the value and nothing else; None if none does.

        Axes of extent 1 correspond in order, if there are as many in both tensors.
        """
        factors, stored = self.value_factors[axis], self.stored_factors
        if factors:
            return stored.index(factors) if factors in stored else None
        of_value = [i for i, extent in enumerate(self.shape) if extent == 1]
        of_stored = [i for i, extent in enumerate(self.stored) if extent == 1]
        return of_stored[of_value.index(axis)] if len(of_value) == len(of_stored) else None

    # --- New views --------------------------------------------------------------------------------------------------

    def permuted(self, axes: Sequence[int]) -> View:
        """The view of ``permute_dims(value, axes)``."""
        factors = self.value_factors
        order = tuple(factor for axis in axes for factor in factors[axis])
        return _normal(self.stored, tuple(self.shape[axis] for axis in axes), self.sizes, order)

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The view of ``reshape(value, shape)``; None if the new axes would cut factors that cannot be cut there.

        Example: 6 elements that are stored as [2, 3] cannot be viewed as [3, 2]; a reshape of the tensor does that.
        """
        runs = self._runs()
        extents = [prod(self.sizes[factor] for factor in run) for run in runs]
        cuts = _cuts(extents, shape)
        if cuts is None:
            return None
        inner = prod(self.sizes)  # the number of elements from the current factor on, in stored order
        edges = {inner // done for done in accumulate([1, *self.stored], lambda a, b: a * b)}
        pieces: list[tuple[int, list[int]]] = []
        for run, extent, inside in zip(runs, extents, cuts, strict=True):
            after = prod(self.sizes[run[-1] + 1 :])
            inside |= {edge // after for edge in edges if edge % after == 0 and after < edge < after * extent}
            steps = [extent, *sorted(inside, reverse=True), 1]
            if any(outer % nested for outer, nested in pairwise(steps)):
                return None
            pieces.append((run[0], [outer // nested for outer, nested in pairwise(steps)]))
        sizes: list[int] = []
        first: dict[int, int] = {}
        for start, parts in sorted(pieces):
            first[start] = len(sizes)
            sizes += parts
        order = [first[start] + i for start, parts in pieces for i in range(len(parts))]
        return _normal(self.stored, tuple(shape), sizes, order)

    def inverse(self) -> View:
        """How the stored tensor is read from the value."""
        place = {factor: i for i, factor in enumerate(self.order)}
        sizes = [self.sizes[factor] for factor in self.order]
        return _normal(self.shape, self.stored, sizes, [place[factor] for factor in range(len(self.sizes))])

    def then(self, other: View) -> View | None:
        """How a tensor is read from the stored one, if ``other`` reads it from this value; None if the cuts differ."""
        cut = self.reshaped([other.sizes[factor] for factor in range(len(other.sizes))])
        return None if cut is None else cut.permuted(other.order).reshaped(other.shape)

    def resized(self, extents: dict[int, int]) -> View | None:
        """The view of a value of which some axes have another extent, in the same layout.

        Args:
            extents: New extents by axis of the value.

        Returns:
            The view; None if one of these axes has no stored axis of its own.
        """
        shape, stored = list(self.shape), list(self.stored)
        pairs = []
        for axis in range(len(shape)):
            place = self.stored_axis(axis)
            if axis in extents and place is None:
                return None
            if axis in extents and place is not None:
                pairs.append((axis, place))
        # Give every resized axis a factor of its own, also if its old or new extent is 1.
        labels = [[("kept", factor) for factor in factors] for factors in self.stored_factors]
        value = [[("kept", factor) for factor in factors] for factors in self.value_factors]
        size = {("kept", factor): extent for factor, extent in enumerate(self.sizes)}
        for axis, place in pairs:
            shape[axis] = stored[place] = extents[axis]
            label = ("new", axis)
            size[label] = extents[axis]
            labels[place] = value[axis] = [label]
        named = [label for group in labels for label in group if size[label] > 1]
        order = [named.index(label) for group in value for label in group if size[label] > 1]
        return _normal(tuple(stored), tuple(shape), [size[label] for label in named], order)

    def broadcast(self, shape: Sequence[int]) -> View | None:
        """The view of a value that is broadcast to this one, in the same layout.

        Args:
            shape: Its shape; each extent is 1 or that of this value.

        Returns:
            The view; None if its elements are only a part of a stored axis.
        """
        factors = self.value_factors
        kept = {factor for axis, extent in enumerate(shape) if extent > 1 for factor in factors[axis]}
        if any(extent not in (1, whole) for extent, whole in zip(shape, self.shape, strict=True)):
            return None
        stored = []
        for extent, inside in zip(self.stored, self.stored_factors, strict=True):
            if kept.isdisjoint(inside):
                stored.append(1)
            elif kept.issuperset(inside):
                stored.append(extent)
            else:
                return None
        place = {factor: i for i, factor in enumerate(sorted(kept))}
        order = [place[factor] for factor in self.order if factor in kept]
        return _normal(tuple(stored), tuple(shape), [self.sizes[factor] for factor in sorted(kept)], order)

    # --- Arrays -----------------------------------------------------------------------------------------------------

    def read(self, stored: np.ndarray) -> np.ndarray:
        """The value of a stored array."""
        return stored.reshape(self.sizes).transpose(self.order).reshape(self.shape)

    def store(self, value: np.ndarray) -> np.ndarray:
        """The array that is stored for a value."""
        return self.inverse().read(value)

    def store_broadcast(self, value: np.ndarray) -> np.ndarray:
        """The array that broadcasts to the stored tensor as ``value`` broadcasts to the value."""
        if value.ndim == 0 or value.size == 1:
            return value.reshape((1,) * len(self.stored)) if value.ndim else value
        aligned = value.reshape((1,) * (len(self.shape) - value.ndim) + value.shape)
        dims: list[int] = []
        for extent, factors in zip(aligned.shape, self.value_factors, strict=True):
            dims += [self.sizes[factor] if extent > 1 else 1 for factor in factors]
        by_factor = aligned.reshape(dims).transpose(np.argsort(self.order))
        stored: list[int] = []
        for factors in self.stored_factors:
            found = [by_factor.shape[factor] for factor in factors]
            whole = [self.sizes[factor] for factor in factors]
            if found != whole and max(found, default=1) > 1:  # a part of a stored axis: repeat along the rest
                spread = [whole[factors.index(i)] if i in factors else dim for i, dim in enumerate(by_factor.shape)]
                by_factor = np.broadcast_to(by_factor, spread)
                found = whole
            stored.append(prod(found))
        return np.ascontiguousarray(by_factor).reshape(stored)

    # --- Operators --------------------------------------------------------------------------------------------------

    def steps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape to which the stored tensor is cut, and the axes by which that is permuted, to read the value.

        Axes of extent 1 correspond in order. Those of only one of the tensors are added to the other, before the factor
        that they precede. So a permutation of axes needs no reshape, and [N, L, C] becomes [N, C, 1, L] as
        [N, 1, L, C] does: channels last become channels first.
        """
        stored, value = _with_ones(self.stored_factors), _with_ones(self.value_factors)
        ones = [sum(token < 0 for token in tokens) for tokens in (stored, value)]
        _add_ones(stored, value, ones[0])
        _add_ones(value, stored, ones[1])
        cut = tuple(self.sizes[token] if token >= 0 else 1 for token in stored)
        return cut, tuple(stored.index(token) for token in value)

    def _runs(self) -> list[list[int]]:
        """The factors in the order of the value, those that follow each other in both orders together."""
        runs: list[list[int]] = []
        for factor in self.order:
            if runs and runs[-1][-1] == factor - 1:
                runs[-1].append(factor)
            else:
                runs.append([factor])
        return runs


def _normal(stored: Sequence[int], shape: Sequence[int], sizes: Sequence[int], order: Sequence[int]) -> View:
    """A view with as few factors as possible."""
    fine = View(tuple(stored), tuple(shape), tuple(sizes), tuple(order))
    together = {pair for factors in fine.stored_factors for pair in pairwise(factors)}
    together &= {pair for factors in fine.value_factors for pair in pairwise(factors)}
    number: list[int] = []
    merged: list[int] = []
    for factor, size in enumerate(sizes):
        if (factor - 1, factor) in together:
            merged[-1] *= size
        else:
            merged.append(size)
        number.append(len(merged) - 1)
    return View(fine.stored, fine.shape, tuple(merged), tuple(dict.fromkeys(number[factor] for factor in order)))


def _grouped(factors: Iterable[int], sizes: Sequence[int], shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Distribute factors in order over axes, so that their product is the extent of each axis."""
    groups: list[tuple[int, ...]] = []
    rest = list(zip(factors, sizes, strict=True))
    for extent in shape:
        group: list[int] = []
        product = 1
        while product < extent:
            factor, size = rest.pop(0)
            group.append(factor)
            product *= size
        if product != extent:
            raise ValueError(f"factors {sizes} do not fit the shape {shape}")
        groups.append(tuple(group))
    return groups


def _with_ones(groups: Iterable[tuple[int, ...]]) -> list[int]:
    """The factors of all axes in order; axes of extent 1 are -1, -2 and so on."""
    tokens: list[int] = []
    ones = 0
    for group in groups:
        ones += not group
        tokens += group or [-ones]
    return tokens


def _add_ones(tokens: list[int], of: Sequence[int], known: int) -> None:
    """Add the axes of extent 1 that only the other tensor has: all but the first ``known`` of it."""
    for i, token in enumerate(of):
        if token < -known:
            later = [factor for factor in of[i + 1 :] if factor >= 0]
            earlier = [factor for factor in of[:i] if factor >= 0]
            place = tokens.index(later[0]) if later else tokens.index(earlier[-1]) + 1 if earlier else len(tokens)
            tokens.insert(place, token)


def _cuts(extents: Sequence[int], shape: Sequence[int]) -> list[set[int]] | None:
    """Where the axes of ``shape`` cut consecutive runs of elements; None if an axis ends inside of a product.

    Returns:
        For each run the numbers of its elements from a cut on, 1 and all of them excepted.
    """
    cuts: list[set[int]] = [set() for _ in extents]
    run, used = len(extents) - 1, 1
    for extent in reversed(shape):
        need = extent
        while need > 1:
            if used == extents[run]:
                run, used = run - 1, 1
            left = extents[run] // used
            if left % need == 0:
                used, need = used * need, 1
            elif need % left == 0:
                used, need = extents[run], need // left
            else:
                return None
            if used < extents[run]:
                cuts[run].add(used)
    return cuts
