"""A model as a sequence of kernel calls on memory that is known in advance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constant:
    """A constant of the library, as stored.

    Attributes:
        index: Its index in ``Program.constants``.
    """

    index: int


@dataclass(frozen=True)
class Decoded:
    """A constant that ``init`` decodes.

    Attributes:
        index: Its index in ``Program.decoded``.
    """

    index: int


@dataclass(frozen=True)
class Buffer:
    """A value in the arena.

    Attributes:
        index: Its index in ``Program.buffers``.
    """

    index: int


@dataclass(frozen=True)
class Input:
    """An input of the model.

    Attributes:
        index: Its position among the inputs.
    """

    index: int


@dataclass(frozen=True)
class Output:
    """An output of the model.

    Attributes:
        index: Its position among the outputs.
    """

    index: int


Place = Constant | Decoded | Buffer | Input | Output
"""Where an argument of a kernel is."""


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel.

    Attributes:
        symbol: The C name of the kernel.
        places: Its pointers, outputs last.
        extents: The integers that follow them.
        writes: The number of outputs.
        comment: What it computes, for the reader of the C source.
    """

    symbol: str
    places: tuple[Place, ...]
    extents: tuple[int, ...]
    writes: int
    comment: str


@dataclass(frozen=True)
class Copy:
    """A copy into an output, of a value that no kernel can write there.

    Attributes:
        source: The value.
        output: The output.
    """

    source: Place
    output: Output


@dataclass(frozen=True)
class Workspaces:
    """The memory that kernels allocate while they run, at most, in bytes.

    Attributes:
        serial: For each call of ``Program.run``, outside of parallel loops.
        task: Within each task of a parallel loop, over all calls.
        prepare: Over all calls of ``Program.prepare``.
    """

    serial: tuple[int, ...]
    task: int
    prepare: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """An input or output of the model.

    Attributes:
        name: Name in the ONNX graph.
        shape: The static shape, batch included.
        dtype: numpy's name of the dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Program:
    """A model for one CPU.

    Attributes:
        inputs: The inputs.
        outputs: The outputs.
        constants: The constants as stored, each once.
        decoded: Bytes of each constant that ``prepare`` decodes.
        buffers: Bytes of each value in the arena.
        prepare: The calls that decode constants; their outputs are Decoded.
        run: The calls that compute the outputs, in order.
        copies: Copies after the last call.
        workspaces: The memory that kernels allocate.
        parallel: Whether there is enough work in parallel loops for several threads.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[np.ndarray, ...]
    decoded: tuple[int, ...]
    buffers: tuple[int, ...]
    prepare: tuple[KernelCall, ...]
    run: tuple[KernelCall, ...]
    copies: tuple[Copy, ...]
    workspaces: Workspaces
    parallel: bool
