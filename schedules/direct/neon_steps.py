"""The inner loop of a popcount tile as a block of AArch64 assembly.

LLVM moves instructions between steps until it runs out of registers, and cores that execute in order wait for each
result. The block has a fixed order instead: batches of about 8 popcounts, so that a result is used 8 instructions
after it was requested; the loads for the next batch follow the first instructions of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType

BATCH = 8
"""Popcounts that are computed together: no core needs more instructions between a request and the use of its result."""

_UNROLLED = (4, 3, 2, 7, 6, 5)  # steps per iteration, the best first; more than 4 only if nothing else divides
_REGISTERS = 31  # one is left for values that live longer than the block
_REACH = 65520  # the largest distance in bytes that a load of 128 bits adds to its address
_BYTES = 16  # of a vector


@dataclass(frozen=True)
class TileSteps:
    """What a block computes: ``sums[p, v] += popcount(x[p] ^ w[v])`` for some pixels and all vectors, in every step.

    Attributes:
        pixels: The pixels of the tile that take part.
        sums: Vectors of sums of the tile; they are all in registers.
        vectors: Vectors of output channels of the tile.
        steps: Steps, which are neighbours in the image and in the weights.
        stride: Bytes of the image from a pixel to the next one.
        signed: True for {-1, +1} weights (``^``), False for {0, 1} weights (``&``).
    """

    pixels: tuple[int, ...]
    sums: int
    vectors: int
    steps: int
    stride: int
    signed: bool


@cache
def tile_steps(tile: TileSteps) -> LlvmFunction | None:
    """A function of pointers to the sums (uint16x8 [pixels, vectors]), to the image and to the weights.

    The image has the vectors of all steps of a pixel one after the other, the weights those of a step.

    Returns:
        None if there are too few registers, or the pixels are too far apart.
    """
    width = len(tile.pixels)
    unrolled = next((steps for steps in _UNROLLED if tile.steps % steps == 0), 1)
    if tile.pixels[-1] * tile.stride + unrolled * max(tile.vectors, 1) * _BYTES > _REACH:
        return None
    for batch in range(max(BATCH // width, 1) * width, 0, -width):
        block = _Block(tile, unrolled)
        block.write(batch)
        if tile.sums + block.used <= _REGISTERS:
            return block.function()
    return None


def fits_block(pixels: int, vectors: int) -> bool:
    """Whether the registers suffice for a tile."""
    return tile_steps(TileSteps(tuple(range(pixels)), pixels * vectors, vectors, 4, 4 * _BYTES, True)) is not None


_Popcount = tuple[int, int, int]
"""Step, vector and pixel."""


@dataclass
class _Block:
    """Writes a block. Its operands are the sums, temporary registers, and pointers with a counter of iterations."""

    tile: TileSteps
    unrolled: int
    lines: list[str] = field(default_factory=list)
    used: int = 0
    _free: list[int] = field(default_factory=list)
    _inputs: dict[tuple[int, int], int] = field(default_factory=dict)
    _weights: dict[tuple[int, int], int] = field(default_factory=dict)

    def write(self, size: int) -> None:
        """Write the popcounts of an iteration in batches of ``size``."""
        tile, combine = self.tile, "eor" if self.tile.signed else "and"
        work = [(s, v, p) for s in range(self.unrolled) for v in range(tile.vectors) for p in tile.pixels]
        batches = [work[i : i + size] for i in range(0, len(work), size)]
        self.lines += self._loads(batches[0])
        for number, batch in enumerate(batches):
            counts = [self._register() for _ in batch]
            for (s, v, p), count in zip(batch, counts, strict=True):
                x, w = self._name(self._inputs[s, p]), self._name(self._weights[s, v])
                self.lines.append(f"{combine} {self._name(count)}.16b, {x}.16b, {w}.16b")
            rest = work[(number + 1) * size :]
            self._release(self._inputs, {(s, p) for s, _, p in rest})
            self._release(self._weights, {(s, v) for s, v, _ in rest})
            self.lines += self._loads(batches[number + 1]) if rest else self._advance()
            self.lines += [f"cnt {self._name(count)}.16b, {self._name(count)}.16b" for count in counts]
            for (_, v, p), count in zip(batch, counts, strict=True):
                sums = tile.pixels.index(p) * tile.vectors + v
                self.lines.append(f"uadalp ${sums}.8h, {self._name(count)}.16b")
            self._free += counts

    def function(self) -> LlvmFunction:
        """The block as a function. What it leaves in temporary registers, pointers and counter is not used."""
        tile, vector, count = self.tile, VectorType("uint16", 8).llvm, self._sums
        lines = list(self.lines)
        if self._repeated:
            lines = ["1:", *lines, "b.ne 1b"]
        scalars = ["image", "weights", *(["left"] if self._repeated else [])]
        outputs = ["=w"] * count + ["=&w"] * self.used + ["=&r"] * len(scalars)
        first = count + self.used
        tied = [*range(count), *range(first, first + len(scalars))]
        constraints = ",".join([*outputs, *map(str, tied), "~{cc}", "~{memory}"])
        # LLVM's text has \0A for a line break.
        assembly = "\\0A".join(lines)
        for number, scalar in enumerate(scalars):
            assembly = assembly.replace(scalar.upper(), f"${first + number}")
        types = [*[vector] * first, "ptr", "ptr", "i64"][: len(outputs)]
        result = f"{{ {', '.join(types)} }}"
        values = [*(f"{vector} %s{i}" for i in range(count)), "ptr %image", "ptr %weights"]
        values += [f"i64 {tile.steps // self.unrolled}"] if self._repeated else []
        places = [p * tile.vectors + v for p in tile.pixels for v in range(tile.vectors)]
        text = [
            *(f"%p{i} = getelementptr {vector}, ptr %sums, i64 {place}" for i, place in enumerate(places)),
            *(f"%s{i} = load {vector}, ptr %p{i}" for i in range(count)),
            f'%r = call {result} asm sideeffect "{assembly}", "{constraints}"({", ".join(values)})',
            *(f"%r{i} = extractvalue {result} %r, {i}" for i in range(count)),
            *(f"store {vector} %r{i}, ptr %p{i}" for i in range(count)),
            "ret i32 0",
        ]
        pixels = f"{tile.pixels[0]}to{tile.pixels[-1]}of{tile.sums // tile.vectors}"
        name = f"sbnn_tile_{'xor' if tile.signed else 'and'}_{pixels}x{tile.vectors}_{tile.steps}_{tile.stride}"
        return LlvmFunction.of(name, VectorType("int32", 1), ["ptr %sums", "ptr %image", "ptr %weights"], text)

    @property
    def _repeated(self) -> bool:
        return self.tile.steps > self.unrolled

    @property
    def _sums(self) -> int:
        return len(self.tile.pixels) * self.tile.vectors

    def _loads(self, batch: Sequence[_Popcount]) -> list[str]:
        """Load what a batch needs and no register has."""
        tile, lines = self.tile, []
        for s, v, p in batch:
            if (s, p) not in self._inputs:
                self._inputs[s, p] = register = self._register()
                lines.append(f"ldr {self._name(register, ':q')}, [IMAGE, #{p * tile.stride + s * _BYTES}]")
            if (s, v) not in self._weights:
                self._weights[s, v] = register = self._register()
                lines.append(f"ldr {self._name(register, ':q')}, [WEIGHTS, #{(s * tile.vectors + v) * _BYTES}]")
        return lines

    def _advance(self) -> list[str]:
        """Go to the next iteration."""
        if not self._repeated:
            return []
        image, weights = self.unrolled * _BYTES, self.unrolled * self.tile.vectors * _BYTES
        return [
            f"add IMAGE, IMAGE, #{image}",
            f"add WEIGHTS, WEIGHTS, #{weights}",
            "subs LEFT, LEFT, #1",
        ]

    def _register(self) -> int:
        if not self._free:
            self.used += 1
            return self.used - 1
        return self._free.pop(0)

    def _name(self, register: int, modifier: str = "") -> str:
        return f"${{{self._sums + register}{modifier}}}"

    def _release(self, held: dict[tuple[int, int], int], needed: set[tuple[int, int]]) -> None:
        for key in [key for key in held if key not in needed]:
            self._free.append(held.pop(key))
