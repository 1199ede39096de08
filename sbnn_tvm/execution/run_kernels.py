"""Run a lowered model one kernel at a time, on this machine or in an emulator, on numpy arrays.

The virtual machine runs a model as a whole. Here each value can be looked at, or replaced, on the way: that is how a
library for another CPU is run on this one, and how ``verify`` finds the first layer that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, Var

from sbnn_tvm.passes.lowering.lower import PREPARE, Form, Lowered, Physical, planes_of
from sbnn_tvm.passes.relax.graph import Graph, channels_last, op_name
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_codes, unpack_codes

from ..algebra.domain import codes
from ..runtime.loading import LoadedModule


class KernelRunner(Protocol):
    """Whatever can call a compiled kernel."""

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place."""


class NativeKernels:
    """Calls the kernels of a loaded library on this machine."""

    def __init__(self, library: LoadedModule) -> None:
        self._library = library

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place."""
        tensors = [tvm.runtime.tensor(array) for array in arrays]  # copies, aligned as the kernels want them
        self._library.kernel(name)(*tensors)
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                np.copyto(array, tensor.numpy())


@dataclass(frozen=True, eq=False)
class Step:
    """One value that was computed.

    Attributes:
        name: The variable of the lowered module.
        physical: What it holds; None for values between two records.
        array: The bytes as they lie in memory.
    """

    name: str
    physical: Physical | None
    array: np.ndarray


def run_kernels(
    lowered: Lowered,
    runner: KernelRunner,
    inputs: Sequence[np.ndarray],
    replace: Callable[[Step], np.ndarray | None] | None = None,
    function: str = "main",
) -> Iterator[Step]:
    """Run ``main`` kernel by kernel.

    Args:
        lowered: The kernels.
        runner: Calls them.
        inputs: One array for each parameter of ``main``: the model's inputs, and what :func:`prepare` gives.
        replace: Called with each value; what it returns (if not None) is what later kernels read instead.
        function: Another function to run.

    Yields:
        Each value in order, and last the results as steps named ``"output 0"`` and so on.
    """
    graph = Graph(lowered.mod[function])
    values: dict[Var, np.ndarray | tuple[np.ndarray, ...]] = {}

    def read(expr: Expr) -> np.ndarray:
        if isinstance(expr, GenericConst):
            return expr.value.numpy()
        value = values[expr]
        assert isinstance(value, np.ndarray)
        return value

    def record(var: Var, array: np.ndarray) -> Step:
        step = Step(var.name, lowered.physical.get(var.name), array)
        other = replace(step) if replace is not None else None
        values[var] = array if other is None else other.reshape(array.shape)  # rows of rows lie as one list of them
        return step

    for param, array in zip(graph.params, inputs, strict=True):
        yield record(param, np.asarray(array, order="C"))
    for var, value in graph.bindings:
        if isinstance(value, relax.TupleGetItem):
            fields = values[value.tuple_value]
            assert isinstance(fields, tuple)
            yield record(var, fields[value.index])
        elif op_name(value) == "call_tir":
            outputs = _call(runner, value, var, read)
            if isinstance(var.ty, relax.TensorType):
                yield record(var, outputs[0])
            else:
                values[var] = outputs
        elif op_name(value) == "reshape":
            yield record(var, read(value.args[0]).reshape([int(extent) for extent in var.ty.shape]))
        else:
            raise NotImplementedError(f"'{var.name}' calls {op_name(value)}, which is no kernel")
    for i, result in enumerate(graph.results):
        yield Step(f"output {i}", None, read(result))


def prepare(lowered: Lowered, runner: KernelRunner) -> tuple[np.ndarray, ...]:
    """The constants that are stored coded, as a library makes them when it is loaded."""
    return outputs_of(run_kernels(lowered, runner, (), function=PREPARE)) if lowered.prepares else ()


def _call(runner: KernelRunner, call: Call, var: Var, read: Callable[[Expr], np.ndarray]) -> tuple[np.ndarray, ...]:
    types = [var.ty] if isinstance(var.ty, relax.TensorType) else list(var.ty.fields)
    outputs = tuple(np.zeros([int(extent) for extent in ty.shape], str(ty.dtype)) for ty in types)
    runner.run(call.args[0].name_hint, [*(read(arg) for arg in call.args[1].fields), *outputs])
    return outputs


def encode(value: np.ndarray, physical: Physical, isa: Isa) -> np.ndarray:
    """Lay a value (as in ONNX) out in memory."""
    if physical.form == Form.PLAIN:
        return np.asarray(value, order="C")  # ascontiguousarray would make a scalar an array
    last = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    if physical.form == Form.CHANNELS_LAST:
        return np.ascontiguousarray(last)
    assert physical.domain is not None
    code = codes(physical.domain, last.reshape(-1, last.shape[-1]) if value.ndim != 4 else last)
    if physical.form == Form.PLANES:
        return planes_of(physical.extent, isa).encode(code > 0)
    groups = np.split(code, physical.groups, axis=-1)
    return np.concatenate([pack_codes(group, physical.domain.bits, isa) for group in groups], axis=-1)


def decode(array: np.ndarray, physical: Physical, isa: Isa) -> np.ndarray:
    """Read a value (as in ONNX) from memory; bits and codes become uint8."""
    extent = physical.extent
    if physical.form == Form.PLAIN:
        return array.reshape(extent)
    if physical.form == Form.PLANES:
        array = planes_of(extent, isa).decode(array).astype(np.uint8)
    elif physical.form == Form.BITS:
        array = _unpack(array, physical)
    if len(extent) == 4:
        batch, channels, height, width = extent
        return np.moveaxis(array.reshape(batch, height, width, channels), -1, 1)
    return array.reshape(extent)


def _unpack(words: np.ndarray, physical: Physical) -> np.ndarray:
    assert physical.domain is not None
    *pixel, channels = channels_last(physical.extent)
    bits = physical.domain.bits
    planes = words.reshape(pixel[0], *([bits] if bits > 1 else []), *pixel[1:], physical.groups, -1)
    return unpack_codes(planes, channels // physical.groups, bits).reshape(*pixel, channels)


def outputs_of(steps: Iterator[Step]) -> tuple[np.ndarray, ...]:
    """The results of a run."""
    return tuple(step.array for step in steps if step.physical is None and step.name.startswith("output "))
