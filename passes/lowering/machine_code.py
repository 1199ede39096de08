"""From TIR to machine code: those of TVM's passes that have something to do in kernels for a CPU, in TVM's order.

TVM's default is for every device. Its passes for the threads of a GPU, shared memory, tensor cores and asynchronous
copies find nothing here, but walk everything; shrinking buffers to what is used of them (``CompactBufferAllocation``)
takes half of the time of all passes, for buffers that have their size already; common subexpressions and what has no
effect LLVM finds itself, and simplifying once, when indices are flat, does what simplifying twice does.
Without them a ResNet-18 with sparse weights compiles in little more than half of the time, to code as fast.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

from .import_once import import_once

_PASSES = tvm.transform.Sequential(
    [
        tvm.transform.module_pass(lambda mod, _: import_once(mod), opt_level=0, name="ImportOnce"),
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.FP8ComputeLegalize(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.FP8StorageLegalize(),
        tirx.transform.BF16StorageLegalize(),
    ],
    name="machine_code",
)

MACHINE_CODE = "sbnn_tvm"
"""The name of these passes: ``tvm.compile(..., tir_pipeline=MACHINE_CODE)``."""

compilation_pipeline.register_tir_pipeline(
    MACHINE_CODE,
    lambda: (_PASSES, compilation_pipeline.finalize_host_passes, compilation_pipeline.finalize_device_passes),
)
