"""What do activations of 2 to 4 bits cost, compared with one bit?

Run ``python benchmarks/bit_serial.py``. The layers have weights of one bit. For each layer of kernels.py and each
number of bits, a chain of convolutions is timed on one thread: codes in, codes out of threshold comparisons, zero
padding. The numbers of bits take turns, and the fastest run counts. Outputs are checked.

The table gives microseconds per layer, and in brackets the speed relative to one bit. The exit code is 1 if two bits
miss their bar.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import records
from chains import compiled
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.table import Table

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import STORE, IntegerThreshold
from sbnn_tvm.schedules.layouts.words import pack_codes, unpack_codes

BITS = (1, 2, 3, 4)
LEAST = 0.45
"""The bar: the speed of two bits relative to one."""


def contestant(layer: Layer, bits: int, target: CpuTarget) -> Contestant:
    """A chain on codes of ``bits`` bits; its output is checked."""
    rng, isa, highest = np.random.default_rng(bits), target.isa, (1 << bits) - 1
    s = layer.shape
    first = codes = rng.integers(0, highest + 1, (s.batch, s.height, s.width, s.in_channels))
    kernels = []
    for shape in layer.shapes:
        signs = rng.integers(0, 2, (shape.out_channels, shape.in_channels, *shape.kernel)).astype(bool)
        spread = np.sqrt(signs[0].size * (4**bits - 1) / 3)  # the deviation of a sum of so many random odd numbers
        centre = np.arange(1, highest + 1)[:, None] - (highest + 1) / 2
        jitter = rng.standard_normal(shape.out_channels) / 4
        thresholds = np.rint((centre * 2.5 / (highest + 1) + jitter) * spread).astype(np.int64)
        epilogue = IntegerThreshold(thresholds if bits > 1 else thresholds[0], np.zeros(shape.out_channels, bool))
        kernels.append(popcount_conv2d(shape, signs, 0, epilogue, isa, bits=bits))
        weights = np.where(signs, np.float32(1), np.float32(-1))
        convolution, sums = compiled(
            [float_conv2d(shape, weights, STORE, isa)], (2 * codes - highest).astype(np.float32), target
        )
        convolution.run()
        codes = (sums.numpy()[..., None, :] >= thresholds).sum(axis=-2)
    chain, packed = compiled(kernels, pack_codes(first, bits, isa), target)
    chain.run()
    np.testing.assert_array_equal(unpack_codes(packed.numpy(), layer.shapes[-1].out_channels, bits), codes)
    return chain


def measure(layer: Layer, target: CpuTarget, seconds: float) -> list[Record]:
    """Time a layer with each number of bits."""
    times = seconds_a_layer({f"{bits} bits": contestant(layer, bits, target) for bits in BITS}, seconds)
    return [Record(layer.name, layer.shape, name, target.isa.name, "bits", time) for name, time in times.items()]


def relative_speed(measured: Sequence[Record]) -> list[float]:
    """The speed of each number of bits, relative to one bit."""
    return [measured[0].seconds / record.seconds for record in measured]


def table(layers: Sequence[Sequence[Record]], target: CpuTarget, machine: Machine) -> Table:
    """One row per layer: microseconds, and the speed relative to one bit."""
    out = Table(title=f"Microseconds per layer (speed relative to one bit), one thread, {target.isa}\n{machine}")
    out.add_column("layer")
    for bits in BITS:
        out.add_column(f"{bits} bits" + (f"\n>= {LEAST}" if bits == 2 else ""), justify="right")
    for measured in layers:
        cells = [
            f"{record.seconds * 1e6:.1f} ({speed:.2f})"
            for record, speed in zip(measured, relative_speed(measured), strict=True)
        ]
        out.add_row(measured[0].layer, *cells)
    return out


def main() -> int:
    """Measure every layer; the exit code is 1 if two bits miss the bar."""
    arguments = layer_parser(__doc__, seconds=4.0).parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(1)
    layers = [measure(layer, target, arguments.seconds) for layer in BINARY_LAYERS if arguments.only in layer.name]
    console().print(table(layers, target, machine))
    if arguments.output:
        records.write(arguments.output, [record for measured in layers for record in measured], machine)
    return 0 if all(relative_speed(measured)[1] >= LEAST for measured in layers) else 1


if __name__ == "__main__":
    raise SystemExit(main())
