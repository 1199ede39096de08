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

from dataclasses import dataclass

import tvm
from tvm import ir, tirx
from tvm.ir import IRModule, PointerType, PrimType
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from ..relax.graph import op_name
from .machine_code import after_interface, before_interface

ALIGNMENT = 64
"""Bytes to which all buffers of a kernel are aligned."""

HOOKS = ("__TVMBackendParallelLaunch", "__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace")
"""The variables of the machine code that point to functions of the library."""

_KERNEL_CALL = 2  # TVM's calling convention for functions whose arguments are not packed
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


@dataclass(frozen=True, eq=False)
class RawKernels:
    """Kernels as machine code.

    Attributes:
        code: The module; ``write_to_file(path, "o")`` writes an object file for the target.
        sizes: For each kernel that has them, the parameters after the pointers: (index of a parameter, axis of it).
        workspaces: The workspace of each kernel.
        parallel: The kernels with a parallel loop.
    """

    code: tvm.runtime.Module
    sizes: dict[str, tuple[tuple[int, int], ...]]
    workspaces: dict[str, Workspace]
    parallel: frozenset[str]


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
    sizes = {gvar.name_hint: _sizes(func) for gvar, func in lowered.functions.items()}
    lowered = IRModule({gvar: _raw(func, target) for gvar, func in lowered.functions.items()})
    lowered = compilation_pipeline.finalize_host_passes()(after_interface(lowered))
    workspaces, parallel = {}, set()
    for gvar, func in lowered.functions.items():
        walk = _Walk()
        walk.visit(func.body)
        workspaces[gvar.name_hint] = Workspace(walk.most[False], walk.most[True])
        if walk.parallel:
            parallel.add(gvar.name_hint)
    code = tvm.get_global_func("target.build.llvm")(lowered, target)
    return RawKernels(code, sizes, workspaces, frozenset(parallel))


def _sizes(func: tirx.PrimFunc) -> tuple[tuple[int, int], ...]:
    """The places where each symbolic extent of a kernel's buffers occurs first."""
    found: list[tuple[ir.Var, tuple[int, int]]] = []
    for index, param in enumerate(func.params):
        for axis, extent in enumerate(param.shape):
            if isinstance(extent, ir.Var) and not any(extent.same_as(each) for each, _ in found):
                found.append((extent, (index, axis)))
    return tuple(place for _, place in found)


def _raw(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """A kernel whose parameters are pointers, and the symbolic extents of their buffers."""
    pointers = [ir.Var(param.name, PointerType(PrimType(param.dtype))) for param in func.params]
    extents = [func.params[index].shape[axis] for index, axis in _sizes(func)]
    symbol = func.attrs["global_symbol"]
    # The scope becomes a function of its own, whose parameters LLVM knows to be aligned and not to alias. Without it
    # kernels are a fifth slower.
    body = tirx.AttrStmt(tirx.IntImm("int32", 0), "compute_scope", ir.StringImm(f"{symbol}_compute_"), func.body)
    buffers = [tirx.DeclBuffer(param, data=pointer) for param, pointer in zip(func.params, pointers, strict=True)]
    body = tirx.SeqStmt([*buffers, body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    for param in func.params:
        body = tirx.AttrStmt(param, "storage_alignment", tirx.IntImm("int32", ALIGNMENT), body)
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt(ir.StringImm("default"), key, tirx.IntImm("int32", value), body)
    attrs = {key: func.attrs[key] for key in func.attrs.keys()}  # noqa: SIM118  # no dict
    attrs |= {"calling_conv": _KERNEL_CALL, "target": target}
    return tirx.PrimFunc([*pointers, *extents], body, PrimType("int32"), ir.make_node("ir.DictAttrs", **attrs))


class _Walk:
    """Finds the memory that a kernel allocates, and whether it has a parallel loop.

    A buffer lives until the end of the sequence of statements in which it is allocated.
    """

    def __init__(self) -> None:
        self.most = {False: 0, True: 0}
        self.parallel = False

    def visit(self, statement: object, live: int = 0, task: bool = False) -> int:
        """Visit a statement; the result is the memory that is live after it, in bytes."""
        if isinstance(statement, tirx.SeqStmt):
            now = live
            for each in statement.seq:
                now = self.visit(each, now, task)
        elif isinstance(statement, tirx.For):
            begins = statement.kind == tirx.ForKind.PARALLEL and not task
            self.parallel |= begins
            self.visit(statement.body, 0 if begins else live, task or begins)
        elif isinstance(statement, tirx.IfThenElse):
            self.visit(statement.then_case, live, task)
            if statement.else_case is not None:
                self.visit(statement.else_case, live, task)
        elif isinstance(statement, tirx.DeclBuffer):
            return live + self._allocated(statement, live, task)
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
