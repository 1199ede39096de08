"""Layers whose 3x3 kernels come from a codebook: decode them, or reuse the responses of the patterns?

Run ``python benchmarks/response_reuse.py``. Two ways to compute a layer take turns on one thread:

* decoded: the codebook is decoded when the library is loaded. The layer is then an ordinary popcount kernel, bits to
  bits.
* reuse: compute the response of each of the 2^t patterns to every input channel once. Each output channel adds the
  responses that its indices select.

Only the additions of the second way are measured (response_reuse.c). They get the responses ready-made and store sums,
not bits. They process 256 pixels at a time; a 7x7 image fills a fifth of that. Their sums are checked.

The table gives microseconds per layer. In brackets is the share of the binary operations that reuse needs by its
published formula. Reuse pays only where its additions alone are faster than the decoded layer.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import records
from c_loops import compiled_c
from chains import BinaryChain, binary_contestant
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS
from records import Machine, Record
from rich.table import Table

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.shapes import Conv2dShape

INDEX_BITS = (4, 6)
_PIXELS = 256  # per block, same as in the C file


def reuse_contestant(shape: Conv2dShape, index_bits: int, additions: ctypes._NamedFuncPointer) -> Contestant:
    """The additions of a layer, on random responses; its sums are checked.

    Args:
        shape: The layer.
        index_bits: t, bits per index: the codebook has 2^t patterns.
        additions: The function of response_reuse.c.
    """
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
    """Zeros whose address is a multiple of 128, the alignment that the C file's vectors need."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return memory[start : start + size].view(dtype).reshape(shape)


def _reuse(index_bits: int) -> str:
    return f"additions alone, t = {index_bits}"


def main() -> None:
    """Measure the 3x3 layers of a ResNet-18."""
    arguments = layer_parser(__doc__, seconds=3.0).parse_args()
    target = resolve(arguments.target)
    library = compiled_c(Path(__file__).with_suffix(".c"), "-march=native", "-mprefer-vector-width=512")
    machine = Machine()
    use_threads(1)
    title = "Microseconds per layer (share of the binary operations by the published formula), one thread"
    measured: list[Record] = []
    table = Table(title=f"{title}, {target.isa}\n{machine}")
    for heading in ("layer", "decoded", *map(_reuse, INDEX_BITS)):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in (layer for layer in BINARY_LAYERS if arguments.only in layer.name):
        s = layer.shape
        contestants = {"decoded": binary_contestant(BinaryChain.random(layer, np.random.default_rng(0)), target)}
        contestants |= {_reuse(bits): reuse_contestant(s, bits, library.additions) for bits in INDEX_BITS}
        times = seconds_a_layer(contestants, arguments.seconds)
        pixels, taps = s.out_height * s.out_width, s.kernel[0] * s.kernel[1]
        all_operations = pixels * taps * s.in_channels * s.out_channels
        cells = [
            f"{times[_reuse(bits)] * 1e6:.1f} ("
            f"{reused_operations(s.in_channels, s.out_channels, pixels, taps, bits) / all_operations:.2f})"
            for bits in INDEX_BITS
        ]
        for name, time in times.items():
            stored = "bits" if name == "decoded" else "sums"
            measured.append(Record(layer.name, s, name, target.isa.name, stored, time))
        table.add_row(layer.name, f"{times['decoded'] * 1e6:.1f}", *cells)
    console(140).print(table)
    if arguments.output:
        records.write(arguments.output, measured, machine)


if __name__ == "__main__":
    main()
