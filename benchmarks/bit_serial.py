"""Convolutions of n-bit activations with 1-bit weights against the same on one bit, one thread.

Run ``python benchmarks/bit_serial.py``. For every layer of kernels.py a chain of convolutions (codes in, codes out of a
threshold comparison, zero padding) is timed for each number of bits. They take turns, and the fastest run counts. What
the kernels compute is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import records
import tvm_ffi
from chains import compiled
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.console import Console
from rich.table import Table

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import STORE, IntegerThreshold
from sbnn_tvm.schedules.layouts.words import pack_codes, unpack_codes

BITS = (1, 2, 3, 4)
LEAST = 0.45
"""What two bits must reach of the speed of one."""


def contestant(layer: Layer, bits: int, target: CpuTarget) -> Contestant:
    """The chain on codes of ``bits`` bits; its output is checked."""
    rng, isa, highest = np.random.default_rng(bits), target.isa, (1 << bits) - 1
    s = layer.shape
    first = codes = rng.integers(0, highest + 1, (s.batch, s.height, s.width, s.in_channels))
    kernels = []
    for shape in layer.shapes:
        signs = rng.integers(0, 2, (shape.out_channels, shape.in_channels, *shape.kernel)).astype(bool)
        spread = np.sqrt(signs[0].size * (4**bits - 1) / 3)  # the deviation of a sum of as many odd numbers
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
    """The times of a layer with each number of bits."""
    times = seconds_a_layer({f"{bits} bits": contestant(layer, bits, target) for bits in BITS}, seconds)
    return [Record(layer.name, layer.shape, name, target.isa.name, "bits", time) for name, time in times.items()]


def relative_speed(measured: Sequence[Record]) -> list[float]:
    """Of each number of bits the speed, as a share of that of one bit."""
    return [measured[0].seconds / record.seconds for record in measured]


def table(layers: Sequence[Sequence[Record]], target: CpuTarget, machine: Machine) -> Table:
    """Microseconds a layer, and the speeds."""
    out = Table(title=f"Microseconds a layer (speed of one bit = 1), one thread, {target.isa}\n{machine}")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=4.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(tvm_ffi, 1)
    layers = [measure(layer, target, arguments.seconds) for layer in BINARY_LAYERS if arguments.only in layer.name]
    Console(width=None if Console().is_terminal else 160).print(table(layers, target, machine))
    if arguments.output:
        records.write(arguments.output, [record for measured in layers for record in measured], machine)
    return 0 if all(relative_speed(measured)[1] >= LEAST for measured in layers) else 1


if __name__ == "__main__":
    raise SystemExit(main())
