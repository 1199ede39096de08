"""How good the rule is that lays feature maps out in bit planes: sparse layers by counters, in every layout.

Run ``python benchmarks/plane_layouts.py``. Binary layers with 5 % set weights read planes and store thresholded planes.
They are timed in turns, in the layout that schedules/layouts/bit_planes.py picks and in the next ones of its ranking;
input and output have the same layout. The layout is not tuned, because layers exchange planes: no layer can choose one
alone. This benchmark shows the possible gain.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import records
import tvm_ffi
from chains import compiled
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.console import Console
from rich.table import Table
from sparse_kernels import sparse_chain

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.epilogue.program import IntegerThreshold
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layouts
from sbnn_tvm.schedules.shapes import Conv2dShape

DENSITY = 0.05
OTHERS = 4
"""Layouts that are tried beside the one that is picked."""


def _layer(size: int, channels: int) -> Layer:
    shape = Conv2dShape(1, size, size, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    return Layer(f"3x3 {size}x{size} {channels}", shape)


LAYERS = (*BINARY_LAYERS, *(_layer(size, channels) for size, channels in ((112, 32), (32, 128), (20, 128), (8, 256))))


@dataclass(frozen=True)
class Laid:
    """A layer in one layout; the first is what the rule picks."""

    layout: PlaneLayout
    record: Record


def measure(layer: Layer, target: CpuTarget, seconds: float) -> list[Laid]:
    """The times of a layer in several layouts, the picked one first; all outputs are checked to be the same."""
    chain, shape, isa = sparse_chain(layer, DENSITY), layer.shape, target.isa
    threshold = IntegerThreshold(chain.thresholds[0], chain.thresholds[0] < chain.thresholds[0])
    every = plane_layouts(shape.batch, shape.height, shape.width, shape.in_channels, isa)[: 1 + OTHERS]
    contestants: dict[str, Contestant] = {}
    expected = None
    for layout in every:
        kernel = sparse_conv2d(shape, chain.signs[0], 0, threshold, isa, source=layout, target=layout)
        contestants[repr(layout)], planes = compiled([kernel], layout.encode(chain.bits), target)
        contestants[repr(layout)].run()
        bits = layout.decode(planes.numpy())
        assert expected is None or (bits == expected).all()
        expected = bits
    times = seconds_a_layer(contestants, seconds)
    return [
        Laid(layout, Record(layer.name, shape, _name(layout), isa.name, "bits", times[repr(layout)], DENSITY))
        for layout in every
    ]


def _name(layout: PlaneLayout) -> str:
    return f"{layout.vector_bits}x{layout.row_bits}"


def main() -> None:
    """Measure every layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=2.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(tvm_ffi, 1)
    table = Table(title=f"Microseconds a layer by its layout (vector x lane bits), {target.isa.name}, {machine}")
    for heading in ("layer", "picked", "the next of the ranking", "fastest is faster by"):
        table.add_column(heading)
    found: list[Record] = []
    for layer in LAYERS:
        records_ = [each.record for each in measure(layer, target, arguments.seconds)]
        found += records_
        cells = [f"{each.kernel} {each.seconds * 1e6:.1f}" for each in records_]
        gain = records_[0].seconds / min(each.seconds for each in records_)
        table.add_row(layer.name, cells[0], ", ".join(cells[1:]), f"{gain:.2f}x")
    Console(width=160).print(table)
    if arguments.output:
        records.write(arguments.output, found, machine)


if __name__ == "__main__":
    main()
