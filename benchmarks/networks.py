"""Whole networks against onnxruntime, one thread, random weights.

Run ``python benchmarks/networks.py``. Each network is compiled without tuning, and timed in turn with three versions of
itself in onnxruntime with all its optimisations: the same layers in float32 (binary convolutions become float ones, and
nothing is binarised, which costs onnxruntime least), these quantised to int8, and the binary model itself as exported.
The minimum over many rounds counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from int8_version import int8_version
from records import Machine
from rich.console import Console
from rich.table import Table
from torch import nn

import sbnn_tvm
from sbnn_tvm.cli.tables import profile_table
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    RPReLU,
    TwoValues,
    quicknet,
    reactnet,
    resnet,
    resnet18,
    to_onnx,
    vgg_small,
)
from sbnn_tvm.profiling.timing import Timing, interleave


@dataclass(frozen=True)
class Network:
    """A network of the benchmark.

    Attributes:
        name: Shown in the table.
        build: Makes it, with random weights.
        bar: How many times faster than onnxruntime float32 it must be; None for information only.
        int8_bar: The same for onnxruntime int8.
    """

    name: str
    build: Callable[[], nn.Module]
    bar: float | None = None
    int8_bar: float | None = None


def sparse(model: nn.Module, density: float = 0.05) -> nn.Module:
    """Give a network random binary weights of which few are positive."""
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            nn.init.uniform_(module.weight, density - 1, density)
    return model


NETWORKS = (
    Network("Bi-Real ResNet-18, 224x224", resnet18, 7.0, 2.2),
    Network("Bi-Real ResNet-18, 224x224, 5 % positive", lambda: sparse(resnet18())),
    Network("Bi-Real ResNet-18 with PReLU, 224x224", lambda: resnet18(prelu=True)),
    Network("ReActNet-A, 224x224", reactnet, 5.0),
    Network("QuickNet, 224x224", quicknet, 5.0),
    Network("Bi-Real ResNet-18, 32x32", lambda: resnet(image_size=32)),
    Network("the same, {a, b} weights, 5 % b", lambda: sparse(resnet(image_size=32, domain=TwoValues()))),
    Network("VGG-Small, 32x32", lambda: vgg_small(image_size=32)),
)
COMPILE_SECONDS = 90.0
"""The bar for compiling a network without tuning."""


@dataclass(frozen=True)
class Result:
    """What was measured of a network.

    Attributes:
        name: Of the network.
        compile_seconds: From the ONNX model to machine code.
        library_bytes: Of the shared library.
        float_bytes: Of the same network as float32 ONNX.
        ours: Seconds of a run of the library.
        float32: Seconds of the float32 version in onnxruntime.
        int8: Seconds of its int8 version in onnxruntime.
        reference: Seconds of the binary model in onnxruntime.
        bar: As of Network.
        int8_bar: As of Network.
    """

    name: str
    compile_seconds: float
    library_bytes: int
    float_bytes: int
    ours: Timing
    float32: Timing
    int8: Timing
    reference: Timing
    bar: float | None
    int8_bar: float | None

    @property
    def speedup(self) -> float:
        """Against onnxruntime float32."""
        return self.float32.minimum / self.ours.minimum

    @property
    def int8_speedup(self) -> float:
        """Against onnxruntime int8."""
        return self.int8.minimum / self.ours.minimum

    @property
    def passed(self) -> bool:
        """Whether the bars are reached."""
        fast = self.speedup >= (self.bar or 0) and self.int8_speedup >= (self.int8_bar or 0)
        return self.compile_seconds < COMPILE_SECONDS and fast


def float_twin(model: nn.Module) -> nn.Module:
    """Turn a binary network into the float32 network of the same layers, in place."""
    for name, child in list(model.named_children()):
        if isinstance(child, Binarize):
            setattr(model, name, nn.Identity())
        elif isinstance(child, BinaryConv2d):
            padding, bias = child.pads[:2], child.bias is not None
            conv = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride, padding, child.dilation,
                child.groups, bias,
            )  # fmt: skip
            setattr(model, name, conv)
        elif isinstance(child, BinaryLinear):
            setattr(model, name, nn.Linear(child.in_features, child.out_features, child.bias is not None))
        else:
            float_twin(child)
    return model


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread with all its optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def randomise_statistics(model: nn.Module) -> None:
    """Give batch norms statistics as after training, so that no channel is constant."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
        elif isinstance(module, RPReLU):
            nn.init.normal_(module.before, std=0.5)
            nn.init.normal_(module.after, std=0.5)


def random_network(network: Network) -> nn.Module:
    """A network with random weights and statistics, in evaluation mode."""
    torch.manual_seed(0)
    model = network.build()
    randomise_statistics(model)
    return model.eval()


def measure(network: Network, target: str, seconds: float, folder: Path) -> Result:
    """Build, compile, check and time one network."""
    model = random_network(network)
    binary = to_onnx(model)
    start = time.perf_counter()
    module = sbnn_tvm.compile(binary, target, name=network.name)
    compile_seconds = time.perf_counter() - start
    library = module.export(folder / "network.so")
    module.verify(samples=1)
    loaded = sbnn_tvm.load(library, num_threads=1)
    float_model = to_onnx(float_twin(model).eval())
    float32, int8, reference = session(float_model), session(int8_version(float_model)), session(binary)
    x = np.random.default_rng(0).standard_normal(loaded.inputs[0].shape).astype(np.float32)
    (name,) = (node.name for node in float32.get_inputs())
    times = interleave(
        {
            "ours": lambda: loaded.run(x),
            "float32": lambda: float32.run(None, {name: x}),
            "int8": lambda: int8.run(None, {name: x}),
            "reference": lambda: reference.run(None, {name: x}),
        },
        seconds,
    )
    sizes = library.stat().st_size, float_model.ByteSize()
    timings = times["ours"], times["float32"], times["int8"], times["reference"]
    return Result(network.name, compile_seconds, *sizes, *timings, network.bar, network.int8_bar)


def table(results: list[Result], target: str) -> Table:
    """One row a network."""
    out = Table(title=f"Whole networks, batch 1, one thread, target {target}: minimum (median) in milliseconds")
    headings = (
        "network",
        "ours",
        "onnxruntime float32",
        "int8",
        "binary model",
        "speed-up",
        "over int8",
        "compile s",
        "KiB",
    )
    for heading in headings:
        out.add_column(heading, justify="left" if heading == "network" else "right")
    for result in results:
        timings = result.ours, result.float32, result.int8, result.reference
        cells = [f"{t.minimum * 1e3:.2f} ({t.median * 1e3:.2f})" for t in timings]
        cells += [_ratio(result.speedup, result.bar), _ratio(result.int8_speedup, result.int8_bar)]
        size = f"{result.library_bytes / 1024:,.0f} of {result.float_bytes / 1024:,.0f}"
        out.add_row(result.name, *cells, f"{result.compile_seconds:.1f}", size)
    return out


def _ratio(value: float, bar: float | None) -> str:
    return f"{value:.2f}" if bar is None else f"{value:.2f} {'pass' if value >= bar else 'FAIL'} (>= {bar:g})"


def main() -> int:
    """Measure every network; the exit code is 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time a network (default: %(default)s)")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--profile", action="store_true", help="time every kernel of the networks instead")
    parser.add_argument("--folder", type=Path, default=Path("out"), help="for the library (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if Console().is_terminal else 220)
    networks = [network for network in NETWORKS if arguments.only.lower() in network.name.lower()]
    if arguments.profile:
        for network in networks:
            module = sbnn_tvm.compile(random_network(network), arguments.target, name=network.name)
            console.print(profile_table(network.name, module.profile()))
        return 0
    results = []
    for network in networks:
        with console.status(network.name):
            results.append(measure(network, arguments.target, arguments.seconds, arguments.folder))
    console.print(table(results, arguments.target))
    if arguments.output:
        rows = [{**asdict(result), "passed": result.passed} for result in results]
        content = {"machine": asdict(Machine()), "target": arguments.target, "networks": rows}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
