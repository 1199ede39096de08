"""How fast are ordinary networks in int8, compared with onnxruntime and OpenVINO?

Run ``python benchmarks/int8_networks.py``. ResNet-18 and MobileNetV2 with random weights, normal as those from which
such networks are trained (He et al., 2015) or, with ``--uniform``, PyTorch's default, quantised by onnxruntime's
quantiser to uint8 activations and int8 weights, run on one thread in turns with the same file in
onnxruntime and in OpenVINO (left out with a sentence if it is missing), and with the float32 network in onnxruntime.

With ``--dynamic`` it measures dense layers instead, whose activations become uint8 by their range at run time
(``quantize_dynamic``): two layers of 256 values, for 1 and 32 rows, and the MLP of a block of ViT-tiny. "equal"
compares with onnxruntime without its optimisations, and the exit code is 1 if ours is slower than its int8 with them.

"equal" is the share of the outputs whose bits are those of onnxruntime, which fuses quantised convolutions into
QLinearConv. Its weights are made unsigned for that, since its products of unsigned and signed bytes saturate on CPUs
without VNNI. "on integers" counts linear layers. The exit code is 1 if ours is slower than OpenVINO's int8, or a bit
differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from command_line import console, parser
from int8_version import dynamic_int8_version, int8_version
from network_peers import PEERS, PeerNetwork
from networks import randomise_statistics
from onnx import numpy_helper
from onnxruntime_peer import session
from records import Machine, write_json
from rich.table import Table
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.profiling.timing import interleave
from sbnn_tvm.report.report import UNSCHEDULED
from sbnn_tvm.verification.exact_products import with_exact_products

_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repetitions and stride of the stages of MobileNetV2 (Sandler et al., 2018, table 2)."""


class BasicBlock(nn.Module):
    """A block of ResNet-18: two 3x3 convolutions, and a 1x1 shortcut where the shape changes."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        """Args: channels in and out; stride of the first convolution and of the shortcut."""
        super().__init__()
        first = _convolution(channels, out_channels, 3, stride, activation=nn.ReLU)
        self.body = nn.Sequential(first, _convolution(out_channels, out_channels, 3, activation=nn.Identity))
        same = stride == 1 and channels == out_channels
        shortcut = _convolution(channels, out_channels, 1, stride, activation=nn.Identity)
        self.shortcut = nn.Identity() if same else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet_18() -> nn.Module:
    """ResNet-18 (He et al., 2016, table 1)."""
    layers: list[nn.Module] = [_convolution(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    for channels, out_channels, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [BasicBlock(channels, out_channels, stride), BasicBlock(out_channels, out_channels, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class InvertedResidual(nn.Module):
    """A block of MobileNetV2: expand, filter each channel, project."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        """Args: channels in and out; stride of the depthwise convolution; factor of the channels between."""
        super().__init__()
        inner = channels * expansion
        expand = _convolution(channels, inner, 1) if expansion > 1 else nn.Identity()
        project = nn.Sequential(nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.body = nn.Sequential(expand, _convolution(inner, inner, 3, stride, inner), project)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        return x + self.body(x) if self.residual else self.body(x)


def _convolution(
    channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] = nn.ReLU6,
) -> nn.Module:
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), activation())


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 of width 1."""
    layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
    channels = 32
    for expansion, out_channels, count, stride in _BLOCKS:
        for i in range(count):
            layers.append(InvertedResidual(channels, out_channels, stride if i == 0 else 1, expansion))
            channels = out_channels
    head = nn.Sequential(_convolution(channels, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))
    return nn.Sequential(*layers, head)


def _mlp(first: int, hidden: int, last: int) -> nn.Module:
    """Two dense layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": resnet_18,
    "MobileNetV2": mobilenet_v2,
}


DYNAMIC: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP, 1 row": (partial(_mlp, 256, 256, 256), (1, 256)),
    "MLP, 32 rows": (partial(_mlp, 256, 256, 256), (32, 256)),
    "ViT-tiny MLP": (partial(_mlp, 192, 768, 192), (1, 197, 192)),
}
"""Networks for dynamic quantisation, and the shapes of their inputs."""


@dataclass(frozen=True)
class Result:
    """The measurements of a network; seconds per run by contestant.

    Attributes:
        name: Name of the network.
        seconds: The minimum for each contestant.
        equal: Share of the outputs whose bits equal onnxruntime's.
        integers: Linear layers on integers, and all linear layers.
        unscheduled: Operators without a kernel.
        library_bytes: Size of the library.
    """

    name: str
    seconds: dict[str, float]
    equal: float
    integers: tuple[int, int]
    unscheduled: int
    library_bytes: int

    def passed(self, bar: str) -> bool:
        """Whether ours is not slower than a contestant, if that runs, and equal to onnxruntime's."""
        return self.seconds["ours"] <= self.seconds.get(bar, np.inf) and self.equal == 1


def measure(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], target: str, seconds: float, uniform: bool = False
) -> Result:
    """Quantise, compile, verify and time one network for inputs of a shape: dynamically, unless they are images."""
    dynamic = len(shape) < 4
    torch.manual_seed(0)
    module = make()
    for layer in module.modules():
        if isinstance(layer, nn.Linear if dynamic else nn.Conv2d) and not uniform:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    randomise_statistics(module)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    float32 = to_onnx(module.eval(), x.shape)
    int8 = dynamic_int8_version(float32) if dynamic else int8_version(float32)
    compiled = sbnn_tvm.compile(int8, target)
    if not (verification := compiled.verify(x, check=False)).passed:
        raise SystemExit(f"{name}: {verification}")
    peers = {"onnxruntime float32": session(float32), "onnxruntime int8": session(int8)}
    calls: dict[str, Callable[[], object]] = {
        key: lambda peer=peer: peer.run(None, {peer.get_inputs()[0].name: x})  # type: ignore[misc]
        for key, peer in peers.items()
    }
    with TemporaryDirectory() as folder:
        file = compiled.export(Path(folder) / "network.so")
        size_of_library = file.stat().st_size
        library = sbnn_tvm.load(file, num_threads=1)
        calls["ours"] = lambda: library.run(x)
        (openvino,) = (peer for peer in PEERS if peer.name == "OpenVINO int8")
        if not openvino.missing and not dynamic:
            expected = peers["onnxruntime float32"].run(None, {peers["onnxruntime float32"].get_inputs()[0].name: x})[0]
            calls[openvino.name] = openvino.prepare(PeerNetwork(module, float32, int8, x, expected, Path(folder)))
        times = interleave(calls, seconds)
    report = compiled.report
    linear = [layer for layer in report.linear if not layer.kernel.startswith("window_sum")]
    return Result(
        name,
        {key: timing.minimum for key, timing in times.items()},
        _equal(compiled.run(x), int8, x, dynamic),
        (sum("int8" in layer.kernel for layer in linear), len(linear)),
        sum(layer.kernel == UNSCHEDULED for layer in report.layers),
        size_of_library,
    )


def _equal(ours: np.ndarray, model: onnx.ModelProto, x: np.ndarray, dynamic: bool) -> float:
    reference = session(with_exact_products(model), False) if dynamic else session(_unsigned_weights(model))
    return float((reference.run(None, {reference.get_inputs()[0].name: x})[0] == ours).mean())


def _unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, with weights and zero points that are higher by 128 and unsigned."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            for name in (node.input[0], node.input[2]):
                array = numpy_helper.to_array(constants[name])
                if array.dtype == np.int8:
                    shifted = (array.astype(np.int16) + 128).astype(np.uint8)
                    constants[name].CopyFrom(numpy_helper.from_array(shifted, name))
    return changed


def table(results: list[Result]) -> Table:
    """One row per network."""
    out = Table(title=f"int8, one thread, milliseconds: {Machine()}")
    names = list(dict.fromkeys(name for result in results for name in result.seconds))
    for column in ("network", *names, "equal", "on integers", "unscheduled", "KiB"):
        out.add_column(column, justify="left" if column == "network" else "right")
    for result in results:
        times = (f"{1e3 * result.seconds[name]:.3g}" if name in result.seconds else "" for name in names)
        done, of = result.integers
        size = f"{result.library_bytes / 1024:,.0f}"
        out.add_row(result.name, *times, f"{result.equal:.4f}", f"{done} of {of}", str(result.unscheduled), size)
    return out


def main() -> int:
    """Measure all networks; the exit code is 1 if a bar is missed."""
    options = parser(__doc__, seconds=8.0, timed="per network")
    options.add_argument("--only", default="", metavar="TEXT", help="measure only networks whose name contains TEXT")
    options.add_argument("--size", type=int, default=224, help="height and width of the image (default: %(default)s)")
    options.add_argument("--uniform", action="store_true", help="uniform weights: more pairs of them are large")
    options.add_argument("--dynamic", action="store_true", help="dense layers, quantised dynamically")
    arguments = options.parse_args()
    out = console()
    results = []
    images = {name: (make, (1, 3, arguments.size, arguments.size)) for name, make in NETWORKS.items()}
    for name, (make, shape) in (DYNAMIC if arguments.dynamic else images).items():
        if arguments.only.lower() in name.lower():
            with out.status(name):
                results.append(measure(name, make, shape, arguments.target, arguments.seconds, arguments.uniform))
    out.print(table(results))
    if arguments.output:
        write_json(arguments.output, {"machine": asdict(Machine()), "networks": [asdict(each) for each in results]})
    bar = "onnxruntime int8" if arguments.dynamic else "OpenVINO int8"
    return 0 if all(each.passed(bar) for each in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
