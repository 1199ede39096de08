"""How much faster are layers with few set weights than dense ones?

Run ``python benchmarks/sparse_kernels.py``. For every layer and density a chain of convolutions with zero padding is
timed on one thread. Set weights are at random positions. The contestants take turns, and the fastest run counts:

* popcount: the dense kernel, packed bits in, thresholded bits out; its time does not depend on the weights
* OpenVINO binary, if it is installed: the same
* bit planes, for weights {-1, +1} and {0, 1}: the sparse kernel, bit planes in, thresholded bit planes out
* popcount and bit planes with the epilogue of a residual network (one layer): scale and bias, residual, PReLU; float32
  and bits out

Outputs are checked before they are timed. The table gives microseconds per layer and speed-ups over the popcount kernel
and over OpenVINO. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openvino_peer
import records
from chains import BinaryChain, binary_contestant, compiled, kernel_contestant, residual_epilogue
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.table import Table

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import IntegerThreshold
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape

DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
POPCOUNT, OPENVINO = "popcount", "OpenVINO binary"
NAMES = {"bit planes": SIGN, "bit planes {0, 1}": BIT}
FLOAT = "float + bits"


@dataclass(frozen=True)
class Bar:
    """The least speed of the sparse kernels relative to the popcount kernel; the better weight domain counts.

    Attributes:
        size: Height and width of the layer in pixels.
        density: Share of set weights.
        epilogue: What the kernels store, same as in Record.
        least: The least allowed ratio of times.
    """

    size: int
    density: float
    epilogue: str
    least: float


BARS = (
    Bar(56, 0.05, "bits", 10.0),
    Bar(28, 0.05, "bits", 10.0),
    Bar(14, 0.05, "bits", 5.0),
    Bar(7, 0.05, "bits", 2.0),
    Bar(56, 0.1, "bits", 5.0),
    Bar(28, 0.1, "bits", 5.0),
    Bar(56, 0.05, FLOAT, 2.0),
)


def sparse_chain(layer: Layer, density: float) -> BinaryChain:
    """A chain with a share ``density`` of +1 weights, and random thresholds (deviation 8)."""
    rng, s = np.random.default_rng(0), layer.shape
    bits = rng.integers(0, 2, (s.batch, s.height, s.width, s.in_channels)).astype(bool)
    signs = [rng.random((s.out_channels, s.in_channels, *s.kernel)) < density for s in layer.shapes]
    thresholds = [np.rint(rng.standard_normal(s.out_channels) * 8).astype(np.int64) for s in layer.shapes]
    return BinaryChain(layer.shapes, bits, signs, thresholds)


def plane_contestant(chain: BinaryChain, domain: BinaryDomain, target: CpuTarget) -> Contestant:
    """A chain by sparse kernels, bit planes in and out; with {-1, +1} weights the output is checked."""
    kernels = [
        sparse_conv2d(
            shape,
            signs,
            0,
            IntegerThreshold(threshold, np.zeros(len(threshold), bool)),
            target.isa,
            weight_domain=domain,
        )
        for shape, signs, threshold in zip(chain.shapes, chain.signs, chain.thresholds, strict=True)
    ]
    contestant, planes = compiled(kernels, _layout(chain.shapes[0], target).encode(chain.bits), target)
    contestant.run()
    if domain == SIGN:
        last = chain.shapes[-1]
        layout = plane_layout(last.batch, last.out_height, last.out_width, last.out_channels, target.isa)
        np.testing.assert_array_equal(layout.decode(planes.numpy()), chain.output(target))
    return contestant


def float_contestants(chain: BinaryChain, target: CpuTarget) -> dict[str, Contestant]:
    """One layer with the epilogue of a residual network, by each kernel; with {-1, +1} weights the outputs agree."""
    rng, shape, signs = np.random.default_rng(1), chain.shapes[0], chain.signs[0]
    program = residual_epilogue(shape.out_channels, rng)
    pixels = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    residual = rng.standard_normal(pixels).astype(np.float32)
    planes, words = _layout(shape, target).encode(chain.bits), pack_channels(chain.bits, target.isa)
    contestants, outputs = {}, []
    for name, kernel, data in (
        (POPCOUNT, popcount_conv2d(shape, signs, 0, program, target.isa), words),
        ("bit planes", sparse_conv2d(shape, signs, 0, program, target.isa), planes),
    ):
        contestants[name], stored = kernel_contestant(kernel, [data, residual], target)
        outputs.append(stored)
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    contestants["bit planes {0, 1}"], _ = kernel_contestant(
        sparse_conv2d(shape, signs, 0, program, target.isa, weight_domain=BIT), [planes, residual], target
    )
    return contestants


def measure(layer: Layer, target: CpuTarget, densities: Sequence[float], seconds: float) -> list[Record]:
    """Time a layer at all densities by every contestant."""
    contestants: dict[tuple[str, str, float | None], Contestant] = {}
    for density in densities:
        chain = sparse_chain(layer, density)
        for name, domain in NAMES.items():
            contestants[name, "bits", density] = plane_contestant(chain, domain, target)
    contestants[POPCOUNT, "bits", None] = binary_contestant(sparse_chain(layer, 0.05), target)
    if openvino_peer.available():
        chain = BinaryChain.random(layer, np.random.default_rng(0))
        contestants[OPENVINO, "bits", None] = openvino_peer.binary_contestant(chain, target)
    for density in densities:
        for name, contestant in float_contestants(sparse_chain(layer, density), target).items():
            contestants[name, FLOAT, None if name == POPCOUNT else density] = contestant
    times = seconds_a_layer({repr(key): contestant for key, contestant in contestants.items()}, seconds)
    return [
        Record(
            layer.name, layer.shape, name, target.isa.name, epilogue, times[repr((name, epilogue, density))], density
        )
        for name, epilogue, density in contestants
    ]


def table(measured: Sequence[Record], target: CpuTarget, machine: Machine) -> Table:
    """One row per measurement, with its speed relative to the popcount kernel and OpenVINO on the same layer."""
    out = Table(title=f"Sparse binary convolutions, us per layer, one thread, {target}, {machine}")
    for heading in ("layer", "stores", "kernel", "density", "us", "faster than popcount", "than OpenVINO"):
        out.add_column(heading, justify="left" if heading in ("layer", "stores", "kernel") else "right")
    for record in measured:
        density = "-" if record.density is None else f"{record.density:.1%}"
        cells = [record.layer, record.epilogue, record.kernel, density, f"{record.seconds * 1e6:.1f}"]
        for other in (POPCOUNT, OPENVINO):
            ratio = _ratio(measured, record, other)
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        out.add_row(*cells)
    return out


def missed(measured: Sequence[Record]) -> list[str]:
    """One line for every missed bar."""
    lines = []
    for bar in BARS:
        ratios = [
            _ratio(measured, record, POPCOUNT) or 0.0
            for record in measured
            if (record.shape.height, record.density, record.epilogue) == (bar.size, bar.density, bar.epilogue)
        ]
        if ratios and max(ratios) < bar.least:
            what = f"{bar.size}x{bar.size} at {bar.density:.0%} to {bar.epilogue}"
            lines.append(f"FAIL {what}: {max(ratios):.2f} times as fast as popcount, less than {bar.least}")
    return lines


def _ratio(measured: Sequence[Record], record: Record, other: str) -> float | None:
    for each in measured:
        if (each.layer, each.kernel, each.epilogue) == (record.layer, other, record.epilogue):
            return each.seconds / record.seconds
    return None


def _layout(shape: Conv2dShape, target: CpuTarget) -> PlaneLayout:
    return plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, target.isa)


def main() -> int:
    """Measure every layer; the exit code is 1 if a bar is missed."""
    parser = layer_parser(__doc__, seconds=10.0)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, help="shares of set weights")
    arguments = parser.parse_args()
    target, machine, out = resolve(arguments.target), Machine(), console()
    use_threads(1)
    measured: list[Record] = []
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name:
            measured += measure(layer, target, arguments.densities, arguments.seconds)
    out.print(table(measured, target, machine))
    if arguments.output:
        records.write(arguments.output, measured, machine)
    failures = missed(measured)
    for line in failures:
        out.print(f"[red]{line}[/]")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
