"""Convolution kernels against onnxruntime and against the machine's limit, one thread.

Run ``python benchmarks/kernels.py``. For every layer a chain of convolutions (each output is the next input, every
link has its own weights) is timed by each contestant: this project's binary kernel (packed bits in, thresholded bits
out, zero padding) and float32 kernel, onnxruntime float32 and int8 (uint8 activations, int8 weights). A chain lets
onnxruntime keep its own blocked layout, as it would in a network. The contestants take turns, and the minimum over
many rounds counts, scaled to one layer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
import tvm_ffi
from onnx import helper, numpy_helper
from probes import float_probe, isa_line, popcount_probe
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sbnn_tvm.schedules.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue import STORE, IntegerThreshold
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.words import pack_channels, unpack_channels
from sbnn_tvm.targets import CpuTarget, resolve
from sbnn_tvm.threads import use_threads

# The bars: shares of the probe's limit, and speed relative to onnxruntime's float32.
BINARY_OF_LIMIT = 0.80
BINARY_OVER_FLOAT = 18.0
FLOAT_TIME = 1.15


@dataclass(frozen=True)
class Layer:
    """A convolution of the benchmark, and how often it is chained; every second link goes back to the first's input.

    Attributes:
        name: Shown in the table.
        shape: The first link.
        links: Links of the chain.
        binary: Whether the binary kernel takes part.
    """

    name: str
    shape: Conv2dShape
    links: int = 4
    binary: bool = True

    @property
    def shapes(self) -> list[Conv2dShape]:
        """The links."""
        s = self.shape
        back = Conv2dShape(s.batch, s.height, s.width, s.out_channels, s.in_channels, s.kernel, s.strides, s.padding)
        return [back if i % 2 else s for i in range(self.links)]


def square(size: int, channels: int) -> Layer:
    """A 3x3 convolution that changes neither size nor channels."""
    shape = Conv2dShape(1, size, size, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    return Layer(f"3x3 {size}x{size} {channels}", shape)


LAYERS = [
    square(56, 64),
    square(28, 128),
    square(14, 256),
    square(7, 512),
    Layer("stem 7x7/2 224x224 3-64", Conv2dShape(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)), 1, binary=False),
    Layer("1x1 56x56 64-128", Conv2dShape(1, 56, 56, 64, 128), binary=False),
]


@dataclass(eq=False)
class Contestant:
    """One way to compute a chain.

    Attributes:
        run: Computes the chain once.
        links: Layers that one run computes.
        seconds: The best time of a layer so far.
    """

    run: Callable[[], object]
    links: int = 1
    seconds: float = field(default=float("inf"))

    def take_turn(self) -> None:
        """Run twice, so that the caches forget the contestant before, and keep the second time if it is the best."""
        self.run()
        start = time.perf_counter()
        self.run()
        self.seconds = min(self.seconds, (time.perf_counter() - start) / self.links)


def compiled(kernels: list[Kernel], data: np.ndarray, target: CpuTarget) -> tuple[Contestant, tvm.runtime.Tensor]:
    """The chain of some kernels, and its last output."""
    calls = []
    tensor = tvm.runtime.tensor(data)
    for kernel in kernels:
        module = tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
        function = tvm.compile(module, target.target)["kernel"]
        ((shape, dtype),) = kernel.outputs
        output = tvm.runtime.tensor(np.zeros(shape, dtype))
        calls.append((function, [tensor, *map(tvm.runtime.tensor, kernel.constants), output]))
        tensor = output

    def run() -> None:
        for function, arguments in calls:
            function(*arguments)

    return Contestant(run, len(calls)), tensor


def session(
    nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: np.ndarray
) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread with all its optimisations, for a graph from "x0" to "y"."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound(ort: onnxruntime.InferenceSession, x: np.ndarray, links: int) -> Contestant:
    """A contestant that runs a session on bound memory, without copies."""
    binding = ort.io_binding()
    binding.bind_cpu_input("x0", x)
    binding.bind_output("y", "cpu")
    return Contestant(lambda: ort.run_with_iobinding(binding), links)


def onnx_attributes(shape: Conv2dShape) -> dict[str, Any]:
    """The attributes of Conv and QLinearConv."""
    return {"kernel_shape": shape.kernel, "strides": shape.strides, "pads": shape.padding}


def float_contestants(layer: Layer, target: CpuTarget, rng: np.random.Generator) -> dict[str, Contestant]:
    """The float32 chain by this project and by onnxruntime, checked against each other."""
    shape, shapes = layer.shape, layer.shapes
    weights = {
        f"w{i}": rng.standard_normal((s.out_channels, s.in_channels, *s.kernel), np.float32)
        / np.float32(np.sqrt(s.in_channels * np.prod(s.kernel)))
        for i, s in enumerate(shapes)
    }
    x = rng.standard_normal((1, shape.in_channels, shape.height, shape.width), np.float32)
    nodes = [
        helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], **onnx_attributes(s)) for i, s in enumerate(shapes)
    ]
    # A mean at the end: to convert the feature map back from the blocked layout is no part of the layers.
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{layer.links}"], ["y"]))
    ort = session(nodes, weights, x)
    kernels = [float_conv2d(s, w, STORE, target.isa) for s, w in zip(shapes, weights.values(), strict=True)]
    ours, output = compiled(kernels, np.ascontiguousarray(x.transpose(0, 2, 3, 1)), target)
    ours.run()
    np.testing.assert_allclose(
        output.numpy().mean(axis=(1, 2)), ort.run(None, {"x0": x})[0][:, :, 0, 0], rtol=1e-3, atol=1e-4
    )
    return {"float32": ours, "onnxruntime float32": bound(ort, x, layer.links)}


def int8_contestant(layer: Layer, rng: np.random.Generator) -> Contestant:
    """The chain of QLinearConv by onnxruntime."""
    shape, shapes = layer.shape, layer.shapes
    constants: dict[str, Any] = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
    }
    nodes = []
    for i, s in enumerate(shapes):
        constants[f"w{i}"] = rng.integers(-127, 128, (s.out_channels, s.in_channels, *s.kernel)).astype(np.int8)
        inputs = [f"x{i}", "scale", "zero", f"w{i}", "w_scale", "w_zero", "scale", "zero"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"x{i + 1}"], **onnx_attributes(s)))
    inputs = [f"x{layer.links}", "scale", "zero", "scale", "zero"]
    nodes.append(helper.make_node("QLinearGlobalAveragePool", inputs, ["y"], domain="com.microsoft"))
    x = rng.integers(0, 256, (1, shape.in_channels, shape.height, shape.width)).astype(np.uint8)
    return bound(session(nodes, constants, x), x, layer.links)


def binary_contestant(layer: Layer, target: CpuTarget, rng: np.random.Generator) -> Contestant:
    """The chain of binary convolutions with zero padding, bits to bits; its first link is checked."""
    shape, isa = layer.shape, target.isa
    epilogue = IntegerThreshold(np.zeros(shape.out_channels, np.int64), np.zeros(shape.out_channels, bool))
    signs = [rng.integers(0, 2, (s.out_channels, s.in_channels, *s.kernel)).astype(bool) for s in layer.shapes]
    bits = rng.integers(0, 2, (1, shape.height, shape.width, shape.in_channels)).astype(bool)
    kernels = [popcount_conv2d(s, w, 0, epilogue, isa) for s, w in zip(layer.shapes, signs, strict=True)]
    ours, _ = compiled(kernels, pack_channels(bits, isa), target)
    first, words = compiled(kernels[:1], pack_channels(bits, isa), target)
    as_floats = float_conv2d(shape, np.where(signs[0], np.float32(1), np.float32(-1)), STORE, isa)
    reference, sums = compiled([as_floats], np.where(bits, np.float32(1), np.float32(-1)), target)
    first.run()
    reference.run()
    np.testing.assert_array_equal(unpack_channels(words.numpy(), shape.out_channels), sums.numpy() >= 0)
    return ours


def measure(layer: Layer, target: CpuTarget, rounds: int) -> dict[str, float]:
    """Seconds of a layer by every contestant; for the probes, seconds of as many multiply-accumulates."""
    rng = np.random.default_rng(0)
    limits = {"float32 limit": float_probe(target)}
    contestants = float_contestants(layer, target, rng) | {"onnxruntime int8": int8_contestant(layer, rng)}
    if layer.binary:
        limits["binary limit"] = popcount_probe(target)
        contestants["binary"] = binary_contestant(layer, target, rng)
    contestants |= {name: Contestant(probe.run) for name, probe in limits.items()}
    for _ in track(range(rounds), f"{layer.name:24}", console=Console(stderr=True), transient=True):
        for contestant in contestants.values():
            contestant.take_turn()
    seconds = {name: contestant.seconds for name, contestant in contestants.items()}
    for name, probe in limits.items():
        seconds[name] *= layer.shape.macs / probe.macs
    return seconds


def bars(seconds: dict[str, float]) -> dict[str, tuple[float, bool]]:
    """The ratios that matter, and whether they reach their bars."""
    ort = seconds["onnxruntime float32"]
    ratios = {}
    if "binary" in seconds:
        of_limit, speedup = seconds["binary limit"] / seconds["binary"], ort / seconds["binary"]
        ratios["binary / limit"] = (of_limit, of_limit >= BINARY_OF_LIMIT)
        ratios["binary speed / ort float32"] = (speedup, speedup >= BINARY_OVER_FLOAT)
    float_time = seconds["float32"] / ort
    ratios["float32 time / ort float32"] = (float_time, float_time <= FLOAT_TIME)
    return ratios


def table(results: dict[str, dict[str, float]], target: CpuTarget) -> Table:
    """All layers: microseconds, then the ratios."""
    columns = ["binary", "binary limit", "float32", "float32 limit", "onnxruntime float32", "onnxruntime int8"]
    ratios = {
        "binary / limit": f">= {BINARY_OF_LIMIT}",
        "binary speed / ort float32": f">= {BINARY_OVER_FLOAT}",
        "float32 time / ort float32": f"<= {FLOAT_TIME}",
    }
    out = Table(title=f"Microseconds a layer, one thread, {isa_line(target.isa)}; and the bars")
    out.add_column("layer")
    for column in columns:
        out.add_column(column, justify="right")
    for ratio, bar in ratios.items():
        out.add_column(f"{ratio}\n{bar}", justify="right")
    for name, seconds in results.items():
        reached = bars(seconds)
        cells = [f"{seconds[column] * 1e6:.1f}" if column in seconds else "-" for column in columns]
        for ratio in ratios:
            if ratio in reached:
                value, passed = reached[ratio]
                cells.append(f"[{'green' if passed else 'red'}]{value:.2f} {'pass' if passed else 'FAIL'}[/]")
            else:
                cells.append("-")
        out.add_row(name, *cells)
    return out


def main() -> int:
    """Measure every layer; the exit code is 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--rounds", type=int, default=200, help="turns of every contestant (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target = resolve(arguments.target)
    use_threads(tvm_ffi, 1)
    results = {layer.name: measure(layer, target, arguments.rounds) for layer in LAYERS}
    Console(width=None if Console().is_terminal else 200).print(table(results, target))
    reached = {name: bars(seconds) for name, seconds in results.items()}
    if arguments.output:
        layers = {
            name: {
                "seconds": seconds,
                "ratios": {ratio: value for ratio, (value, _) in reached[name].items()},
                "passed": all(passed for _, passed in reached[name].values()),
            }
            for name, seconds in results.items()
        }
        arguments.output.write_text(json.dumps({"isa": target.isa.name, "layers": layers}, indent=2) + "\n")
    return 0 if all(passed for ratios in reached.values() for _, passed in ratios.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
