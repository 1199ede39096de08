"""Copies of strided views: permutations of axes, and slices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Element
from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load, store, transposed

_FEW = 4
"""Up to this many values are interleaved in registers; longer rows are transposed by squares."""


@dataclass(frozen=True)
class StridedView:
    """A view of the elements of an array, as numpy's strides describe it.

    Attributes:
        size: Number of elements of the array.
        offset: The element that is the first of the view.
        extents: Size of each axis of the view.
        strides: Elements from one index of an axis to the next.
    """

    size: int
    offset: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> StridedView:
        """The view of all elements, in order."""
        return cls(prod(shape), 0, shape, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))

    def permuted(self, axes: tuple[int, ...]) -> StridedView:
        """The same elements with the axes in another order."""
        extents, strides = (tuple(each[axis] for axis in axes) for each in (self.extents, self.strides))
        return StridedView(self.size, self.offset, extents, strides)

    def sliced(self, axis: int, begin: int, step: int, count: int) -> StridedView:
        """Every ``step``-th index of an axis from ``begin`` on."""
        extents, strides = list(self.extents), list(self.strides)
        offset = self.offset + begin * strides[axis]
        extents[axis], strides[axis] = count, strides[axis] * step
        return StridedView(self.size, offset, tuple(extents), tuple(strides))

    def simplified(self) -> StridedView:
        """The same elements in the same order with as few axes as possible, at least one."""
        axes: list[tuple[int, int]] = []
        for extent, stride in zip(self.extents, self.strides, strict=True):
            if extent == 1:
                continue
            if axes and axes[-1][1] == extent * stride:
                axes[-1] = (axes[-1][0] * extent, stride)
            else:
                axes.append((extent, stride))
        extents, strides = zip(*axes, strict=True) if axes else ((1,), (1,))
        return StridedView(self.size, self.offset, extents, strides)


def strided_copy(view: StridedView, isa: Isa, dtype: Element = "float32") -> Kernel:
    """Copy a view of an array to an array of its own.

    Args:
        view: What to copy.
        isa: The instruction set.
        dtype: Type of the elements.

    Returns:
        ``func(data [view.size], out [elements of the view])``.
    """
    plain = view.simplified()
    rank, total = len(plain.extents), prod(plain.extents)
    along = next((axis for axis in range(rank) if plain.strides[axis] == 1), None)
    inner = {rank - 1} if along is None else {along, rank - 1}
    if along == rank - 1 and rank > 2:
        inner = {rank - 2, rank - 1}  # several runs for each computation of an address
    outer = [axis for axis in range(rank) if axis not in inner]
    rows = prod(plain.extents[axis] for axis in outer)
    with KernelBuilder("strided_copy") as builder:
        data = builder.data((plain.size,), dtype)
        out = builder.output((total,), dtype)
        with parallel_rows(rows, total) as row:
            source: Index = plain.offset
            target: Index = 0
            rest: Index = row
            for axis in reversed(outer):
                index = T.bind(tirx.floormod(rest, plain.extents[axis]))
                rest = tirx.floordiv(rest, plain.extents[axis])
                source = source + index * plain.strides[axis]
                target = target + index * prod(plain.extents[axis + 1 :])
            _Inner(plain, along, data, out, T.bind(source + 0 * row), T.bind(target + 0 * row), isa).emit()
    return builder.kernel()


@dataclass(frozen=True, eq=False)
class _Inner:
    """Emits the copy along the last axis, and along the axis that is contiguous in the array."""

    view: StridedView
    along: int | None
    data: tirx.Buffer
    out: tirx.Buffer
    source: tirx.Expr
    target: tirx.Expr
    isa: Isa

    def emit(self) -> None:
        last, lanes = len(self.view.extents) - 1, self.isa.float_lanes
        length, stride = self.view.extents[last], self.view.strides[last]
        if self.along == last and last > 1:
            with T.serial(0, self.view.extents[-2]) as run:
                for_blocks(length, lanes, partial(self._contiguous, run))
        elif self.along == last:
            for_blocks(length, lanes, partial(self._contiguous, 0))
        elif self.along is None:
            with T.serial(0, length) as i:
                T.buffer_store(self.out, self.data[self.source + i * stride], [self.target + i])
        elif self.along == last - 1 and length <= _FEW:
            for_blocks(self.view.extents[self.along], lanes, self._interleaved)
        else:
            for_blocks(self.view.extents[self.along], lanes, self._columns)

    def _contiguous(self, run: Index, first: Index, valid: int) -> None:
        source, target = self.source + first, self.target + first
        if len(self.view.extents) > 2:
            source, target = source + run * self.view.strides[-2], target + run * self.view.extents[-1]
        store(self.out, load(self.data, (), source, self.isa.float_lanes, valid), (), target, valid)

    def _interleaved(self, first: Index, valid: int) -> None:
        lanes, (length, stride) = self.isa.float_lanes, (self.view.extents[-1], self.view.strides[-1])
        vectors = [load(self.data, (), self.source + first + i * stride, lanes, valid) for i in range(length)]
        mixed = tirx.Shuffle(list(map(T.bind, vectors)), [j * lanes + i for i in range(lanes) for j in range(length)])
        store(self.out, T.bind(mixed), (), self.target + first * length, valid * length)

    def _columns(self, first: Index, valid: int) -> None:
        """Squares of lanes times lanes, transposed in registers."""
        lanes, (length, stride) = self.isa.float_lanes, (self.view.extents[-1], self.view.strides[-1])
        assert self.along is not None
        step = prod(self.view.extents[self.along + 1 :])
        zero = VectorType(str(self.data.dtype), lanes).constant(0)

        def square(row: Index, height: int) -> None:
            vectors = [
                load(self.data, (), self.source + first + (row + i) * stride, lanes, valid) if i < height else zero
                for i in range(lanes)
            ]
            for i, vector in enumerate(transposed([T.bind(vector) for vector in vectors])[:valid]):
                store(self.out, vector, (), self.target + (first + i) * step + row, height)

        for_blocks(length, lanes, partial(square))
