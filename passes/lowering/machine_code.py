"""Lower TIR to machine code with the TVM passes that matter for CPU kernels, in TVM's order.

TVM's default pipeline serves every device. It differs in these passes, which are left out here:

1. Passes for GPU threads, shared memory, tensor cores and asynchronous copies. They change nothing in our kernels, but
   traverse all of them.
2. ``CompactBufferAllocation``, which shrinks buffers to the region in use. It takes half of the time of all passes,
   and our buffers already have their final size.
3. Elimination of common subexpressions and of dead code. LLVM does both.
4. The first of two simplifications. One, after indices are flattened, has the same effect.

Without them a ResNet-18 with sparse weights compiles in little more than half of the time, and runs as fast.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.tirx import compilation_pipeline

from .import_once import import_once
from .share_memory import share_memory

before_interface = tvm.transform.Sequential(
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
        tvm.transform.module_pass(lambda mod, _: share_memory(mod), opt_level=0, name="ShareMemory"),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.FP8ComputeLegalize(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
    ],
    name="before_interface",
)
"""The passes up to the one that gives kernels their parameters."""

after_interface = tvm.transform.Sequential(
    [
        tirx.transform.FP8StorageLegalize(),
        tirx.transform.BF16StorageLegalize(),
    ],
    name="after_interface",
)
"""The passes that follow it."""

_PASSES = tvm.transform.Sequential(
    [before_interface, tirx.transform.MakePackedAPI(), after_interface], name="machine_code"
)

MACHINE_CODE = "sbnn_tvm"
"""The name under which TVM knows this pipeline: ``tvm.compile(..., tir_pipeline=MACHINE_CODE)``."""

compilation_pipeline.register_tir_pipeline(
    MACHINE_CODE,
    lambda: (_PASSES, compilation_pipeline.finalize_host_passes, compilation_pipeline.finalize_device_passes),
)
