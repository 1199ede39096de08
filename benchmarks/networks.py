"""How fast are whole networks, compared with onnxruntime?

Run ``python benchmarks/networks.py``. Each network has random weights, is compiled without tuning, and runs on one
thread in turns with three versions of itself in onnxruntime with all its optimisations:

* onnxruntime float32: the same layers as float layers, without binarisers (the fastest float version)
* int8: that version, statically quantised
* binary model: the binary ONNX model itself, as exported

The table gives the minimum over many rounds, and the median in brackets, in milliseconds. If the two differ by more
than 5 %, the machine was busy. The columns "speed /" give ratios of minima. "KiB" is the size of the library, and of
the float32 ONNX file. The exit code is 1 if a bar is missed. ``--profile`` times every kernel of the networks
instead.

Other engines (network_peers.py) run the float32 and int8 versions in the same turns, in a second table. Those whose
packages are missing are left out, and a sentence says so; ``make peers`` installs all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from command_line import console, parser
from int8_version import int8_version
from network_peers import PEERS, Peer, PeerNetwork
from onnxruntime_peer import session
from records import Machine, write_json
from rich.table import Table
from torch import nn

import sbnn_tvm
from sbnn_tvm.cli.tables import profile_table
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    EightBit,
    QuantizedConv2d,
    QuantizedLinear,
    RPReLU,
    TwoValues,
    calibrate_,
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
        name: Its name in the table.
        build: Builds it, with random weights.
        bar: Least speed relative to onnxruntime float32; None: not judged.
        int8_bar: Least speed relative to onnxruntime int8; None: not judged.
    """

    name: str
    build: Callable[[], nn.Module]
    bar: float | None = None
    int8_bar: float | None = None


def sparse(model: nn.Module, density: float = 0.05) -> nn.Module:
    """Give a network random binary weights; a share ``density`` of them is positive."""
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            nn.init.uniform_(module.weight, density - 1, density)
    return model


def eight_bit() -> nn.Module:
    """A Bi-Real ResNet-18 whose stem, shortcuts and head have 8 bits, with ranges of random images."""
    model = resnet18(eight_bit=EightBit())
    calibrate_(model, [torch.randn(2, 3, 224, 224)])
    return model


NETWORKS = (
    Network("Bi-Real ResNet-18, 224x224", resnet18, 7.0, 2.2),
    Network("Bi-Real ResNet-18, 224x224, 5 % positive", lambda: sparse(resnet18())),
    Network("Bi-Real ResNet-18, 224x224, 8-bit stem, shortcuts, head", eight_bit),
    Network("Bi-Real ResNet-18, 224x224, 8-bit stem, shortcuts, head, 5 % positive", lambda: sparse(eight_bit())),
    Network("Bi-Real ResNet-18 with PReLU, 224x224", lambda: resnet18(prelu=True)),
    Network("ReActNet-A, 224x224", reactnet, 5.0),
    Network("QuickNet, 224x224", quicknet, 5.0),
    Network("Bi-Real ResNet-18, 32x32", lambda: resnet(image_size=32)),
    Network("the same, {a, b} weights, 5 % b", lambda: sparse(resnet(image_size=32, domain=TwoValues()))),
    Network("VGG-Small, 32x32", lambda: vgg_small(image_size=32)),
)
COMPILE_SECONDS = 90.0
"""The bar: longest time to compile a network without tuning."""


@dataclass(frozen=True)
class Result:
    """The measurements of a network. Times are in seconds per run.

    Attributes:
        name: Name of the network.
        compile_seconds: Time from the ONNX model to machine code.
        library_bytes: Size of the shared library.
        float_bytes: Size of the same network as float32 ONNX.
        ours: The compiled library.
        float32: The float32 version in onnxruntime.
        int8: The int8 version in onnxruntime.
        reference: The binary model in onnxruntime.
        bar, int8_bar: Same as in Network.
        peers: Other engines (network_peers.py) by name.
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
    peers: Mapping[str, Timing]

    @property
    def speedup(self) -> float:
        """Speed relative to onnxruntime float32."""
        return self.float32.minimum / self.ours.minimum

    @property
    def int8_speedup(self) -> float:
        """Speed relative to onnxruntime int8."""
        return self.int8.minimum / self.ours.minimum

    @property
    def passed(self) -> bool:
        """Whether all bars are reached."""
        fast = self.speedup >= (self.bar or 0) and self.int8_speedup >= (self.int8_bar or 0)
        return self.compile_seconds < COMPILE_SECONDS and fast


def float_twin(model: nn.Module) -> nn.Module:
    """Turn a binary network into a float32 network with the same layers and no binarisers, in place."""
    for name, child in list(model.named_children()):
        if isinstance(child, Binarize):
            setattr(model, name, nn.Identity())
        elif isinstance(child, BinaryConv2d | QuantizedConv2d):
            padding = child.pads[:2] if isinstance(child, BinaryConv2d) else child.padding
            bias = child.bias is not None
            conv = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride, padding, child.dilation,
                child.groups, bias,
            )  # fmt: skip
            setattr(model, name, conv)
        elif isinstance(child, BinaryLinear | QuantizedLinear):
            setattr(model, name, nn.Linear(child.in_features, child.out_features, child.bias is not None))
        else:
            float_twin(child)
    return model


def randomise_statistics(model: nn.Module) -> None:
    """Give batch norms random statistics, as after training, so that no channel is constant."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
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


def measure(network: Network, target: str, seconds: float, folder: Path, peers: Sequence[Peer]) -> Result:
    """Build, compile, verify and time one network; its library is written to ``folder``."""
    model = random_network(network)
    binary = to_onnx(model)
    start = time.perf_counter()
    module = sbnn_tvm.compile(binary, target, name=network.name)
    compile_seconds = time.perf_counter() - start
    library = module.export(folder / "network.so")
    if not (verification := module.verify(samples=1)).passed:
        raise SystemExit(f"{network.name}: {verification}")
    loaded = sbnn_tvm.load(library, num_threads=1)
    float_model = to_onnx(float_twin(model).eval())
    int8_model = int8_version(float_model)
    float32, int8, reference = session(float_model), session(int8_model), session(binary)
    x = np.random.default_rng(0).standard_normal(loaded.inputs[0].shape).astype(np.float32)
    (name,) = (node.name for node in float32.get_inputs())
    expected = float32.run(None, {name: x})[0]
    as_read = PeerNetwork(model, float_model, int8_model, x, expected, folder)
    others = {peer.name: peer.checked(as_read) for peer in peers}
    times = interleave(
        {
            "ours": lambda: loaded.run(x),
            "float32": lambda: float32.run(None, {name: x}),
            "int8": lambda: int8.run(None, {name: x}),
            "reference": lambda: reference.run(None, {name: x}),
            **others,
        },
        seconds,
    )
    sizes = library.stat().st_size, float_model.ByteSize()
    timings = times["ours"], times["float32"], times["int8"], times["reference"]
    of_peers = {name: times[name] for name in others}
    return Result(network.name, compile_seconds, *sizes, *timings, network.bar, network.int8_bar, of_peers)


def table(results: list[Result], target: str) -> Table:
    """One row per network."""
    out = Table(title=f"Whole networks, batch 1, one thread, target {target}: minimum (median) in milliseconds")
    headings = (
        "network",
        "sbnn_tvm",
        "onnxruntime float32",
        "int8",
        "binary model",
        "speed / float32",
        "speed / int8",
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


def peer_table(results: Sequence[Result]) -> Table:
    """One row per network, with the other engines."""
    out = Table(title="The float32 and int8 versions in other engines: milliseconds, and our speed relative to them")
    out.add_column("network")
    for name in results[0].peers:
        out.add_column(name, justify="right")
    for result in results:
        cells = [(t.minimum * 1e3, t.minimum / result.ours.minimum) for t in result.peers.values()]
        out.add_row(result.name, *(f"{milliseconds:.2f} ({ratio:.1f}x)" for milliseconds, ratio in cells))
    return out


def _ratio(value: float, bar: float | None) -> str:
    return f"{value:.2f}" if bar is None else f"{value:.2f} {'pass' if value >= bar else 'FAIL'} (>= {bar:g})"


def main() -> int:
    """Measure every network; the exit code is 1 if a bar is missed."""
    options = parser(__doc__, seconds=10.0, timed="per network")
    options.add_argument("--only", default="", metavar="TEXT", help="measure only networks whose name contains TEXT")
    options.add_argument("--profile", action="store_true", help="time every kernel of the networks instead")
    options.add_argument(
        "--folder", type=Path, default=Path("out"), help="folder of the library (default: %(default)s)"
    )
    arguments = options.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    out = console(220)
    networks = [network for network in NETWORKS if arguments.only.lower() in network.name.lower()]
    if arguments.profile:
        for network in networks:
            module = sbnn_tvm.compile(random_network(network), arguments.target, name=network.name)
            out.print(profile_table(network.name, module.profile()))
        return 0
    for peer in PEERS:
        if peer.missing:
            out.print(f"{peer.missing}.")
    peers = [peer for peer in PEERS if not peer.missing]
    results = []
    for network in networks:
        with out.status(network.name):
            results.append(measure(network, arguments.target, arguments.seconds, arguments.folder, peers))
    out.print(table(results, arguments.target))
    if peers:
        out.print(peer_table(results))
    if arguments.output:
        rows = [{**asdict(result), "passed": result.passed} for result in results]
        content = {"machine": asdict(Machine()), "target": arguments.target, "networks": rows}
        write_json(arguments.output, content)
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
