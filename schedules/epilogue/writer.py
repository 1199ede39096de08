"""Code generation for epilogues: a kernel passes vectors of its result, and the writer emits the program's TIR.

For an example of its use in a kernel see tir/kernel_builder.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..layouts.words import packed_shape
from ..shapes import BorderClasses
from ..tir.functions import function
from ..tir.kernel_builder import KernelBuilder, Role
from ..tir.llvm import Predicate, extremum, fence, fused_multiply_add, pack
from ..tir.narrowed_bytes import narrowed_bytes
from ..tir.rounded_bytes import MOST, rounded_bytes
from ..tir.vectors import Index, VectorType, load, powers_of_two, store
from . import program as epilogue
from .reciprocals import reciprocal

_COMPUTED = epilogue.Ref | epilogue.TensorOperand
_PREDICATES: dict[tuple[bool, bool], Predicate] = {
    (False, False): "ogt",
    (True, False): "oge",
    (False, True): "ugt",
    (True, True): "uge",
}
"""LLVM's comparison for an output: whether it is inclusive, and its bit of NaN."""


def store_code(words: tirx.Buffer, compared: Sequence[tirx.Expr], position: Sequence[Index], word: Index) -> None:
    """Emit the stores of the binary digits of a code, from the packed comparisons with its thresholds.

    Args:
        words: The output, of shape words.packed_shape, or with each word split into parts.
        compared: One word (or part) for each threshold, in ascending order of the thresholds.
        position: Indices of the pixel.
        word: Index of the word (or part).
    """
    if len(compared) == 1:
        T.buffer_store(words, compared[0], [*position, word])
        return
    thermometer = [T.bind(each) for each in compared]
    for j, digit in enumerate(epilogue.digits(thermometer)):
        T.buffer_store(words, digit, [position[0], j, *position[1:], word])


def element_of(output: epilogue.Output) -> epilogue.Element | None:
    """The element type of an output; None for packed words."""
    match output:
        case epilogue.CodesOutput(dtype=dtype):
            return dtype
        case epilogue.FloatOutput() | epilogue.RowOutput():
            return "float32"
    return None


# 1.5 * 2^23: float32 numbers near it are integers, so adding it rounds, halves to even; and its bits plus n are those
# of its sum with n, for |n| < 2^22.
_ROUNDER, _ROUNDER_BITS = 12582912.0, 0x4B400000


def quantised(value: tirx.Expr, dtype: epilogue.Element, zero_point: tirx.Expr | int) -> tirx.Expr:
    """The integers of a type that an output stores for a vector of float32 values (interpreter.quantised)."""
    vector, info = VectorType.of(value), np.iinfo(dtype)
    integers = VectorType("int32", vector.lanes)

    def before(limit: int) -> tirx.Expr:
        """A limit before the zero point is added."""
        if isinstance(zero_point, int):
            return vector.constant(float(limit - zero_point))
        return vector.broadcast(tirx.Cast("float32", tirx.const(limit, "int32") - zero_point))

    low, high = before(int(info.min)), before(int(info.max))
    value = T.bind(tirx.Select(value > low, value, low))  # low for NaN
    value = T.bind(tirx.Select(value < high, value, high))
    bits = integers.reinterpret(value + vector.constant(_ROUNDER))
    shift = integers.broadcast(tirx.const(_ROUNDER_BITS, "int32") - zero_point)
    return VectorType(dtype, vector.lanes).cast(bits - shift)


@dataclass(eq=False)
class EpilogueWriter:
    """Emits the code of one epilogue into the kernel under construction.

    Attributes:
        program: The epilogue.
        shape: Shape of the result, (N, H, W, C) or (N, C).
        isa: The instruction set, which gives the size of packed words.
        classes: The border classes. Required for Border operands.
        tile: Per-channel constants are padded to a multiple of ``tile`` channels. The length of every stored run of
            channels divides ``tile``, and a run starts at a multiple of its length.
        read: Operands that the kernel reads itself.
    """

    program: epilogue.Program
    shape: tuple[int, ...]
    isa: Isa
    classes: BorderClasses | None = None
    tile: int = 64
    read: Sequence[epilogue.Number] = ()
    _tensors: dict[int, tirx.Buffer] = field(default_factory=dict, init=False)
    _vectors: dict[epilogue.Operand, tirx.Buffer] = field(default_factory=dict, init=False)
    _thresholds: dict[epilogue.Operand, tirx.Buffer] = field(default_factory=dict, init=False)
    _border_class: list[tirx.Buffer] = field(default_factory=list, init=False)
    outputs: list[tirx.Buffer] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.classes is None and any(isinstance(each, epilogue.Border) for each in self._operands()):
            raise ValueError("an epilogue with Border operands needs the border classes of the layer")
        for operand in self._operands():
            if isinstance(operand, epilogue.Channel | epilogue.Border):
                expected: tuple[int, ...] = (self.channels,)
                if isinstance(operand, epilogue.Border) and self.classes is not None:
                    expected = (self.classes.count, self.channels)
                if operand.values.shape != expected:
                    kind = type(operand).__name__
                    raise ValueError(f"the {kind} constant of an epilogue is {operand.values.shape}, not {expected}")

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return self.shape[-1]

    @property
    def in_place(self) -> tuple[tuple[int, int], ...]:
        """Outputs that may share the memory of a tensor operand: pairs (index of the tensor, index of the output).

        Each element of such an operand is read once, before the same element of the output is stored.
        """
        read = self._tensor_operands()
        indices = sorted({each.index for each in read})
        stored = [(k, element_of(output)) for k, output in enumerate(self.program.outputs)]
        once = [each for each in read if isinstance(each, epilogue.Tensor) and read.count(each) == 1]
        return tuple((indices.index(each.index), k) for each in once for k, dtype in stored if dtype == each.dtype)

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the tensor operands in the order of their indices, the per-channel constants, and the outputs."""
        for index, tensor in sorted({each.index: each for each in self._tensor_operands()}.items()):
            shape = {
                epilogue.Tensor: self.shape,
                epilogue.Pixel: (*self.shape[:-1], 1),
                epilogue.Sample: (self.shape[0], 1),
                epilogue.SampleChannel: (self.shape[0], self.channels),
                epilogue.Number: (1, 1),
            }[type(tensor)]
            dtype = tensor.dtype if isinstance(tensor, epilogue.Tensor | epilogue.Number) else "float32"
            self._tensors[index] = builder.tensor(f"tensor{index}", shape, dtype)
        self.declare_constants(builder)
        for index, output in enumerate(self.program.outputs):
            shape, stored = self.shape, element_of(output)
            if isinstance(output, epilogue.RowOutput):
                shape = (*self.shape[:-1], 1)
            elif isinstance(output, epilogue.PackedOutput):
                bits = epilogue.code_bits(len(output.thresholds))
                shape = packed_shape(self.shape, bits, self.isa)
            self.outputs.append(builder.output(shape, stored or self.isa.word, f"out{index}"))

    def declare_constants(self, builder: KernelBuilder) -> None:
        """Declare only the per-channel constants, for use with :meth:`values`."""
        for operand in self._operands():
            if isinstance(operand, epilogue.Channel | epilogue.Border) and operand not in self._vectors:
                self._vectors[operand] = self._declare_constant(builder, operand.values, fill=0.0)
        for output in self.program.outputs:
            for threshold in output.thresholds if isinstance(output, epilogue.PackedOutput) else ():
                if threshold not in self._thresholds:
                    self._declare_threshold(builder, threshold)
        if self.classes is not None and any(isinstance(each, epilogue.Border) for each in self._vectors):
            for name, table in (("row_class", self.classes.row_class), ("col_class", self.classes.col_class)):
                array = np.ascontiguousarray(table, np.int32)
                self._border_class.append(builder.constant(name, array, Role.EPILOGUE_CONSTANT))

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        """Emit the epilogue for a run of channels of one output pixel.

        Args:
            values: float32 vectors of consecutive channels, all with the same number of lanes. With a packed output the
                run must have a multiple of 8 channels; a run shorter than a word is stored as a part of the word.
            position: Indices (n, y, x) or (n,) of the pixel.
            first_channel: A multiple of the run's length. The run may extend past the last channel or start after it.
                Only the 0 bits that fill the last word are stored there.
        """
        run = len(values) * values[0].ty.dtype.lanes
        if self.tile % run:
            raise ValueError(f"a run of {run} channels does not divide the tile of {self.tile} channels")
        in_last = self.channels % run or run
        if isinstance(first_channel, tirx.IntImm):
            first_channel = int(first_channel)
        if isinstance(first_channel, int):
            left = self.channels - first_channel
            if left > 0:
                self._store_run(values, position, first_channel, min(run, left), last=left <= run)
        elif in_last == run and not self._words_left(run):
            self._store_run(values, position, first_channel, run, last=False)
        else:
            with T.If(first_channel + run < self.channels):
                with T.Then():
                    self._store_run(values, position, first_channel, run, last=False)
                with T.Else(), T.If(first_channel < self.channels), T.Then():
                    self._store_run(values, position, first_channel, in_last, last=True)

    def values(self, results: Sequence[tirx.Expr], first_channel: Index) -> list[tirx.Expr]:
        """Evaluate a program for a run of channels, for kernels that process the result further.

        The program must have one float output and no tensor operands. Values after the last channel are undefined.

        Args:
            results: float32 vectors of consecutive channels.
            first_channel: A multiple of the run's length.
        """
        (output,) = self.program.outputs
        made = []
        for i, result in enumerate(results):
            lanes = result.ty.dtype.lanes
            vector = self.vector((), first_channel + i * lanes, lanes, lanes)
            vector.run(result)
            made.append(vector.fetch(output.value))
        return made

    def vector(self, position: Sequence[Index], first: Index, lanes: int, valid: int) -> Vector:
        """The evaluation of the steps for one vector, for kernels that interleave them with other code."""
        return Vector(writer=self, position=position, first=first, lanes=lanes, valid=valid, border=None)

    def number(self, operand: epilogue.Number) -> tirx.Expr:
        """A number that is known only at run time, in its own type."""
        return self._tensors[operand.index][0, 0]

    def _operands(self) -> list[epilogue.Operand]:
        """The operands of all steps and the values of all outputs."""
        steps = [operand for step in self.program.steps for operand in (step.a, step.b)]
        return steps + [output.value for output in self.program.outputs]

    def _tensor_operands(self) -> list[epilogue.TensorOperand]:
        """The tensors that are read, each as often as it is."""
        points = [each.zero_point for each in self.program.outputs if isinstance(each, epilogue.CodesOutput)]
        operands = (*self._operands(), *self._compared(), *points, *self.read)
        return [each for each in operands if isinstance(each, epilogue.TensorOperand)]

    def _compared(self) -> list[epilogue.Operand]:
        """The thresholds of all packed outputs."""
        packed = [each for each in self.program.outputs if isinstance(each, epilogue.PackedOutput)]
        return [threshold for output in packed for threshold in output.thresholds]

    def _words_left(self, run: int) -> bool:
        """Whether the last word of a pixel extends past the last run."""
        packed = any(isinstance(output, epilogue.PackedOutput) for output in self.program.outputs)
        return packed and -self.channels % self.isa.word_bits > -self.channels % run

    def _declare_constant(self, builder: KernelBuilder, values: np.ndarray, fill: float) -> tirx.Buffer:
        width = -(-self.channels // self.tile) * self.tile
        padding = [(0, 0)] * (values.ndim - 1) + [(0, width - self.channels)]
        array = np.pad(np.asarray(values, np.float32), padding, constant_values=fill)
        name = f"constant{len(self._vectors) + len(self._thresholds)}"
        return builder.constant(name, array, Role.EPILOGUE_CONSTANT)

    def _declare_threshold(self, builder: KernelBuilder, threshold: epilogue.Operand) -> None:
        # Pad with NaN after the last channel: it compares false, so the tail bits are 0 without further code. Outputs
        # whose bit of NaN is 1 mask them.
        if isinstance(threshold, epilogue.Channel):
            self._thresholds[threshold] = self._declare_constant(builder, threshold.values, fill=np.nan)
        elif isinstance(threshold, epilogue.Scalar):
            if self.channels % self.isa.word_bits:
                values = np.full(self.channels, threshold.value)
                self._thresholds[threshold] = self._declare_constant(builder, values, fill=np.nan)
        elif isinstance(threshold, epilogue.Border):
            raise ValueError("the threshold of a packed output cannot be a Border constant: add it to the value")

    def _store_run(
        self, values: Sequence[tirx.Expr], position: Sequence[Index], first: Index, valid: int, last: bool
    ) -> None:
        """Emit the stores of a run of which the first ``valid`` channels exist; ``last`` if no channels follow."""
        lanes = values[0].ty.dtype.lanes
        border = None
        if self.classes is not None and self._border_class:
            rows, columns = self._border_class
            border = T.bind(rows[position[-2]] * self.classes.columns + columns[position[-1]])
        vectors = []
        for i, value in enumerate(values):
            vector = Vector(
                writer=self,
                position=position,
                first=first + i * lanes,
                lanes=lanes,
                valid=valid - i * lanes,
                border=border,
            )
            vector.run(value)
            vectors.append(vector)
        for output, buffer in zip(self.program.outputs, self.outputs, strict=True):
            if isinstance(output, epilogue.PackedOutput):
                self._store_bits(output, buffer, vectors, last)
            elif isinstance(output, epilogue.CodesOutput):
                self._store_codes(output, buffer, vectors)
            else:
                for vector in vectors:
                    store(buffer, vector.fetch(output.value), position, vector.first, vector.valid)

    def _store_codes(self, output: epilogue.CodesOutput, buffer: tirx.Buffer, vectors: Sequence[Vector]) -> None:
        lanes, values = vectors[0].lanes, [vector.quotient(output) for vector in vectors]
        packs = self.isa.architecture in ("x86", "aarch64") and output.dtype in ("int8", "uint8") and lanes >= 4
        if packs and lanes > self.isa.float_lanes:  # each is several registers
            parts = [list(range(i, i + self.isa.float_lanes)) for i in range(0, lanes, self.isa.float_lanes)]
            values = [tirx.Shuffle([value], part) for value in values for part in parts]
            lanes = self.isa.float_lanes
        point, known, more = output.zero_point, None, []
        if isinstance(point, epilogue.Number):
            point = tirx.Cast("int32", self.number(point))
            more.append(point)
        else:
            known = point
        for start, count in powers_of_two(len(values), MOST if packs else 1):
            if packs:
                pack = (
                    rounded_bytes(lanes, count, output.dtype, known)
                    if self.isa.architecture == "x86"
                    else narrowed_bytes(count, output.dtype, known)
                )
                stored = T.bind(pack(*values[start : start + count], *more))
            else:
                stored = quantised(values[start], output.dtype, point)
            head, first = vectors[0], start * lanes
            store(buffer, stored, head.position, head.first + first, head.valid - first)

    def _store_bits(
        self,
        output: epilogue.BitsOutput | epilogue.LevelsOutput,
        words: tirx.Buffer,
        vectors: Sequence[Vector],
        last: bool,
    ) -> None:
        head, word_bits = vectors[0], self.isa.word_bits
        run = head.lanes * len(vectors)
        bits = gcd(run, word_bits)  # a run shorter than a word is stored as a part of it
        if bits % 8 or bits % head.lanes:
            raise ValueError(f"cannot pack runs of {run} channels ({head.lanes} a vector) into {word_bits}-bit words")
        if bits < word_bits:
            shape = (*words.shape[:-1], words.shape[-1] * (word_bits // bits))
            words = T.decl_buffer(shape, f"uint{bits}", data=words.data)
        predicate = _PREDICATES[output.inclusive, output.of_nan]
        compare = pack(predicate, head.type, bits // head.lanes, self.isa.masks_are_words)
        end = run // bits
        if last:
            start = self.channels - head.valid
            end = (self.isa.words(self.channels) * word_bits - start) // bits
        for i in range(end):
            part = vectors[i * bits // head.lanes : (i + 1) * bits // head.lanes]
            compared = [tirx.const(0, f"uint{bits}")] * len(output.thresholds)
            if part and part[0].valid > 0:
                results = [v.fetch(output.value) for v in part]
                compared = [compare(*results, *[v.threshold(t) for v in part]) for t in output.thresholds]
                computed = any(isinstance(t, _COMPUTED) for t in output.thresholds)
                if part[0].valid < bits and (computed or output.of_nan):
                    exist = tirx.const((1 << part[0].valid) - 1, f"uint{bits}")
                    compared = [word & exist for word in compared]
            store_code(words, compared, head.position, tirx.floordiv(head.first, bits) + i)

    def _feeds_sum(self, index: int) -> bool:
        """Whether value ``index`` is a product (or the anchor's result) that a step adds or subtracts."""
        if index > 0 and self.program.steps[index - 1].op != "multiply":
            return False
        used = epilogue.Ref(index)
        return any(step.op in ("add", "subtract") and used in (step.a, step.b) for step in self.program.steps)


@dataclass(eq=False, kw_only=True)
class Vector:
    """Evaluates the steps for one vector of the result.

    ``valid`` is the number of channels of the run that exist from the first lane on. It may exceed ``lanes``.
    ``values`` has the results so far, by their number as in ``Ref``.
    """

    writer: EpilogueWriter
    position: Sequence[Index]
    first: Index
    lanes: int
    valid: int
    border: tirx.Expr | None
    values: dict[int, tirx.Expr] = field(default_factory=dict)

    @property
    def type(self) -> VectorType:
        """The vector type: float32, ``lanes`` lanes."""
        return VectorType("float32", self.lanes)

    def run(self, result: tirx.Expr) -> None:
        """Evaluate all steps. A vector after the last channel is filled with 0 instead."""
        if self.valid <= 0:
            self.values = {i: self.type.constant(0.0) for i in range(1 + len(self.writer.program.steps))}
            return
        self.set(0, result)
        for index in range(1, 1 + len(self.writer.program.steps)):
            self.evaluate(index)

    def evaluate(self, index: int) -> None:
        """Evaluate the step whose result is ``Ref(index)``."""
        self.set(index, self._apply(self.writer.program.steps[index - 1]))

    def set(self, index: int, value: tirx.Expr) -> None:
        """Set the value of ``Ref(index)``."""
        if self.writer._feeds_sum(index):
            # A fused multiply-add rounds once instead of twice, which could flip bits against the reference.
            value = fence(self.type)(value)
        self.values[index] = T.bind(value)

    def fetch(self, operand: epilogue.Operand) -> tirx.Expr:
        """The value of an operand."""
        match operand:
            case epilogue.Ref(index):
                return self.values[index]
            case epilogue.Tensor(index=index):
                return self.type.cast(
                    load(self.writer._tensors[index], self.position, self.first, self.lanes, self.valid)
                )
            case epilogue.Number():
                return self.type.broadcast(tirx.Cast("float32", self.writer.number(operand)))
            case epilogue.Pixel(index):
                return self.type.broadcast(self.writer._tensors[index][(*self.position, 0)])
            case epilogue.Sample(index):
                return self.type.broadcast(self.writer._tensors[index][self.position[0], 0])
            case epilogue.SampleChannel(index):
                sample = self.position[:1]
                return load(self.writer._tensors[index], sample, self.first, self.lanes, self.valid)
            case epilogue.Scalar(value):
                return self.type.constant(value)
            case epilogue.Border():
                return load(self.writer._vectors[operand], [self.border], self.first, self.lanes)
            case epilogue.Channel():
                return load(self.writer._vectors[operand], (), self.first, self.lanes)
        raise TypeError(f"not an operand of an epilogue: {operand!r}")

    def quotient(self, output: epilogue.CodesOutput) -> tirx.Expr:
        """The value that an output rounds, or another one that gives the same integers without a division."""
        match output.value:
            case epilogue.Ref(index) if index > 0:
                step = self.writer.program.steps[index - 1]
                if step.op == "divide" and isinstance(step.b, epilogue.Scalar) and self.writer.isa.fuses:
                    factors = reciprocal(step.b.value, output)
                    if factors is not None:
                        x, high = self.fetch(step.a), self.type.constant(factors.high)
                        if not factors.low:
                            return x * high
                        return fused_multiply_add(self.type)(x, high, x * self.type.constant(factors.low))
        return self.fetch(output.value)

    def threshold(self, operand: epilogue.Operand) -> tirx.Expr:
        """The threshold of a packed output, with NaN after the last channel."""
        buffer = self.writer._thresholds.get(operand)
        return self.fetch(operand) if buffer is None else load(buffer, (), self.first, self.lanes)

    def _apply(self, step: epilogue.Step) -> tirx.Expr:
        a, b = self.fetch(step.a), self.fetch(step.b)
        match step.op:
            case "add":
                return a + b
            case "subtract":
                return a - b
            case "multiply":
                return a * b
            case "divide":
                # TVM folds x - x and x * 0 to 0 and then raises an error for a division by it.
                number = isinstance(b, tirx.Broadcast) and isinstance(b.value, tirx.FloatImm) and b.value.value != 0
                return a / (b if number else fence(self.type)(b))
            case "maximum" | "minimum":
                first, second = (a, b) if _is_number(step.a) else (b, a)
                first_is_number = _is_number(step.a) or _is_number(step.b)
                return extremum(step.op, self.type, self.writer.isa.architecture, first_is_number)(first, second)
            case "prelu":
                return tirx.Select(a > self.type.constant(0.0), a, a * b)
            case "exp" | "log" | "sqrt" | "sigmoid" | "tanh" | "erf" | "abs" | "round" | "floor" | "ceil":
                return function(step.op, self.type).call_once(a)
        raise ValueError(f"not an operation of an epilogue: {step.op!r}")


def _is_number(operand: epilogue.Operand) -> bool:
    """Whether an operand is constant and never NaN."""
    match operand:
        case epilogue.Scalar(value):
            return not np.isnan(value)
        case epilogue.Channel(values) | epilogue.Border(values):
            return not np.isnan(values).any()
    return False
