"""Machine code of kernels as plain C functions, for libraries without TVM's runtime.

TVM gives each kernel a wrapper that unpacks and checks its arguments, more code than the kernels of a small network
have. Here the function of a kernel takes pointers instead::

    int32_t NAME(const float *data, const uint64_t *weights, ..., uint64_t *out, int64_t size...)

Every pointer must be aligned to 64 bytes, as ``ALIGNMENT`` says, and the kernel writes nothing but its outputs, which
are last. A symbolic extent of a buffer is a parameter after them. The result is 0, or -1 if the workspace of the kernel
cannot be allocated.

A kernel gets memory for large temporary buffers, and starts the tasks of a parallel loop, through pointers to
functions, which the C library defines (``HOOKS``). They have TVM's names and signatures (tvm/runtime/c_backend_api.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import ir, tirx
from tvm.ir import IRModule, PointerType, PrimType
from tvm.relax import Expr
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from sbnn_tvm.schedules.tir.loops import grains

from ..relax.graph import op_name
from .import_once import KERNEL_CALL, is_shared
from .machine_code import after_interface, before_interface

ALIGNMENT = 64
"""Bytes to which all buffers of a kernel are aligned."""

HOOKS = ("__TVMBackendParallelLaunch", "__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace")
"""The variables of the machine code that point to functions of the library."""

_CPU = 1  # kDLCPU


@dataclass(frozen=True)
class Workspace:
    """The most memory that a kernel allocates at a time, in bytes.

    Attributes:
        serial: Outside of parallel loops.
        task: Within each task of a parallel loop.
    """

    serial: int
    task: int


@dataclass(frozen=True)
class KernelSignature:
    """The parameters of a kernel.

    Attributes:
        shapes: The shape of each buffer; an extent that is known only at run time is its name.
        dtypes: The dtype of each buffer, by numpy's name.
    """

    shapes: tuple[tuple[int | str, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        """The integers after the pointers: (index of a buffer, axis of it), where each name occurs first."""
        first: dict[str, tuple[int, int]] = {}
        for index, extents in enumerate(self.shapes):
            for axis, extent in enumerate(extents):
                if isinstance(extent, str):
                    first.setdefault(extent, (index, axis))
        return tuple(first.values())

    def mismatch(self, arrays: Sequence[np.ndarray]) -> str:
        """What is wrong about the arguments of a call, which the kernel itself does not check; empty if nothing is."""
        if len(arrays) != len(self.shapes):
            return f"it takes {len(self.shapes)} arguments, but got {len(arrays)}"
        for index, (array, shape, dtype) in enumerate(zip(arrays, self.shapes, self.dtypes, strict=True)):
            fits = len(shape) == array.ndim and all(
                isinstance(extent, str) or extent == size for extent, size in zip(shape, array.shape, strict=False)
            )
            if not fits or array.dtype != dtype:
                expected = f"{dtype}[{', '.join(map(str, shape))}]"
                return f"argument {index} must be {expected}, but is {array.dtype}{list(array.shape)}"
            if not array.flags.c_contiguous:
                return f"argument {index} is not C-contiguous"
        return ""


@dataclass(frozen=True, eq=False)
class RawKernels:
    """Kernels as machine code.

    Attributes:
        code: The module; ``write_to_file(path, "o")`` writes an object file for the target.
        prefix: What the symbols of the kernels begin with; the rest is their name.
        signatures: The parameters of each kernel.
        workspaces: The workspace of each kernel.
        grains: The work of the parallel loops of each kernel, in grains (schedules/tir/loops.py); 0 without such loops.
        foreign: The kernels that call functions of TVM's runtime, such as sorts: the name of one of these functions.
    """

    code: tvm.runtime.Module
    prefix: str
    signatures: dict[str, KernelSignature]
    workspaces: dict[str, Workspace]
    grains: dict[str, float]
    foreign: dict[str, str]


def raw_kernels(mod: IRModule, target: Target, prefix: str) -> RawKernels:
    """Generate machine code for the kernels of a module.

    Args:
        mod: A module; functions other than kernels are ignored.
        target: What to generate code for.
        prefix: What the symbols of the kernels begin with; the rest is their name in the module.
    """
    kernels = {
        gvar: func.with_attr("global_symbol", prefix + gvar.name_hint)
        for gvar, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc)
    }
    lowered = tirx.transform.BindTarget(target)(IRModule(kernels))
    lowered = before_interface(lowered)
    shared = {gvar: func for gvar, func in lowered.functions.items() if is_shared(func)}
    whole = {gvar: func for gvar, func in lowered.functions.items() if gvar not in shared}
    signatures = {gvar.name_hint: _signature(func) for gvar, func in whole.items()}
    raw = {gvar: _raw(func, signatures[gvar.name_hint], target) for gvar, func in whole.items()}
    lowered = compilation_pipeline.finalize_host_passes()(after_interface(IRModule({**raw, **shared})))
    found = {gvar.name_hint: _Walk(lowered[gvar].body) for gvar in whole}
    workspaces = {name: Workspace(walk.most[False], walk.most[True]) for name, walk in found.items()}
    parallel = {name: walk.grains for name, walk in found.items()}
    foreign = {gvar.name_hint: called for gvar, func in raw.items() if (called := _Walk(func.body).foreign)}
    code = tvm.get_global_func("target.build.llvm")(lowered, target)
    return RawKernels(code, prefix, signatures, workspaces, parallel, foreign)


def _signature(func: tirx.PrimFunc) -> KernelSignature:
    names: list[ir.Var] = []

    def extent(each: Expr) -> int | str:
        if not isinstance(each, ir.Var):
            return int(each)
        if not any(each.same_as(name) for name in names):
            names.append(each)
        return f"{each.name}_{next(i for i, name in enumerate(names) if each.same_as(name))}"

    shapes = tuple(tuple(map(extent, param.shape)) for param in func.params)
    return KernelSignature(shapes, tuple(str(param.dtype) for param in func.params))


def _raw(func: tirx.PrimFunc, signature: KernelSignature, target: Target) -> tirx.PrimFunc:
    """A kernel whose parameters are pointers, and the symbolic extents of their buffers."""
    pointers = [ir.Var(param.name, PointerType(PrimType(param.dtype))) for param in func.params]
    extents = [func.params[index].shape[axis] for index, axis in signature.extents]
    symbol = func.attrs["global_symbol"]
    # The scope becomes a function of its own, whose parameters LLVM knows to be aligned and not to alias. Without it
    # kernels are a fifth slower.
    body = tirx.AttrStmt(tirx.IntImm("int32", 0), "compute_scope", ir.StringImm(f"{symbol}_compute_"), func.body)
    buffers = [tirx.DeclBuffer(param, data=pointer) for param, pointer in zip(func.params, pointers, strict=True)]
    # TVM's own operators may read a buffer from an offset on. Ours begin where they are, without gaps.
    offsets = [param.elem_offset for param in func.params if isinstance(param.elem_offset, ir.Var)]
    starts = [tirx.stmt.Bind(offset, tirx.IntImm(str(offset.ty.dtype), 0)) for offset in offsets]
    body = tirx.SeqStmt([*starts, *buffers, body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    for param in func.params:
        body = tirx.AttrStmt(param, "storage_alignment", tirx.IntImm("int32", ALIGNMENT), body)
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt(ir.StringImm("default"), key, tirx.IntImm("int32", value), body)
    attrs = {key: func.attrs[key] for key in func.attrs.keys()}  # noqa: SIM118  # no dict
    attrs |= {"calling_conv": KERNEL_CALL, "target": target}
    return tirx.PrimFunc([*pointers, *extents], body, PrimType("int32"), ir.make_node("ir.DictAttrs", **attrs))


class _Walk:
    """Finds the memory that a kernel allocates, the work of its parallel loops, and calls of TVM's runtime.

    A buffer lives until the end of the sequence of statements in which it is allocated.
    """

    def __init__(self, body: tirx.Stmt) -> None:
        self.most = {False: 0, True: 0}
        self.grains = 0.0
        self.foreign = ""
        self.visit(body)

    def visit(self, statement: object, live: int = 0, task: bool = False) -> int:
        """Visit a statement; the result is the memory that is live after it, in bytes."""
        if isinstance(statement, tirx.SeqStmt):
            now = live
            for each in statement.seq:
                now = self.visit(each, now, task)
        elif isinstance(statement, tirx.For):
            begins = statement.kind == tirx.ForKind.PARALLEL and not task
            self.grains += grains(statement) if begins else 0
            self.visit(statement.body, 0 if begins else live, task or begins)
        elif isinstance(statement, tirx.IfThenElse):
            self.visit(statement.then_case, live, task)
            if statement.else_case is not None:
                self.visit(statement.else_case, live, task)
        elif isinstance(statement, tirx.DeclBuffer):
            return live + self._allocated(statement, live, task)
        elif isinstance(statement, tirx.Evaluate) and op_name(statement.value).startswith("tirx.tvm_call_"):
            self.foreign = self.foreign or str(statement.value.args[0].value)
        elif isinstance(statement, tirx.AttrStmt | tirx.While):
            return self.visit(statement.body, live, task)
        return live

    def _allocated(self, statement: tirx.DeclBuffer, live: int, task: bool) -> int:
        data = statement.data
        if not isinstance(data, ir.Call) or op_name(data) != "tirx.TVMBackendAllocWorkspace":
            return 0
        size = -(-int(data.args[2]) // ALIGNMENT) * ALIGNMENT
        self.most[task] = max(self.most[task], live + size)
        return size
