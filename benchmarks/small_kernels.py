"""Are the kernels other than convolutions as fast as a copy of their data?

    python benchmarks/small_kernels.py [PART OF A NAME]

Measured are pooling, packing, depthwise and layout kernels on one thread. They take turns with a copy of as many
bytes, and with onnxruntime if it has the operator. The fastest of several rounds counts. A ratio "time / copy" near 1
means that only memory limits the kernel.
"""

from __future__ import annotations

import os

os.environ["TVM_NUM_THREADS"] = "1"

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import tvm
from chains import library_of
from command_line import console
from onnx import helper
from onnxruntime_peer import session
from rich.table import Table

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.schedules.bits.max_pooling import max_pool2d_bits
from sbnn_tvm.schedules.bits.packing import regroup, unpack, window_sum
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    FloatOutput,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.channels_last import nchw_to_nhwc, nhwc_to_nchw
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d

TARGET = resolve("native")
ISA = TARGET.isa
RNG = np.random.default_rng(0)
ROUNDS, REPEATS, CALLS = 5, 5, 20

Timer = Callable[[], float]
"""Measures the time of one call, in microseconds."""


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel, and the same operation as an ONNX node.

    Attributes:
        name: Its name in the table.
        kernel: The kernel of this project, on channels-last data.
        node: The ONNX node from "x" (and "w") to "y", on channels-first data; None if ONNX has none.
        node_shape: Shape of "x".
        weight: Value of "w", if the node has weights.
    """

    name: str
    kernel: Kernel
    node: onnx.NodeProto | None = None
    node_shape: tuple[int, ...] = ()
    weight: np.ndarray | None = None


def normal(*shape: int) -> np.ndarray:
    """Standard normal float32 values."""
    return RNG.standard_normal(shape).astype(np.float32)


def pooling(name: str, shape: Conv2dShape, kernel: Kernel) -> Case:
    """A pooling and its ONNX node."""
    attributes = {"kernel_shape": shape.kernel, "strides": shape.strides, "pads": shape.padding}
    node = helper.make_node(name, ["x"], ["y"], **attributes)
    layer = f"{name} {shape.height}x{shape.width}x{shape.in_channels}"
    return Case(layer, kernel, node, (shape.batch, shape.in_channels, shape.height, shape.width))


def depthwise(size: int, channels: int) -> Case:
    """A 3x3 depthwise convolution and its ONNX node."""
    shape = Conv2dShape(1, size, size, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1), groups=channels)
    weight = normal(channels, 1, 3, 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=(3, 3), pads=(1, 1, 1, 1), group=channels)
    kernel = depthwise_conv2d(shape, weight, STORE, ISA)
    return Case(f"depthwise 3x3 {size}x{size}x{channels}", kernel, node, (1, channels, size, size), weight)


def transposes(channels: int, size: int) -> list[Case]:
    """Both changes of layout and their ONNX nodes."""
    first, last = (1, channels, size, size), (1, size, size, channels)
    to_last = helper.make_node("Transpose", ["x"], ["y"], perm=(0, 2, 3, 1))
    to_first = helper.make_node("Transpose", ["x"], ["y"], perm=(0, 3, 1, 2))
    return [
        Case(f"channels last {channels}x{size}x{size}", nchw_to_nhwc(first, ISA), to_last, first),
        Case(f"channels first {channels}x{size}x{size}", nhwc_to_nchw(first, ISA), to_first, last),
    ]


def cases() -> list[Case]:
    """All kernels that are measured."""
    pool = Conv2dShape(1, 112, 112, 64, 64, (3, 3), (2, 2), (1, 1, 1, 1))
    head = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    binarize = Program((), (BitsOutput(Ref(0), Scalar(0.0)),))
    scale, bias, threshold = (Channel(normal(64)) for _ in range(3))
    steps = (Step("multiply", Ref(0), scale), Step("add", Ref(1), bias), Step("add", Ref(2), Tensor(0)))
    residual = Program(steps, (FloatOutput(Ref(3)), BitsOutput(Ref(3), threshold)))
    window = (3, 3), (1, 1), (1, 1, 1, 1)
    return [
        pooling("MaxPool", pool, max_pool2d(pool, STORE, ISA)),
        pooling("AveragePool", pool, avg_pool2d(pool, STORE, ISA)),
        depthwise(56, 128),
        depthwise(28, 256),
        depthwise(14, 512),
        Case("GlobalAveragePool 7x7x512", global_avg_pool2d((1, 7, 7, 512), STORE, ISA), head, (1, 512, 7, 7)),
        *transposes(3, 224),
        *transposes(64, 56),
        *transposes(512, 7),
        Case("binarize and pack 56x56x64", elementwise((1, 56, 56, 64), binarize, ISA)),
        Case("scale, bias, residual, bits 56x56x64", elementwise((1, 56, 56, 64), residual, ISA)),
        Case("unpack 56x56x64", unpack((1, 56, 56, 64), SIGN, ISA)),
        Case("regroup 56x56x64 in 2", regroup((1, 56, 56, 64), 64, 2, ISA)),
        Case("max pool on bits 56x56x64 2x2", max_pool2d_bits(Conv2dShape(1, 56, 56, 64, 64, (2, 2), (2, 2)), ISA)),
        Case("window sum 56x56x64", window_sum(Conv2dShape(1, 56, 56, 64, 64, *window), 0, ISA)),
        Case("window sum 14x14x256", window_sum(Conv2dShape(1, 14, 14, 256, 256, *window), 0, ISA)),
    ]


def time_kernel(kernel: Kernel) -> tuple[Timer, int]:
    """A timer of a kernel on random data, and the bytes of all its arguments."""
    library = library_of(kernel, TARGET)
    params = list(kernel.func.params)
    inputs = params[: len(params) - len(kernel.constants) - len(kernel.outputs)]
    arrays = [random_array([int(extent) for extent in buffer.shape], str(buffer.dtype)) for buffer in inputs]
    arrays += [*kernel.constants, *(np.zeros(shape, dtype) for shape, dtype in kernel.outputs)]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    evaluator = library.mod.time_evaluator("kernel", tvm.cpu(), number=CALLS, repeat=REPEATS)
    return lambda: min(evaluator(*tensors).results) * 1e6, sum(array.nbytes for array in arrays)


def random_array(shape: list[int], dtype: str) -> np.ndarray:
    """Standard normal floats, or random words."""
    return normal(*shape) if dtype == "float32" else RNG.integers(0, np.iinfo(dtype).max, shape, dtype)


def time_copy(size: int) -> Timer:
    """A timer of a copy that reads and writes ``size`` bytes together."""
    source = np.zeros(size // 2, np.uint8)
    target = np.zeros_like(source)
    return time_calls(lambda: np.copyto(target, source))


def time_onnxruntime(case: Case) -> Timer:
    """A timer of the ONNX node of a case in onnxruntime."""
    weights = [] if case.weight is None else [onnx.numpy_helper.from_array(case.weight, "w")]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, case.node_shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([case.node], "layer", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = session(model)
    binding = made.io_binding()
    binding.bind_cpu_input("x", normal(*case.node_shape))
    binding.bind_output("y")
    return time_calls(lambda: made.run_with_iobinding(binding))


def time_calls(function: Callable[[], object]) -> Timer:
    """A timer of calls of a Python function."""

    def timer() -> float:
        best = np.inf
        for _ in range(REPEATS):
            start = time.perf_counter()
            for _ in range(CALLS):
                function()
            best = min(best, (time.perf_counter() - start) / CALLS)
        return best * 1e6

    return timer


def main() -> None:
    """Measure every kernel."""
    table = Table(title=f"Microseconds per call, one thread, {ISA.name}")
    for heading in ("kernel", "sbnn_tvm", "copy", "time / copy", "onnxruntime", "speed-up"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    for case in cases():
        if len(sys.argv) > 1 and sys.argv[1] not in case.name:
            continue
        ours, size = time_kernel(case.kernel)
        timers = [ours, time_copy(size)] + ([time_onnxruntime(case)] if case.node is not None else [])
        rounds = [[timer() for timer in timers] for _ in range(ROUNDS)]
        best, copy, *others = np.min(rounds, axis=0)
        compared = [f"{others[0]:.1f}", f"{others[0] / best:.1f}x"] if others else ["", ""]
        table.add_row(case.name, f"{best:.1f}", f"{copy:.1f}", f"{best / copy:.2f}", *compared)
    console().print(table)


if __name__ == "__main__":
    main()
