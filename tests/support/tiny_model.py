"""The smallest models that go through TVM whole, for the tests of linking and running."""

import tvm
from tvm import te
from tvm.relax import BlockBuilder, TensorType, Var

from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.runtime.metadata import Metadata, TensorSpec

ROWS, COLUMNS = 4, 37


def build(target: CpuTarget):
    """Compile ``total = exp(x) + y, y`` with a parallel loop and a libm function."""

    def add(x: te.Tensor, y: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda i, j: te.exp(x[i, j]) + y[i, j], name="total")

    builder = BlockBuilder()
    x, y = (Var(name, TensorType((ROWS, COLUMNS), "float32")) for name in "xy")
    with builder.function("main", [x, y]):
        with builder.dataflow():
            total = builder.emit_output(builder.call_te(add, x, y))
        builder.emit_func_output([total, y])
    schedule = tvm.s_tir.Schedule(builder.get())
    schedule.work_on("add")
    schedule.parallel(schedule.get_loops(schedule.get_sblock("total"))[0])
    return tvm.compile(schedule.mod, target.target)


def metadata(target: CpuTarget) -> Metadata:
    x, y, total, copy = (TensorSpec(name, (ROWS, COLUMNS), "float32") for name in ("x", "y", "total", "copy"))
    return Metadata(
        name="tiny",
        inputs=(x, y),
        outputs=(total, copy),
        target=target.name,
        triple=target.triple,
        features=tuple(sorted(target.features)),
        report='{"layers": ["é", 1]}',
        sbnn_version="0.1.0",
        tvm_version=tvm.__version__,
    )
