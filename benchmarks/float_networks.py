"""How fast are ordinary float networks, compared with onnxruntime?

Run ``python benchmarks/float_networks.py``. The networks of float_models.py and of timm have random weights and random
batch norms; those of rapidocr-onnxruntime are trained. These packages are optional: a network whose package is missing
is left out, and a sentence says so. Each runs on one thread in turns with onnxruntime, which has all its optimisations.

"ms" is the minimum over many rounds. "ratio" is our minimum over that of onnxruntime, so that less than 1 is faster.
The ratio in CPU time ignores other programs on a busy machine. "difference" is relative to the largest value of the
output; 0 if ``verify`` finds that onnxruntime is the less exact side. The exit code is 1 if a network takes more than
1.1 times as long as onnxruntime, differs by more than 1e-4, or leaves an operator to TVM.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import float_models
import numpy as np
import onnx
import torch
from command_line import console, parser
from onnxruntime_peer import session
from records import Machine, write_json
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.passes.lowering.lower import UnscheduledOperator
from sbnn_tvm.profiling.timing import interleave
from sbnn_tvm.runtime.loading import load

SLOWEST, DIFFERENCE = 1.1, 1e-4
"""The bars: time relative to onnxruntime, and difference relative to the largest value."""


@dataclass(frozen=True)
class Network:
    """A network of the benchmark.

    Attributes:
        name: Its name in the table.
        package: The package that it needs.
        model: Makes the ONNX model.
        shape: Shape of its input.
    """

    name: str
    package: str
    model: Callable[[], onnx.ModelProto]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """The measurement of one network; times in milliseconds."""

    name: str
    ours: float
    onnxruntime: float
    cpu_ratio: float
    difference: float
    unscheduled: str
    compile_seconds: float

    @property
    def ratio(self) -> float:
        """Our time over that of onnxruntime."""
        return self.ours / self.onnxruntime

    @property
    def passes(self) -> bool:
        """Whether it reaches the bars."""
        fast = min(self.ratio, self.cpu_ratio) <= SLOWEST
        return fast and self.difference <= DIFFERENCE and not self.unscheduled


def own_network(make: Callable[[], torch.nn.Module], shape: tuple[int, ...]) -> onnx.ModelProto:
    """A network of float_models.py with random weights."""
    torch.manual_seed(0)
    return float_models.exported(make(), shape)


def timm_network(name: str, seed: int = 0) -> onnx.ModelProto:
    """A network of timm with random weights and batch norms, for one image of 224x224."""
    import timm

    torch.manual_seed(seed)
    module = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.running_mean.normal_(0, 0.1)
                each.running_var.uniform_(0.5, 1.5)
                each.weight.uniform_(0.5, 1.5)
                each.bias.normal_(0, 0.1)
    file = io.BytesIO()
    torch.onnx.export(module, (torch.randn(1, 3, 224, 224),), file, opset_version=17, dynamo=False, verbose=False)
    return onnx.load_from_string(file.getvalue())


def ocr_network(name: str) -> onnx.ModelProto:
    """A network in the package rapidocr-onnxruntime."""
    found = find_spec("rapidocr_onnxruntime")
    assert found is not None and found.origin is not None
    return onnx.load(str(Path(found.origin).parent / "models" / name))


IMAGE = (1, 3, 224, 224)


def own(name: str, make: Callable[[], torch.nn.Module], *shape: int) -> Network:
    """A network of float_models.py as an entry of the table."""
    return Network(name, "torch", partial(own_network, make, shape), shape)


NETWORKS = (
    own("ViT-tiny, ours", float_models.VisionTransformer, *IMAGE),
    own(
        "ViT-tiny by einsum, RMS norm, GELU by tanh",
        partial(float_models.VisionTransformer, norm=float_models.RmsNorm, act="tanh", written="einsum"),
        *IMAGE,
    ),
    own("MobileNetV3-Small, ours", partial(float_models.MobileNetV3, large=False), *IMAGE),
    own("MobileNetV3-Large, ours", float_models.MobileNetV3, *IMAGE),
    own("EfficientNet-B0, ours", float_models.EfficientNetB0, *IMAGE),
    own("ConvNeXt-pico, ours", float_models.ConvNeXt, *IMAGE),
    own("U-Net, transposed convolutions", float_models.UNet, 1, 3, 128, 128),
    own("U-Net, nearest", partial(float_models.UNet, up="nearest"), 1, 3, 128, 128),
    own("U-Net, bilinear", partial(float_models.UNet, up="bilinear"), 1, 3, 128, 128),
    own("U-Net, cubic", partial(float_models.UNet, up="bicubic"), 1, 3, 128, 128),
    own("U-Net, pixel shuffle", partial(float_models.UNet, up="shuffle"), 1, 3, 128, 128),
    own("U-Net of sound", float_models.AudioUNet, 1, 1, 16384),
    own("decoder of sound", float_models.SoundDecoder, 1, 64, 50),
    own("text detector, ours", float_models.TextDetector, 1, 3, 320, 320),
    own("super-resolution", float_models.SuperResolution, 1, 3, 96, 96),
    own("ResNet-20, slices and paddings", float_models.SmallResNet, 1, 3, 32, 32),
    own("RMS norm, gated", partial(float_models.GatedBlock, 256, 4), 1, 64, 256),
    Network("ResNet-18", "timm", partial(timm_network, "resnet18"), IMAGE),
    Network("MobileNetV3-Large", "timm", partial(timm_network, "mobilenetv3_large_100"), IMAGE),
    Network("EfficientNet-B0", "timm", partial(timm_network, "efficientnet_b0"), IMAGE),
    Network("ViT-tiny", "timm", partial(timm_network, "vit_tiny_patch16_224"), IMAGE),
    Network(
        "text detection", "rapidocr_onnxruntime", partial(ocr_network, "ch_PP-OCRv4_det_infer.onnx"), (1, 3, 320, 320)
    ),
    Network(
        "text recognition", "rapidocr_onnxruntime", partial(ocr_network, "ch_PP-OCRv4_rec_infer.onnx"), (1, 3, 48, 320)
    ),
    Network(
        "text direction",
        "rapidocr_onnxruntime",
        partial(ocr_network, "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        (1, 3, 48, 192),
    ),
)


def measure(network: Network, target: str, seconds: float) -> Result:
    """Compile, compare and time one network."""
    model = network.model()
    begin = time.perf_counter()
    module = sbnn_tvm.compile(model, target, input_shape=network.shape)
    compile_seconds = time.perf_counter() - begin
    left = Counter(each.operator for each in module.lowered.entries if isinstance(each, UnscheduledOperator))
    x = np.random.default_rng(0).standard_normal(network.shape).astype(np.float32)
    peer, feeds = session(module.imported.model), {module.inputs[0].name: x}
    expected, got = peer.run(None, feeds)[0], module.run(x)
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if difference > DIFFERENCE and module.verify(x, check=False).passed:
        difference = 0.0  # onnxruntime is the less exact side, as verify finds
    with TemporaryDirectory() as folder:
        library = load(module.export(Path(folder) / "model.so"), 1)
    functions = {"ours": lambda: library.run(x), "onnxruntime": lambda: peer.run(None, feeds)}
    times = interleave(functions, seconds)
    cpu = {name: min(cpu_seconds(function) for _ in range(8)) for name, function in functions.items()}
    return Result(
        network.name,
        1e3 * times["ours"].minimum,
        1e3 * times["onnxruntime"].minimum,
        cpu["ours"] / cpu["onnxruntime"],
        difference,
        ", ".join(f"{count} {operator}" for operator, count in left.items()),
        compile_seconds,
    )


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of this thread in one call."""
    begin = time.thread_time()
    function()
    return time.thread_time() - begin


def table(results: list[Result]) -> Table:
    """One row per network."""
    out = Table(title=f"Float networks, batch 1, one thread: {Machine()}")
    columns = ("network", "ms", "onnxruntime ms", "ratio", "in CPU time", "difference", "unscheduled", "compile s")
    for column in columns:
        out.add_column(column, justify="left" if column in ("network", "unscheduled") else "right")
    for each in results:
        times = (f"{each.ours:.2f}", f"{each.onnxruntime:.2f}", f"{each.ratio:.2f}", f"{each.cpu_ratio:.2f}")
        out.add_row(each.name, *times, f"{each.difference:.1e}", each.unscheduled, f"{each.compile_seconds:.1f}")
    return out


def main() -> int:
    """Measure every network; the exit code is 1 if a bar is missed."""
    options = parser(__doc__, seconds=6.0, timed="per network")
    options.add_argument("--only", default="", metavar="TEXT", help="measure only networks whose name contains TEXT")
    arguments = options.parse_args()
    out = console()
    results = []
    for network in NETWORKS:
        if arguments.only.lower() not in network.name.lower():
            continue
        if find_spec(network.package) is None:
            out.print(f"{network.name} is left out: it needs `pip install {network.package.replace('_', '-')}`.")
            continue
        with out.status(network.name):
            results.append(measure(network, arguments.target, arguments.seconds))
    out.print(table(results))
    if arguments.output:
        write_json(arguments.output, {"machine": asdict(Machine()), "networks": [asdict(each) for each in results]})
    return 0 if all(each.passes for each in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
