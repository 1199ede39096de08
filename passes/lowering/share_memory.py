"""Let buffers of a kernel share memory, but only buffers of the same element type.

``StorageRewrite`` gives the memory of a buffer that is read no more to a later one, also if its elements have another
type. But TVM tells LLVM that accesses of different types to one buffer never alias. LLVM may then move a store to the
new buffer before a load of the old one. So the pass runs in TVM's mode for WebGPU, where the types must match.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target

_TYPES_MUST_MATCH = Target({"kind": "webgpu"})


def share_memory(mod: IRModule) -> IRModule:
    """Merge the allocations of each kernel whose lifetimes do not overlap and whose elements have the same type."""
    kernels = {gvar: func for gvar, func in mod.functions.items() if isinstance(func, tirx.PrimFunc)}
    marked = {gvar: func.with_attr("target", _TYPES_MUST_MATCH) for gvar, func in kernels.items()}
    merged = tirx.transform.StorageRewrite()(IRModule({**mod.functions, **marked}, attrs=mod.attrs))
    for gvar, func in kernels.items():
        target = (func.attrs or {}).get("target")
        new = merged[gvar]
        merged[gvar] = new.without_attr("target") if target is None else new.with_attr("target", target)
    return merged
