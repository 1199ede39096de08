"""Layers whose kernels come from a codebook: decoded when loaded, or computed by reusing the patterns' responses.

Run ``python benchmarks/response_reuse.py``. A decoded layer is an ordinary binary one, here the popcount kernel, bits
to bits. Reuse computes the response of each of the 2^t patterns to every input channel, and adds for each output
channel those that its indices name. Here it is given the responses, and stores sums, no bits: response_reuse.c is its
additions alone, which are checked. It takes 256 pixels at a time, of which 7x7 fill a fifth. Both take turns on one
thread; the fastest run counts.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tvm_ffi
from chains import BinaryChain, binary_contestant
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS
from records import Machine
from rich.console import Console
from rich.table import Table

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.profiling.limits import isa_line
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.shapes import Conv2dShape

INDEX_BITS = (4, 6)
_PIXELS = 256  # of a block, as in the C file


def reuse_contestant(shape: Conv2dShape, index_bits: int, additions: ctypes._NamedFuncPointer) -> Contestant:
    """The additions of a layer, given random responses."""
    rng = np.random.default_rng(0)
    blocks, patterns = -(-shape.out_height * shape.out_width // _PIXELS), 1 << index_bits
    inputs, outputs = shape.in_channels, shape.out_channels
    responses = _aligned((blocks, inputs, patterns, _PIXELS), np.int8)
    responses[...] = rng.integers(-9, 10, responses.shape)
    index = rng.integers(0, patterns, (outputs, inputs), np.uint8)
    sums = _aligned((blocks, outputs, _PIXELS), np.int16)
    arguments = [array.ctypes.data_as(ctypes.c_void_p) for array in (responses, index, sums)]
    arguments += [ctypes.c_long(n) for n in (blocks, inputs, outputs, patterns)]

    def run() -> None:
        additions(*arguments)

    run()
    expected = responses[-1, np.arange(inputs), index].astype(np.int16).sum(axis=1, dtype=np.int16)
    np.testing.assert_array_equal(sums[-1], expected)
    return Contestant(run)


def reused_operations(in_channels: int, out_channels: int, pixels: int, taps: int, index_bits: int) -> float:
    """Binary operations of a layer that computes the response of every pattern once and adds the responses it needs.

    The count is the responses of 2^t patterns to every input channel, plus one addition per kernel, which counts as
    half a binary operation. If there are at least as many patterns as output channels, nothing is reused.

    Args:
        in_channels, out_channels: Channels of the layer.
        pixels: Pixels of its output.
        taps: Weights per kernel.
        index_bits: t.

    References:
        arXiv 2110.09195.
    """
    patterns = 1 << index_bits
    additions = 0.5 * in_channels * out_channels * pixels if patterns < out_channels else 0.0
    return min(out_channels, patterns) * in_channels * taps * pixels + additions


def _aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Zeros that begin at a multiple of a vector's bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return memory[start : start + size].view(dtype).reshape(shape)


def _compiled(source: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "additions.so"
        options = ["-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC"]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def main() -> None:
    """Measure the 3x3 layers of a ResNet-18."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    arguments = parser.parse_args()
    target, additions = resolve("native"), _compiled(Path(__file__).with_suffix(".c")).additions
    use_threads(tvm_ffi, 1)
    title = "Microseconds (share of the binary operations, by the published formula), one thread, "
    table = Table(title=f"{title}{isa_line(target.isa)}\n{Machine()}")
    for heading in ("layer", "decoded", *(f"additions alone, t = {bits}" for bits in INDEX_BITS)):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in (layer for layer in BINARY_LAYERS if arguments.only in layer.name):
        s = layer.shape
        contestants = {"decoded": binary_contestant(BinaryChain.random(layer, np.random.default_rng(0)), target)}
        contestants |= {str(bits): reuse_contestant(s, bits, additions) for bits in INDEX_BITS}
        times = seconds_a_layer(contestants, arguments.seconds)
        pixels, taps = s.out_height * s.out_width, s.kernel[0] * s.kernel[1]
        all_operations = pixels * taps * s.in_channels * s.out_channels
        cells = [
            f"{times[str(bits)] * 1e6:.1f} ("
            f"{reused_operations(s.in_channels, s.out_channels, pixels, taps, bits) / all_operations:.2f})"
            for bits in INDEX_BITS
        ]
        table.add_row(layer.name, f"{times['decoded'] * 1e6:.1f}", *cells)
    Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    main()
