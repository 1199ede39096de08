"""The smallest model, as a library for either runtime, for the tests of linking and running."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import te
from tvm.relax import BlockBuilder, TensorType, Var

from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.deploy.c_library.interface import RUNTIME
from sbnn_tvm.deploy.c_library.toolchain import Toolchain
from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.runtime.library_file import record_object, seal
from sbnn_tvm.runtime.metadata import RUNTIMES, Metadata, TensorSpec

ROWS, COLUMNS = 4, 37

__all__ = ["COLUMNS", "ROWS", "RUNTIMES", "build", "metadata", "write"]


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


def write(path: Path, runtime: str, target: str = "native", **record: Any) -> Path:
    """Write the model as a library; ``record`` are fields of its metadata that shall differ."""
    resolved = targets.resolve(target)
    written = replace(metadata(resolved, runtime), **record)
    if runtime == "tvm":
        linking.write_library(_built(target), path, resolved, written)
    else:
        note = path.with_name("note.o")
        note.write_bytes(record_object(resolved.machine, written))
        linking.find_linker(resolved).link(path, [_object(path.with_name("tiny.o"), resolved.machine), note])
        seal(path)
    return path


@cache
def _built(target: str) -> Any:
    return build(targets.resolve(target))


def _object(path: Path, machine: str) -> Path:
    """The model as C, compiled."""
    source = path.with_suffix(".c")
    interface = (RUNTIME / "model.c.in").read_text("utf-8").replace("@NAME@", "tiny")
    source.write_text(Path(__file__).with_name("tiny_library.c").read_text() + interface)
    Toolchain(f"{machine}-linux-gnu", path.parent, ("-DSBNN_WEAK", f"-I{RUNTIME}")).compile(source, path)
    return path


def metadata(target: CpuTarget, runtime: str = "tvm") -> Metadata:
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
        runtime=runtime,
        symbol="tiny" if runtime == "c" else "",
    )
