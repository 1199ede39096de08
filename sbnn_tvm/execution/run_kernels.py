"""Run a lowered model one kernel at a time, on this machine or in an emulator, on numpy arrays.

TVM's virtual machine runs a model as a whole. Here each value can be read or replaced between two kernels. So a library
for another CPU runs on this machine in an emulator, and ``verify`` finds the first layer that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Var

from sbnn_tvm.passes.lowering.lower import PREPARE, Lowered, Physical
from sbnn_tvm.passes.relax.graph import Graph, op_name

from ..errors import EmulationError


class KernelRunner(Protocol):
    """Calls compiled kernels."""

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place."""


@dataclass(frozen=True, eq=False)
class ComputedValue:
    """One value that was computed.

    Attributes:
        name: The variable of the lowered module.
        physical: The value that it holds and its layout; None for values that the lowered module does not describe.
        array: The value as it is stored in memory.
        is_result: Whether it is an output of the function.
    """

    name: str
    physical: Physical | None
    array: np.ndarray
    is_result: bool = False


def run_kernels(
    lowered: Lowered,
    runner: KernelRunner,
    inputs: Sequence[np.ndarray],
    replace: Callable[[ComputedValue], np.ndarray | None] | None = None,
    function: str = "main",
) -> Iterator[ComputedValue]:
    """Run ``main`` kernel by kernel.

    Args:
        lowered: The kernels.
        runner: Calls them.
        inputs: One array per parameter of ``main``: the model's inputs, then the constants from :func:`prepare`.
        replace: Called with each value. If it returns an array, later kernels read that array instead.
        function: The function to run.

    Yields:
        Each value in order, then the results, named ``"output 0"``, ``"output 1"`` and so on.
    """
    graph = Graph(lowered.mod[function])
    values: dict[Var, np.ndarray] = {}
    tuples: dict[Var, tuple[np.ndarray, ...]] = {}

    def read(expr: Expr) -> np.ndarray:
        return expr.value.numpy() if isinstance(expr, GenericConst) else values[expr]

    def record(var: Var, array: np.ndarray) -> ComputedValue:
        step = ComputedValue(var.name, lowered.physical.get(var.name), array)
        other = replace(step) if replace is not None else None
        # Nested rows are stored as one list of rows.
        values[var] = array if other is None else other.reshape(array.shape)
        return step

    for param, array in zip(graph.params, inputs, strict=True):
        yield record(param, np.asarray(array, order="C"))
    for var, value in graph.bindings:
        if isinstance(value, relax.TupleGetItem):
            yield record(var, tuples[value.tuple_value][value.index])
        elif op_name(value) == "call_tir":
            outputs = _call(runner, value, var, read)
            if isinstance(var.ty, relax.TensorType):
                yield record(var, outputs[0])
            else:
                tuples[var] = outputs
        elif op_name(value) == "reshape":
            yield record(var, read(value.args[0]).reshape([int(extent) for extent in var.ty.shape]))
        else:
            raise EmulationError(f"'{var.name}' calls {op_name(value)}, which no kernel of the library computes")
    for i, result in enumerate(graph.results):
        yield ComputedValue(f"output {i}", None, read(result), is_result=True)


def prepare(lowered: Lowered, runner: KernelRunner) -> tuple[np.ndarray, ...]:
    """Decode the constants that are stored coded, as a library does when it is loaded."""
    return outputs_of(run_kernels(lowered, runner, (), function=PREPARE)) if lowered.prepares else ()


def _call(runner: KernelRunner, call: Call, var: Var, read: Callable[[Expr], np.ndarray]) -> tuple[np.ndarray, ...]:
    types = [var.ty] if isinstance(var.ty, relax.TensorType) else list(var.ty.fields)
    outputs = tuple(np.zeros([int(extent) for extent in ty.shape], str(ty.dtype)) for ty in types)
    runner.run(call.args[0].name_hint, [*(read(arg) for arg in call.args[1].fields), *outputs])
    return outputs


def outputs_of(steps: Iterator[ComputedValue]) -> tuple[np.ndarray, ...]:
    """The results among the steps of a run."""
    return tuple(step.array for step in steps if step.is_result)
