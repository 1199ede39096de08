"""Loops for all kernels: over rows, possibly on several threads, and over blocks with a remainder at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm.tirx.script.builder.frame import ForFrame

# Loops that load and store fewer float32 values than this, some 1 us of work, stay on one thread. Smaller loops gain
# nothing from the threads of a C library, which look for work while a model runs (benchmarks/network_scaling.py).
GRAIN = 4096

# Models with less parallel work than this many grains, some 50 us, use one thread: if the others sleep when a run
# begins, the caller needs some us to wake them, and they need longer to come.
MODEL_GRAINS = 32

_GRAINS = "sbnn_grains"


_one_thread: ContextVar[bool] = ContextVar("_one_thread", default=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels that are built within this context run on one thread, whatever their amount of work."""
    token = _one_thread.set(True)
    try:
        yield
    finally:
        _one_thread.reset(token)


def parallel_rows(rows: int, elements: int) -> ForFrame:
    """A loop over ``rows`` rows, parallel if all rows together process at least ``GRAIN`` elements."""
    parallel = rows > 1 and elements >= GRAIN and not _one_thread.get()
    return T.parallel(0, rows, annotations={_GRAINS: elements // GRAIN}) if parallel else T.serial(0, rows)


def grains(loop: tirx.For) -> float:
    """The work of a parallel loop, in grains; infinite for a loop of TVM's, whose work is not known."""
    return float(loop.annotations.get(_GRAINS, inf))


def for_blocks(length: int, step: int, body: Callable[[tirx.Expr | int, int], None]) -> None:
    """Emit ``body(first, valid)`` for all blocks of [0, length): a loop over full blocks, then the remainder."""
    if length >= step:
        with T.serial(0, length // step) as block:
            body(block * step, step)
    if length % step:
        body(length // step * step, length % step)


def one_block(block: tirx.Expr, length: int, step: int, body: Callable[[tirx.Expr | int, int], None]) -> None:
    """Emit ``body(first, valid)`` for one block whose index is known only at run time."""
    rest = length % step
    if rest == 0:
        body(block * step, step)
    elif length < step:
        body(0, rest)
    else:
        with T.If(block < length // step):
            with T.Then():
                body(block * step, step)
            with T.Else():
                body(length // step * step, rest)
