"""RNN, GRU and LSTM over a whole sequence, one step after the other, with the state in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..tir.functions import Function, function
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import extremum
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, VectorType, load, store

Cell = Literal["RNN", "RNN with Relu", "GRU", "GRU, reset first", "LSTM"]
"""Kinds of cell, as ONNX defines them: ``GRU`` resets after the product (linear_before_reset=1)."""
Result = Literal["sequence", "hidden", "cell"]
"""What a kernel can return: the state after each step, the last state, and the last cell of an LSTM."""

GATES: dict[Cell, int] = {"RNN": 1, "RNN with Relu": 1, "GRU": 3, "GRU, reset first": 3, "LSTM": 4}
"""Number of gates of each kind of cell. Their order is that of ONNX: z, r, h for a GRU; i, o, f, c for an LSTM."""
_ACCUMULATORS = 8


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrent layer in one direction.

    Attributes:
        cell: The kind of cell.
        reverse: Whether the last step is read first.
        weight: Weights of the state, float32 [hidden, gates * hidden].
        bias: Bias of the state's product, float32 [gates * hidden].
        initial: Whether the first state (and cell) are inputs, rather than 0.
        results: What is returned, in order.
    """

    cell: Cell
    reverse: bool
    weight: np.ndarray
    bias: np.ndarray
    initial: bool
    results: tuple[Result, ...]

    @property
    def hidden(self) -> int:
        """Numbers of the state."""
        return len(self.weight)

    @property
    def states(self) -> int:
        """Number of states: 2 for an LSTM, which has a cell as well."""
        return 2 if self.cell == "LSTM" else 1


def recurrent(steps: int, batch: int, layer: Recurrence, isa: Isa) -> Kernel:
    """A recurrent layer, given the products of its inputs.

    Args:
        steps: Length of the sequence.
        batch: Number of sequences.
        layer: The layer.
        isa: The instruction set.

    Returns:
        ``func(projected [steps, batch, gates * hidden], hidden [batch, hidden], cell, weight, bias, *results)``, all
        float32. ``projected`` are the products of the inputs, with their bias. The first state and cell are missing
        without ``initial``. Results are the sequence [steps, batch, hidden] and last states [batch, hidden].
    """
    hidden, gates = layer.hidden, GATES[layer.cell]
    padded = -(-hidden // isa.float_lanes) * isa.float_lanes
    with KernelBuilder("recurrent") as builder:
        projected = builder.data((steps, batch, gates * hidden), "float32", "projected")
        names = ("first_hidden", "first_cell")[: layer.states] if layer.initial else ()
        given = [builder.data((batch, hidden), "float32", name) for name in names]
        weight = builder.constant("weight", _padded(layer.weight, gates, padded))
        bias = builder.constant("bias", _padded(layer.bias[None], gates, padded)[0])
        results = {name: _declare(builder, name, steps, batch, hidden) for name in layer.results}
        with parallel_rows(batch, steps * layer.weight.size * batch if batch > 1 else 0) as n:
            code = _Sequence(layer, isa, padded, projected, weight, bias)
            code.begin(given, n)
            with T.serial(0, steps) as i:
                step = T.bind(steps - 1 - i) if layer.reverse else i
                code.step(step, n, results.get("sequence"))
            for name, state in zip(("hidden", "cell"), code.states, strict=False):
                if name in results:
                    _copy(state, (), results[name], (n,), hidden, isa)
    return builder.kernel(f"recurrent {layer.cell}")


def _declare(builder: KernelBuilder, name: Result, steps: int, batch: int, hidden: int) -> tirx.Buffer:
    shape = (steps, batch, hidden) if name == "sequence" else (batch, hidden)
    return builder.output(shape, "float32", name)


def _padded(rows: np.ndarray, gates: int, width: int) -> np.ndarray:
    """[rows, gates * hidden] with each gate padded to ``width`` columns."""
    apart = rows.reshape(len(rows), gates, -1)
    wide = np.pad(apart, [(0, 0), (0, 0), (0, width - apart.shape[2])])
    return np.ascontiguousarray(wide.reshape(len(rows), -1), np.float32)


def _copy(
    source: tirx.Buffer, at: Sequence[Index], target: tirx.Buffer, to: Sequence[Index], count: int, isa: Isa
) -> None:
    def move(first: Index, valid: int) -> None:
        store(target, load(source, at, first, isa.float_lanes, valid), to, first, valid)

    for_blocks(count, isa.float_lanes, move)


class _Sequence:
    """The code of one sequence: its state in buffers, and the operations of a step."""

    def __init__(
        self, layer: Recurrence, isa: Isa, padded: int, projected: tirx.Buffer, weight: tirx.Buffer, bias: tirx.Buffer
    ) -> None:
        self.layer, self.isa, self.padded = layer, isa, padded
        self.projected, self.weight, self.bias = projected, weight, bias
        self.vector = VectorType("float32", isa.float_lanes)
        self.states = [T.alloc_buffer((padded,), "float32") for _ in range(layer.states)]
        self.products = T.alloc_buffer((GATES[layer.cell] * padded,), "float32")
        self.reset = T.alloc_buffer((padded,), "float32") if layer.cell == "GRU, reset first" else None

    def begin(self, given: Sequence[tirx.Buffer], n: Index) -> None:
        """Emit the first state."""
        for i, state in enumerate(self.states):
            if given:
                _copy(given[i], (n,), state, (), self.layer.hidden, self.isa)
            else:
                for_blocks(self.padded, self.vector.lanes, lambda j, _: store(state, self.vector.constant(0.0), (), j))  # noqa: B023

    def step(self, step: Index, n: Index, sequence: tirx.Buffer | None) -> None:
        """Emit one step."""
        hidden = self.states[0]
        if self.reset is None:
            self._multiply(hidden, 0, GATES[self.layer.cell])
        else:
            self._multiply(hidden, 0, 2)
            self._each(step, n, self._reset)
            self._multiply(self.reset, 2, 3)

        def change(
            first: Index, x: Callable[[int], tirx.Expr], product: Callable[[int], tirx.Expr], valid: int
        ) -> None:
            value = self._cell(first, x, product)
            store(hidden, value, (), first)
            if sequence is not None:
                store(sequence, value, (step, n), first, valid)

        self._each(step, n, change)

    def _each(self, step: Index, n: Index, body: Callable[..., None]) -> None:
        """Emit ``body(first, x, product, valid)`` for all vectors of the state; x and product are those of a gate."""

        def vector(first: Index, valid: int) -> None:
            def x(gate: int) -> tirx.Expr:
                start = first + gate * self.layer.hidden
                return load(self.projected, (step, n), start, self.vector.lanes, valid)

            def product(gate: int) -> tirx.Expr:
                return load(self.products, (), first + gate * self.padded, self.vector.lanes)

            body(first, x, product, valid)

        for_blocks(self.layer.hidden, self.vector.lanes, vector)

    def _reset(
        self, first: Index, x: Callable[[int], tirx.Expr], product: Callable[[int], tirx.Expr], valid: int
    ) -> None:
        kept = self._apply("sigmoid", x(1) + product(1)) * load(self.states[0], (), first, self.vector.lanes)
        store(self.reset, kept, (), first)

    def _cell(self, first: Index, x: Callable[[int], tirx.Expr], product: Callable[[int], tirx.Expr]) -> tirx.Expr:
        """The new state; an LSTM's cell is stored."""
        before = load(self.states[-1], (), first, self.vector.lanes)
        match self.layer.cell:
            case "RNN":
                return self._apply("tanh", x(0) + product(0))
            case "RNN with Relu":
                zero = self.vector.constant(0.0)
                return extremum("maximum", self.vector, self.isa.architecture, True)(zero, x(0) + product(0))
            case "LSTM":
                entry, leave, forget = (self._apply("sigmoid", x(gate) + product(gate)) for gate in range(3))
                cell = T.bind(forget * before + entry * self._apply("tanh", x(3) + product(3)))
                store(self.states[1], cell, (), first)
                return T.bind(leave * self._apply("tanh", cell))
        update, inner = self._apply("sigmoid", x(0) + product(0)), product(2)
        if self.reset is None:
            inner = self._apply("sigmoid", x(1) + product(1)) * inner
        new = self._apply("tanh", x(2) + inner)
        return T.bind((self.vector.constant(1.0) - update) * new + update * before)

    def _apply(self, name: Function, x: tirx.Expr) -> tirx.Expr:
        return T.bind(function(name, self.vector).call_once(T.bind(x)))

    def _multiply(self, state: tirx.Buffer, first_gate: int, end_gate: int) -> None:
        """Emit the products of a state with the weights of some gates, with their bias."""
        width = _ACCUMULATORS * self.vector.lanes
        begin = first_gate * self.padded

        def block(at: Index, valid: int) -> None:
            total = T.alloc_buffer((width,), "float32")
            parts = range(0, min(width, valid), self.vector.lanes)
            for i in parts:
                store(total, load(self.bias, (), begin + at + i, self.vector.lanes), (), i)
            with T.serial(0, self.layer.hidden) as k:
                one = T.bind(self.vector.broadcast(state[k]))
                for i in parts:
                    weight = load(self.weight, (k,), begin + at + i, self.vector.lanes)
                    store(total, load(total, (), i, self.vector.lanes) + one * weight, (), i)
            for i in parts:
                store(self.products, load(total, (), i, self.vector.lanes), (), begin + at + i)

        for_blocks((end_gate - first_gate) * self.padded, width, block)
