"""From a lowered module to a program: a sequence of kernel calls on memory that is known in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, GlobalVar, IRModule
from tvm.relax import Expr, Var

from sbnn_tvm.deploy.c_library.program import (
    Buffer,
    Constant,
    Copy,
    Decoded,
    Input,
    KernelCall,
    Output,
    Place,
    Program,
    Tensor,
    Workspaces,
)
from sbnn_tvm.errors import CompileError
from sbnn_tvm.schedules.tir import loops

from ..relax.graph import op_name, shape
from .lower import PREPARE
from .raw_kernels import RawKernels


class NeedsTvmError(CompileError):
    """The model calls functions of TVM's runtime, which a library without it does not have."""


def to_program(mod: IRModule, kernels: RawKernels, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Program:
    """Read ``main`` and ``prepare`` of a module as a program.

    Args:
        mod: A module in which kernels are called with their outputs as last arguments (relax.transform.CallTIRRewrite).
        kernels: Its kernels as machine code.
        inputs: The inputs of the model.
        outputs: The outputs of the model.

    Raises:
        NeedsTvmError: If a value is not computed by a kernel.
    """
    reader = _Reader(mod, kernels)
    decoded: list[Place] = []
    if PREPARE in {gvar.name_hint for gvar in mod.get_global_vars()}:
        decoded = reader.read(mod[PREPARE], [])
    # Only prepare has been read: what it allocates are the decoded constants, which live as long as the context.
    as_decoded: dict[Place, Place] = {place: Decoded(index) for index, place in enumerate(decoded)}
    sizes = tuple(reader.buffers[place.index] for place in decoded if isinstance(place, Buffer))
    prepare = tuple(_moved(call, as_decoded) for call in reader.calls)
    prepare_bytes = max((kernels.workspaces[name].serial for name in reader.names), default=0)
    reader = _Reader(mod, kernels, reader.constants)
    results = reader.read(mod["main"], [*map(Input, range(len(inputs))), *as_decoded.values()])
    as_output, copies = _returned(results)
    program = Program(
        tuple(inputs),
        tuple(outputs),
        tuple(reader.constants.arrays),
        sizes,
        tuple(reader.buffers),
        prepare,
        tuple(_moved(call, as_output) for call in reader.calls),
        copies,
        Workspaces(
            tuple(kernels.workspaces[name].serial for name in reader.names),
            max((kernels.workspaces[name].task for name in reader.names), default=0),
            prepare_bytes,
        ),
        sum(kernels.grains[name] for name in reader.names) >= loops.MODEL_GRAINS,
    )
    return program


def _returned(results: Sequence[Place]) -> tuple[dict[Place, Place], tuple[Copy, ...]]:
    """Which values are computed in an output of the model; the other outputs are copies."""
    moved: dict[Place, Place] = {}
    copies: list[Copy] = []
    for index, place in enumerate(results):
        if isinstance(place, Buffer) and place not in moved:
            moved[place] = Output(index)
        else:
            copies.append(Copy(moved.get(place, place), Output(index)))
    return moved, tuple(copies)


def _moved(call: KernelCall, moved: dict[Place, Place]) -> KernelCall:
    places = tuple(moved.get(place, place) for place in call.places)
    return KernelCall(call.symbol, places, call.extents, call.writes, call.comment)


@dataclass(eq=False)
class _Constants:
    """The constants, each stored once."""

    arrays: list[np.ndarray] = field(default_factory=list)
    known: dict[bytes, Constant] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> Constant:
        data = array.tobytes()
        if data not in self.known:
            self.known[data] = Constant(len(self.arrays))
            self.arrays.append(array)
        return self.known[data]


class _Reader:
    """Reads the bindings of a function as calls."""

    def __init__(self, mod: IRModule, kernels: RawKernels, constants: _Constants | None = None) -> None:
        self.kernels = kernels
        self.constants = constants or _Constants()
        self.buffers: list[int] = []
        self.calls: list[KernelCall] = []
        self.names: list[str] = []
        self._places: dict[Var, Place] = {}
        self._tuples: dict[Var, list[Place]] = {}
        self._written: set[Place] = set()

    def read(self, func: relax.Function, params: Sequence[Place]) -> list[Place]:
        """Read a function; the result are the places of its results."""
        self._places = dict(zip(func.params, params, strict=True))
        for block in func.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        return self._all(func.body.body)

    def _bind(self, var: Var, value: Expr) -> None:
        if isinstance(value, Call) and isinstance(value.op, GlobalVar):
            self._call(value)
        elif op_name(value) == "builtin.alloc_tensor":
            self._places[var] = Buffer(len(self.buffers))
            self.buffers.append(_bytes(var))
        elif op_name(value) == "reshape":
            self._places[var] = self._one(value.args[0])
        elif isinstance(value, relax.Tuple):
            self._tuples[var] = [self._one(each) for each in value.fields]
        elif isinstance(value, relax.TupleGetItem):
            self._places[var] = self._tuples[value.tuple_value][value.index]
        elif isinstance(value, Var) and value in self._tuples:
            self._tuples[var] = self._tuples[value]
        elif isinstance(value, Var | GenericConst):
            self._places[var] = self._one(value)
            if self.calls and self.calls[-1].places[-1] == self._places[var] and not self.calls[-1].comment:
                self.calls[-1] = replace(self.calls[-1], comment=f"{var.name}: {var.ty.dtype}{list(shape(var))}")
        else:
            name = op_name(value) or type(value).__name__
            raise NeedsTvmError(f"the value '{var.name}' is computed by TVM's runtime ({name}), not by a kernel")

    def _call(self, call: Call) -> None:
        name = call.op.name_hint
        if name in self.kernels.foreign:
            raise NeedsTvmError(f"the kernel '{name}' calls {self.kernels.foreign[name]}")
        extents = tuple(shape(call.args[index])[axis] for index, axis in self.kernels.signatures[name].extents)
        places = tuple(self._one(arg) for arg in call.args)
        fresh = [place for place in places if isinstance(place, Buffer) and place not in self._written]
        self._written.update(fresh)
        self.calls.append(KernelCall(self.kernels.prefix + name, places, extents, max(1, len(fresh)), ""))
        self.names.append(name)

    def _one(self, expr: Expr) -> Place:
        if isinstance(expr, GenericConst):
            return self.constants.add(expr.value.numpy())
        if isinstance(expr, relax.TupleGetItem):
            return self._tuples[expr.tuple_value][expr.index]
        return self._places[expr]

    def _all(self, expr: Expr) -> list[Place]:
        if isinstance(expr, relax.Tuple):
            return [self._one(each) for each in expr.fields]
        return self._tuples[expr] if isinstance(expr, Var) and expr in self._tuples else [self._one(expr)]


def _bytes(var: Var) -> int:
    return int(np.prod(shape(var), dtype=np.int64)) * tvm.runtime.DataType(str(var.ty.dtype)).itemsize
