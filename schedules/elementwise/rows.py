"""Rows: elementwise operations and reductions over the channels, in one kernel, such as softmax and layer norm.

A program with reductions (``row_max``, ``row_mean``, ...) is computed in stages. The loop of a stage evaluates all
steps that need no reduction but those of earlier stages, and ends with reductions of its own::

    parallel for chunk of rows:
        for row:
            for stage:
                steps with one value per row        vectors of equal lanes
                for block of channels:
                    steps with one value per channel; values that later stages read are kept in the cache
                    accumulators += values
                add up the accumulators

Softmax has three stages: the maximum; the exponentials and their sum; the quotients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import get_args

from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import (
    Channel,
    FloatOutput,
    Operand,
    Program,
    Reduction,
    Ref,
    RowOutput,
    SampleChannel,
    Step,
    Tensor,
)
from ..epilogue.writer import EpilogueWriter, Vector
from ..isa import Isa
from ..kernel import Kernel
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import extremum
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load, store

_PARTS = 64
"""Partial results per reduction: channel i goes to part i mod 64. So the order of additions is that of any target."""

_CHUNK = 4096
"""Values of the rows that a task computes one after the other, in the same scratch memory."""


def map_rows(shape: tuple[int, ...], epilogue: Program, isa: Isa) -> Kernel:
    """Apply a program with reductions over the last axis to a float32 tensor.

    Args:
        shape: (N, H, W, C) or (rows, C) of the tensor.
        epilogue: Ref(0) is the value of the tensor. It has no packed outputs.
        isa: The instruction set.

    Returns:
        ``func(data, *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If the program has a packed output, or reduces what is one value per row.
    """
    stages = _Stages(epilogue)
    channels, lanes = shape[-1], isa.float_lanes
    run = max(lanes, min(_PARTS, 1 << (channels - 1).bit_length()))
    rows = reduce(lambda a, b: a * b, shape[:-1], 1)
    chunk = max(1, min(rows, _CHUNK // channels))
    writer = EpilogueWriter(epilogue, shape, isa, tile=run)
    with KernelBuilder("rows") as builder:
        data = builder.data(shape, "float32")
        writer.declare(builder)
        with parallel_rows(-(-rows // chunk), rows * channels) as task:
            kept = {i: T.alloc_buffer((-(-channels // run) * run,), "float32") for i in stages.kept}
            with T.serial(0, T.bind(tirx.min(chunk, rows - task * chunk))) as i:
                row = T.bind(task * chunk + i)
                position: tuple[Index, ...] = (row,)
                if len(shape) == 4:
                    height, width = shape[1:3]
                    line = T.bind(tirx.floordiv(row, width))
                    position = (tirx.floordiv(line, height), tirx.floormod(line, height), tirx.floormod(row, width))
                    position = tuple(map(T.bind, position))
                _Row(stages, writer, data, position, kept, run, channels, isa).emit()
    return builder.kernel()


@dataclass(frozen=True, eq=False)
class _Stages:
    """When each value of a program is computed. Values are numbered as in ``Ref``."""

    program: Program

    def __post_init__(self) -> None:
        for number, step in self._numbered:
            if _reduces(step) and isinstance(step.a, Ref) and step.a.index in self.per_row:
                raise ValueError(f"step {number} reduces what is one value per row")
        if not all(isinstance(output, FloatOutput | RowOutput) for output in self.program.outputs):
            raise ValueError("a program for rows stores floats only")

    @property
    def _numbered(self) -> list[tuple[int, Step]]:
        return list(enumerate(self.program.steps, 1))

    @cached_property
    def per_row(self) -> frozenset[int]:
        """Values that are one number per row."""
        found: set[int] = set()
        for number, step in self._numbered:
            sides = step.a, step.b
            whole = any(isinstance(each, Channel | Tensor | SampleChannel) for each in sides)
            whole = whole or any(isinstance(each, Ref) and each.index not in found for each in sides)
            if _reduces(step) or not whole:
                found.add(number)
        return frozenset(found)

    @cached_property
    def stage(self) -> dict[int, int]:
        """The stage in whose loop, or before it, each value is computed; of a reduction the stage after its loop."""
        found = {0: 0}
        for number, step in self._numbered:
            found[number] = max(self._of(each, found) for each in (step.a, step.b)) + _reduces(step)
        return found

    @staticmethod
    def _of(operand: Operand, stage: dict[int, int]) -> int:
        return stage[operand.index] if isinstance(operand, Ref) else 0

    @property
    def count(self) -> int:
        """Number of stages, that is of loops over the channels."""
        return max(self.stage.values()) + 1

    def steps(self, stage: int) -> list[int]:
        """The values of one number per channel that the loop of a stage computes."""
        return [n for n, _ in self._numbered if self.stage[n] == stage and n not in self.per_row]

    def of_rows(self, stage: int) -> list[int]:
        """The values of one number per row that are computed before the loop of a stage, without reductions."""
        steps = self.program.steps
        return [n for n in sorted(self.per_row) if self.stage[n] == stage and not _reduces(steps[n - 1])]

    def reductions(self, stage: int) -> list[int]:
        """The reductions that the loop of a stage accumulates."""
        return [n for n, step in self._numbered if _reduces(step) and self.stage[n] == stage + 1]

    def outputs(self, stage: int) -> list[int]:
        """The indices of the outputs with one number per channel that the loop of a stage stores."""
        floats = [(k, out.value) for k, out in enumerate(self.program.outputs) if isinstance(out, FloatOutput)]
        return [k for k, value in floats if self._of(value, self.stage) == stage]

    def read(self, stage: int) -> set[int]:
        """The values of other stages, and of rows, that the loop of a stage reads."""
        numbers = [*self.steps(stage), *self.reductions(stage)]
        read = [each for n in numbers for each in (self.program.steps[n - 1].a, self.program.steps[n - 1].b)]
        read += [self.program.outputs[k].value for k in self.outputs(stage)]
        return {each.index for each in read if isinstance(each, Ref)} - set(self.steps(stage))

    @property
    def kept(self) -> list[int]:
        """The values with one number per channel that a later stage reads; the data are read again instead."""
        later = {n for stage in range(self.count) for n in self.read(stage)}
        return sorted(later - self.per_row - {0})


def _reduces(step: Step) -> bool:
    return step.op in get_args(Reduction)


@dataclass(frozen=True, eq=False)
class _Row:
    """Emits the code for one row."""

    stages: _Stages
    writer: EpilogueWriter
    data: tirx.Buffer
    position: tuple[Index, ...]
    kept: dict[int, tirx.Buffer]
    run: int
    channels: int
    isa: Isa

    @property
    def vector(self) -> VectorType:
        return VectorType("float32", self.isa.float_lanes)

    def emit(self) -> None:
        """Emit all stages."""
        of_rows: dict[int, tirx.Buffer] = {}
        for stage in range(self.stages.count):
            self._of_rows(stage, of_rows)
            sums = {number: self._accumulators(number) for number in self.stages.reductions(stage)}
            for_blocks(self.channels, self.run, partial(self._block, stage, of_rows, sums))
            for number, parts in sums.items():
                self._hold(of_rows, number, self._total(self.stages.program.steps[number - 1].op, parts))
        for output, buffer in zip(self.stages.program.outputs, self.writer.outputs, strict=True):
            if isinstance(output, RowOutput) and isinstance(output.value, Ref):
                T.buffer_store(buffer, of_rows[output.value.index][0], [*self.position, 0])

    def _hold(self, of_rows: dict[int, tirx.Buffer], number: int, value: tirx.Expr) -> None:
        of_rows[number] = T.alloc_buffer((self.vector.lanes,), "float32")
        store(of_rows[number], value, (), 0)

    def _of_rows(self, stage: int, of_rows: dict[int, tirx.Buffer]) -> None:
        """Emit the steps that have one value per row, as vectors of equal lanes."""
        vector = self.writer.vector(self.position, 0, self.vector.lanes, self.vector.lanes)
        for number in self.stages.of_rows(stage):
            self._fetch(vector, self._refs(number), of_rows)
            vector.evaluate(number)
            self._hold(of_rows, number, vector.values[number])

    def _refs(self, number: int) -> list[int]:
        step = self.stages.program.steps[number - 1]
        return [each.index for each in (step.a, step.b) if isinstance(each, Ref)]

    def _fetch(self, vector: Vector, numbers: Sequence[int], of_rows: dict[int, tirx.Buffer]) -> None:
        """Load values that were computed before."""
        for number in numbers:
            if number in vector.values:
                continue
            if number in of_rows:
                value = load(of_rows[number], (), 0, vector.lanes)
            elif number in self.kept:
                value = load(self.kept[number], (), vector.first, vector.lanes)
            else:
                value = load(self.data, self.position, vector.first, vector.lanes, vector.valid)
            vector.values[number] = T.bind(value)

    def _block(
        self, stage: int, of_rows: dict[int, tirx.Buffer], sums: dict[int, tirx.Buffer], first: Index, valid: int
    ) -> None:
        """Emit the steps of a stage for a block of channels of which the first ``valid`` exist."""
        lanes, stages = self.vector.lanes, self.stages
        for i in range(0, min(self.run, valid), lanes):
            vector = self.writer.vector(self.position, first + i, lanes, valid - i)
            self._fetch(vector, sorted(stages.read(stage)), of_rows)
            for number in stages.steps(stage):
                vector.evaluate(number)
                if number in self.kept:
                    store(self.kept[number], vector.values[number], (), vector.first)
            for number, parts in sums.items():
                step = stages.program.steps[number - 1]
                value = self._existing(vector.fetch(step.a), valid - i, _identity(step.op))
                store(parts, self._combined(step.op, value, load(parts, (), i, lanes)), (), i)
            for k in stages.outputs(stage):
                value = vector.fetch(stages.program.outputs[k].value)
                store(self.writer.outputs[k], value, self.position, vector.first, vector.valid)

    def _existing(self, value: tirx.Expr, valid: int, fill: float) -> tirx.Expr:
        """A vector whose lanes after the last channel are ``fill``."""
        lanes = self.vector.lanes
        if valid >= lanes:
            return value
        order = [i if i < valid else lanes for i in range(lanes)]
        return tirx.Shuffle([T.bind(value), self.vector.constant(fill)], order)

    def _accumulators(self, number: int) -> tirx.Buffer:
        parts = T.alloc_buffer((self.run,), "float32")
        identity = _identity(self.stages.program.steps[number - 1].op)
        for i in range(0, self.run, self.vector.lanes):
            store(parts, self.vector.constant(identity), (), i)
        return parts

    def _combined(self, op: str, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        if op in ("row_sum", "row_mean"):
            return a + b
        which = "maximum" if op == "row_max" else "minimum"
        return extremum(which, self.vector, self.isa.architecture)(a, b)

    def _total(self, op: str, parts: tirx.Buffer) -> tirx.Expr:
        """The result in every lane: parts 2^k apart are combined, for k from the highest down to 0."""
        lanes = self.vector.lanes
        vectors = [T.bind(load(parts, (), i, lanes)) for i in range(0, self.run, lanes)]
        while len(vectors) > 1:
            half = len(vectors) // 2
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [T.bind(self._combined(op, a, b)) for a, b in pairs]
        (total,) = vectors
        apart = lanes // 2
        while apart:
            other = T.bind(tirx.Shuffle([total], [i ^ apart for i in range(lanes)]))
            total = T.bind(self._combined(op, total, other))
            apart //= 2
        return total / self.vector.constant(self.channels) if op == "row_mean" else total


def _identity(op: str) -> float:
    return {"row_max": -float("inf"), "row_min": float("inf")}.get(op, 0.0)
