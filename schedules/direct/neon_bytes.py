"""The inner loops of int8 tiles on ARM, as blocks of assembly: sums of products for some pixels and output channels.

All blocks read lists of neighbouring bytes of the image, one list per pixel, 16 bytes of each at a time:

* :class:`DotBlock`: ``sdot`` adds four products to the sum of each of four channels. The image is a lane of a vector.
* :class:`MatrixBlock`: ``smmla`` or ``usmmla`` multiply 8 bytes of two pixels with 8 bytes of two channels.
* :class:`PairBlock`: ``smull`` and ``smlal2`` add two products in 16 bits, ``sadalp`` adds these to the sum of a pixel
  and channel, which is spread over four lanes. Two products must fit in 16 bits: :func:`pairs_fit` asks the weights.
* :class:`ArmPairBlock`: the same on ARMv7.

The order of instructions is fixed, and suits cores that execute in order: weights are loaded several products before
they are used, and an instruction that needs the result of another one comes about eight instructions later. No load
changes the register of its address on AArch64, since such cores would wait for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from ..isa import IntegerProducts, Isa
from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType

MOST_PIXELS = 12
"""Pixels of a tile at most: each has a register for its address."""

LANES = 4
"""Sums of 32 bits per vector."""

_VECTOR = 16  # bytes
_BATCH = 8  # products that are computed together
_POOL = 8  # vectors of weights that are loaded in advance
_STRAIGHT = 2  # so many iterations are no loop
_REACH = 63  # the largest distance of a load of two vectors, in vectors


def pairs_fit(weight: np.ndarray) -> bool:
    """Whether the sums of two products of weights and signed bytes fit in 16 bits, for any bytes.

    Args:
        weight: Signed bytes [..., n], n a multiple of 8. Element i is added to element i + 8 of the same 16.
    """
    whole = weight.shape[-1] // _VECTOR * _VECTOR
    magnitudes = np.abs(weight[..., :whole].astype(np.int32)).reshape(-1, 2, _VECTOR // 2)
    return bool(128 * magnitudes.sum(axis=1).max(initial=0) <= np.iinfo(np.int16).max)


@dataclass(frozen=True)
class _Step:
    """Instructions of a block, and how many of its vectors of weights are no longer needed after them."""

    lines: list[str]
    weights: int


@dataclass(frozen=True)
class TileBlock(ABC):
    """A block: it adds the products of a list of bytes to the sums of all pixels and channels of a tile.

    Attributes:
        pixels: Neighbouring pixels of a row.
        vectors: Vectors of four output channels.
        stride: Bytes of the image from a pixel to the next one.
        size: Bytes of the list, a multiple of ``granularity``.
        unsigned: Whether the bytes of the image are unsigned.
        double: Whether one instruction may load two vectors of weights: fewer instructions, but cores that execute in
            order take longer.
    """

    pixels: int
    vectors: int
    stride: int = 0
    size: int = _VECTOR
    unsigned: bool = False
    double: bool = False

    granularity = 8
    """Bytes that one product reads: a list of bytes is a multiple of them."""

    instruction = ""
    """The instruction that multiplies."""

    _name = ""
    _registers = 31  # one is left for values that live longer than the block
    _most_pixels = MOST_PIXELS
    _counter = "i64"
    _branch = "b.ne"

    @property
    @abstractmethod
    def sums(self) -> int:
        """Vectors of sums."""

    @property
    @abstractmethod
    def _others(self) -> int:
        """Registers beside those of sums and weights."""

    @abstractmethod
    def _steps(self, size: int) -> Iterator[_Step]:
        """The products of ``size`` bytes of each pixel, once they are loaded."""

    @property
    def fits(self) -> bool:
        """Whether there are enough registers."""
        return self.pixels <= self._most_pixels and self._pool >= self._least

    def work(self, in_order: float) -> float:
        """Vector instructions for 16 bytes of each pixel, without loads, at the pace of a good loop.

        Args:
            in_order: 1 for a core that executes in order, 0 for another one.
        """
        return self._products * max(1.0, _BATCH / self.sums)

    @cached_property
    def _products(self) -> int:
        return sum(len(step.lines) for step in self._steps(_VECTOR))

    @property
    def loads(self) -> int:
        """Loads for 16 bytes of each pixel."""
        return self.pixels + self._weight_bytes(_VECTOR) // _VECTOR // (2 if self.double and self._pool > 1 else 1)

    @cached_property
    def function(self) -> LlvmFunction:
        """A function of pointers to the sums (int32x4), to the image and to the weights."""
        whole, rest = divmod(self.size, _VECTOR)
        lines: list[str] = []
        looped = whole > _STRAIGHT
        if looped:
            lines += ["1:", *self._iteration(_VECTOR, None, 0), *self._advance(), f"{self._branch} 1b"]
        pieces = [_VECTOR] * (0 if looped else whole) + [piece for piece in (8, 4) if rest & piece]
        place = weights = 0
        for piece in pieces:
            lines += self._iteration(piece, place, weights)
            place, weights = place + piece, weights + self._weight_bytes(piece)
        return self._function(lines, whole if looped else 0)

    def _iteration(self, size: int, place: int | None, first: int) -> list[str]:
        """Load and multiply ``size`` bytes of each pixel.

        Args:
            size: 16, 8 or 4.
            place: Position in the list, or None in the loop.
            first: Position in the weights.
        """
        width = self._weight_width(size)
        count, loaded = self._weight_bytes(size) // width, 0

        def load(free: int, needed: int) -> Iterator[str]:
            """Load all weights before ``needed``, and before ``free`` as far as whole instructions go."""
            nonlocal loaded
            free, needed = min(free, count), min(needed, count)
            while loaded < free:
                place = first + loaded * width
                number = 2 if self.double and loaded + 1 < count and place <= _REACH * width else 1
                if loaded + number > free:
                    if loaded >= needed:
                        return
                    number = 1
                yield self._load_weights([self._weight(loaded + i) for i in range(number)], width, place)
                loaded += number

        lines = [*load(min(2, self._pool), 1), *self._inputs(size, place), *load(self._pool, self._least)]
        for step in self._steps(size):
            lines += step.lines
            lines += load(step.weights + self._pool, step.weights + self._least)
        return lines

    def _inputs(self, size: int, place: int | None) -> list[str]:
        """Load ``size`` bytes of each pixel."""
        return [self._load_input(self._input(p), p, size, place) for p in range(self.pixels)]

    def _load_input(self, register: int, pixel: int, size: int, place: int | None) -> str:
        kind, at = {16: "q", 8: "d", 4: "s"}[size], self._left if place is None else f"#{place}"
        return f"ldr {self._named(register, kind)}, [{self._pointer(pixel)}, {at}]"

    def _load_weights(self, registers: list[int], width: int, place: int) -> str:
        names = ", ".join(self._named(register, {16: "q", 8: "d"}[width]) for register in registers)
        return f"{'ldp' if len(registers) == 2 else 'ldr'} {names}, [{self._weights}, #{place}]"

    def _advance(self) -> list[str]:
        step = self._weight_bytes(_VECTOR)
        return [f"add {self._weights}, {self._weights}, #{step}", f"adds {self._left}, {self._left}, #{_VECTOR}"]

    def _started(self, iterations: int) -> tuple[int, int]:
        """What the loop adds to the pointers in advance, and where the counter begins."""
        return iterations * _VECTOR, -iterations * _VECTOR

    def _weight_bytes(self, size: int) -> int:
        """Bytes of weights for ``size`` bytes of a pixel."""
        return self.vectors * LANES * size

    def _weight_width(self, size: int) -> int:
        """Bytes of a vector of weights."""
        return _VECTOR

    @property
    def _least(self) -> int:
        """Vectors of weights that a step needs."""
        return 1

    @property
    def _pool(self) -> int:
        """Registers of weights."""
        return min(self._registers - self.sums - self._others, _POOL)

    # Operands of the assembly: sums, other registers (those of inputs first), weights; pointers, counter.

    def _other(self, index: int) -> int:
        return self.sums + index

    def _input(self, pixel: int) -> int:
        return self._other(pixel)

    def _weight(self, number: int) -> int:
        return self.sums + self._others + number % self._pool

    @property
    def _vectors(self) -> int:
        return self.sums + self._others + self._pool

    def _pointer(self, pixel: int) -> str:
        return f"${self._vectors + pixel}"

    @property
    def _weights(self) -> str:
        return f"${self._vectors + self.pixels}"

    @property
    def _left(self) -> str:
        return f"${self._vectors + self.pixels + 1}"

    @staticmethod
    def _named(register: int, modifier: str) -> str:
        return f"${{{register}:{modifier}}}"

    def _function(self, lines: list[str], iterations: int) -> LlvmFunction:
        """The function. What the block leaves in other registers, pointers and counter is not used."""
        vector, count = VectorType("int32", LANES).llvm, self.sums
        ahead, counter = self._started(iterations)
        pointers = [f"ptr %i{p}" for p in range(self.pixels)] + ["ptr %weights"]
        scalars = [*pointers, *([f"{self._counter} {counter}"] if iterations else [])]
        outputs = ["=w"] * count + ["=&w"] * (self._vectors - count) + ["=&r"] * len(scalars)
        tied = [*range(count), *range(self._vectors, self._vectors + len(scalars))]
        constraints = ",".join([*outputs, *map(str, tied), "~{cc}", "~{memory}"])
        types = [*[vector] * self._vectors, *(scalar.split()[0] for scalar in scalars)]
        result, values = f"{{ {', '.join(types)} }}", [*(f"{vector} %s{i}" for i in range(count)), *scalars]
        assembly = "\\0A".join(lines)  # LLVM's text has \0A for a line break
        text = [
            *(f"%i{p} = getelementptr i8, ptr %image, i64 {p * self.stride + ahead}" for p in range(self.pixels)),
            *(f"%p{i} = getelementptr {vector}, ptr %sums, i64 {i}" for i in range(count)),
            *(f"%s{i} = load {vector}, ptr %p{i}" for i in range(count)),
            f'%r = call {result} asm sideeffect "{assembly}", "{constraints}"({", ".join(values)})',
            *(f"%r{i} = extractvalue {result} %r, {i}" for i in range(count)),
            *(f"store {vector} %r{i}, ptr %p{i}" for i in range(count)),
            "ret i32 0",
        ]
        options = "u" * self.unsigned + "d" * self.double
        name = f"sbnn_{self._name}{options}_{self.pixels}x{self.vectors}_{self.stride}_{self.size}"
        return LlvmFunction.of(name, VectorType("int32", 1), ["ptr %sums", "ptr %image", "ptr %weights"], text)


@dataclass(frozen=True)
class DotBlock(TileBlock):
    """Blocks of ``sdot``: sums [pixels, vectors], lanes are channels. Weights: [size / 4, channels, 4]."""

    granularity = 4
    instruction = "sdot"
    _name = "dot"

    @property
    def sums(self) -> int:
        """Vectors of sums."""
        return self.pixels * self.vectors

    @property
    def _others(self) -> int:
        return self.pixels

    def _steps(self, size: int) -> Iterator[_Step]:
        for number, (lane, v) in enumerate(product(range(size // 4), range(self.vectors))):
            w = self._weight(number)
            lines = [
                f"sdot ${p * self.vectors + v}.4s, ${w}.16b, ${self._input(p)}.4b[{lane}]" for p in range(self.pixels)
            ]
            yield _Step(lines, number + 1)


@dataclass(frozen=True)
class MatrixBlock(TileBlock):
    """Blocks of ``smmla``: sums [pairs of pixels, pairs of channels], lanes are the four of them, pixels outside.

    Weights: [size / 8, channels, 8]. The last of an odd number of pixels is computed twice.
    """

    instruction = "smmla"
    _name = "matrix"

    @property
    def sums(self) -> int:
        """Vectors of sums."""
        return self._pairs * self._columns

    @property
    def _pairs(self) -> int:
        return -(-self.pixels // 2)

    @property
    def _columns(self) -> int:
        return self.vectors * LANES // 2

    @property
    def _others(self) -> int:
        return 2 * self._pairs + 1

    def work(self, in_order: float) -> float:
        """Vector instructions, see above. Cores execute twice as many of them as loads: these may take longer."""
        loaded = self.pixels + self._weight_bytes(_VECTOR) // _VECTOR
        return max(super().work(in_order) + 2 * self._pairs, 2.0 * loaded)

    def _inputs(self, size: int, place: int | None) -> list[str]:
        """Load the bytes of each pixel; register ``2 * pair + half`` gets the halves of two pixels."""
        pixels = [min(i, self.pixels - 1) for i in range(2 * self._pairs)]
        lines = [self._load_input(self._loaded(i), pixel, size, place) for i, pixel in enumerate(pixels)]
        for pair in range(self._pairs):
            first, second, halves = self._loaded(2 * pair), self._loaded(2 * pair + 1), range(size // 8)
            lines += [f"zip{h + 1} ${self._half(pair, h)}.2d, ${first}.2d, ${second}.2d" for h in halves]
        return lines

    # Pixels are loaded to registers 1, 2, ...; the halves of the first pair go to 0 and 2, and so on: a register is
    # written when it is no longer read.

    def _loaded(self, pixel: int) -> int:
        return self._other(pixel + 1)

    def _half(self, pair: int, half: int) -> int:
        return self._other(2 * pair + (2 if half else 0) - (1 if pair and not half else 0))

    def _steps(self, size: int) -> Iterator[_Step]:
        multiply = "usmmla" if self.unsigned else "smmla"
        for number, (half, column) in enumerate(product(range(size // 8), range(self._columns))):
            lines = [
                f"{multiply} ${pair * self._columns + column}.4s, ${self._half(pair, half)}.16b, "
                f"${self._weight(number)}.16b"
                for pair in range(self._pairs)
            ]
            yield _Step(lines, number + 1)


@dataclass(frozen=True)
class PairBlock(TileBlock):
    """Blocks of ``smull``, ``smlal2`` and ``sadalp``: sums [pixels, channels], lanes are parts of a sum.

    Weights: [size / 16, channels, 16], then [channels, 8] if 8 bytes are left.
    """

    instruction = "smull"
    _name = "pairs"
    _multiply = ("smull ${t}.8h, ${w}.8b, ${x}.8b", "smlal2 ${t}.8h, ${w}.16b, ${x}.16b")
    _add = "sadalp ${s}.4s, ${t}.8h"

    @property
    def sums(self) -> int:
        """Vectors of sums."""
        return self.pixels * self._channels

    @property
    def _channels(self) -> int:
        return self.vectors * LANES

    def work(self, in_order: float) -> float:
        """Vector instructions, see above."""
        waits = max(1.0, _BATCH / (self.pixels * self._together)) - 1
        return self._products * (1 + in_order * waits / 2)

    @property
    def _others(self) -> int:
        return self.pixels + self.pixels * self._together

    @cached_property
    def _together(self) -> int:
        """Channels whose products are computed together."""
        room = self._registers - self.sums - self.pixels
        return max(1, min(_BATCH // self.pixels, self._channels, room // (self.pixels + 1)))

    @property
    def _least(self) -> int:
        return self._together

    def _weight_width(self, size: int) -> int:
        return min(size, _VECTOR)

    def _steps(self, size: int) -> Iterator[_Step]:
        for first in range(0, self._channels, self._together):
            channels = range(first, min(first + self._together, self._channels))
            batch = [
                {
                    "s": p * self._channels + c,
                    "t": self._other(self.pixels + i),
                    "w": self._weight(c),
                    "x": self._input(p),
                }
                for i, (c, p) in enumerate(product(channels, range(self.pixels)))
            ]
            multiply = self._multiply[: size // 8]
            yield _Step([_filled(line, each) for line in multiply for each in batch], channels[-1] + 1)
            yield _Step([_filled(self._add, each) for each in batch], channels[-1] + 1)


def _filled(line: str, registers: dict[str, int]) -> str:
    for name, register in registers.items():
        line = line.replace(f"{{{name}}}", str(register)).replace(f"{{{name}:", f"{{{register}:")
    return line


@dataclass(frozen=True)
class ArmPairBlock(PairBlock):
    """The same on ARMv7: ``vmull.s8``, ``vmlal.s8`` and ``vpadal.s16``."""

    instruction = "vmull.s8"
    _name = "arm_pairs"
    _registers = 15
    _most_pixels = 4
    _counter = "i32"
    _branch = "bne"
    _multiply = ("vmull.s8 ${t:q}, ${w:e}, ${x:e}", "vmlal.s8 ${t:q}, ${w:f}, ${x:f}")
    _add = "vpadal.s16 ${s:q}, ${t:q}"

    def _load_input(self, register: int, pixel: int, size: int, place: int | None) -> str:
        return f"vld1.8 {{{self._halves(register, size)}}}, [{self._pointer(pixel)}]!"

    def _load_weights(self, registers: list[int], width: int, place: int) -> str:
        return f"vld1.8 {{{self._halves(registers[0], width)}}}, [{self._weights}]!"

    def _halves(self, register: int, size: int) -> str:
        return ", ".join(self._named(register, half) for half in "ef"[: size // 8])

    def _advance(self) -> list[str]:
        return [f"subs {self._left}, {self._left}, #1"]

    def _started(self, iterations: int) -> tuple[int, int]:
        return 0, iterations


_BLOCKS: dict[IntegerProducts, type[TileBlock]] = {
    IntegerProducts.LANES: DotBlock,
    IntegerProducts.MATRICES: MatrixBlock,
    IntegerProducts.BYTES: PairBlock,
}


def block_of(isa: Isa) -> type[TileBlock]:
    """The kind of blocks for an instruction set of ARM."""
    return ArmPairBlock if isa.architecture == "arm" else _BLOCKS[isa.products]


def tile_block(
    isa: Isa, pixels: int, vectors: int, stride: int = 0, size: int = _VECTOR, unsigned: bool = False
) -> TileBlock:
    """A block for an instruction set; its arguments are the attributes of TileBlock."""
    double = isa.architecture == "aarch64" and isa.core != "in-order"
    return block_of(isa)(pixels, vectors, stride, size, unsigned, double)
