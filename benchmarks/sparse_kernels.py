"""Convolutions on bit planes, whose time falls with the number of set weights, against the dense popcount kernel.

Run ``python benchmarks/sparse_kernels.py``. For every layer and density a chain of convolutions with zero padding is
timed by each contestant; set weights are at random positions:

* the popcount kernel, packed bits in, thresholded bits out, and OpenVINO's, if it is installed: weights do not matter
* bit planes in, thresholded bit planes out, for weights {-1, +1} and {0, 1}
* both kernels with a residual network's epilogue: scale and bias, a residual, PReLU, float32 and bits out

All outputs are checked before they are timed. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino_peer
import records
import tvm_ffi
from chains import BinaryChain, binary_contestant, compiled, kernel_contestant, residual_epilogue
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.console import Console
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
    """How much faster than the popcount kernel the better of the two sparse ones must be, at least."""

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
    """A chain whose signs have few +1, and thresholds near the middle of the sums."""
    rng, s = np.random.default_rng(0), layer.shape
    bits = rng.integers(0, 2, (s.batch, s.height, s.width, s.in_channels)).astype(bool)
    signs = [rng.random((s.out_channels, s.in_channels, *s.kernel)) < density for s in layer.shapes]
    thresholds = [np.rint(rng.standard_normal(s.out_channels) * 8).astype(np.int64) for s in layer.shapes]
    return BinaryChain(layer.shapes, bits, signs, thresholds)


def plane_contestant(chain: BinaryChain, domain: BinaryDomain, target: CpuTarget) -> Contestant:
    """The sparse kernels, planes to planes; with {-1, +1} weights the output is checked."""
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
    """One layer with a residual network's epilogue by both kernels; their outputs must be the same."""
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
    """The times of a layer at all densities by everyone."""
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
    """One row a measurement, with the ratio to the popcount kernel of the same layer."""
    out = Table(title=f"Sparse binary convolutions, us a layer, one thread, {target}, {machine}")
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
    """A line for every bar that is missed."""
    lines = []
    for bar in BARS:
        ratios = [
            _ratio(measured, record, POPCOUNT) or 0.0
            for record in measured
            if (record.shape.height, record.density, record.epilogue) == (bar.size, bar.density, bar.epilogue)
        ]
        if ratios and max(ratios) < bar.least:
            what = f"{bar.size}x{bar.size} at {bar.density:.0%} to {bar.epilogue}"
            lines.append(f"FAIL {what}: {max(ratios):.2f} times as fast as popcount, not {bar.least}")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, help="shares of set weights")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target, machine, console = resolve(arguments.target), Machine(), Console(width=160)
    use_threads(tvm_ffi, 1)
    measured: list[Record] = []
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name:
            measured += measure(layer, target, arguments.densities, arguments.seconds)
    console.print(table(measured, target, machine))
    if arguments.output:
        records.write(arguments.output, measured, machine)
    failures = missed(measured)
    for line in failures:
        console.print(f"[red]{line}[/]")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
