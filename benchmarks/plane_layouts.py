"""Does the compiler pick the fastest layout of bit planes?

Run ``python benchmarks/plane_layouts.py``. Sparse layers with 5 % set weights read bit planes and write thresholded
bit planes. They are timed in turns in the layout that the rule in schedules/layouts/bit_planes.py picks, and in the
next ones of its ranking. Input and output have the same layout.

The table gives microseconds per layout; ``512x64`` means vectors of 512 bits in lanes of 64. The last column is the
gain of the fastest layout over the picked one. The layout is not a parameter of tuning, since neighbouring layers
exchange planes and one layer cannot choose alone. This benchmark shows what could be gained.
"""

from __future__ import annotations

from dataclasses import dataclass

import records
from chains import compiled
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer, square
from records import Machine, Record
from rich.table import Table
from sparse_kernels import sparse_chain

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.epilogue.program import IntegerThreshold
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layouts

DENSITY = 0.05
OTHERS = 4
"""How many other layouts are tried."""


LAYERS = (*BINARY_LAYERS, square(112, 32), square(32, 128), square(20, 128), square(8, 256))


@dataclass(frozen=True)
class Laid:
    """The time of a layer in one layout."""

    layout: PlaneLayout
    record: Record


def measure(layer: Layer, target: CpuTarget, seconds: float) -> list[Laid]:
    """Time a layer in several layouts, the picked one first; all outputs must be equal."""
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
    arguments = layer_parser(__doc__, seconds=2.0).parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(1)
    table = Table(title=f"Microseconds per layer and layout (vector x lane bits), {target.isa.name}, {machine}")
    for heading in ("layer", "picked", "next in the ranking", "gain of the fastest"):
        table.add_column(heading)
    found: list[Record] = []
    for layer in (layer for layer in LAYERS if arguments.only in layer.name):
        records_ = [each.record for each in measure(layer, target, arguments.seconds)]
        found += records_
        cells = [f"{each.kernel} {each.seconds * 1e6:.1f}" for each in records_]
        gain = records_[0].seconds / min(each.seconds for each in records_)
        table.add_row(layer.name, cells[0], ", ".join(cells[1:]), f"{gain:.2f}x")
    console().print(table)
    if arguments.output:
        records.write(arguments.output, found, machine)


if __name__ == "__main__":
    main()
