"""What do a few float weights in a binary layer cost (APB)?

Run ``python benchmarks/apb.py``. 3x3 convolutions with zero padding end in a batch norm and a binariser, and store
packed bits. Two versions take turns on one thread, and the fastest run counts:

* pure binary: a popcount kernel with folded thresholds
* APB: a popcount kernel that stores floats ("signs"), then a sparse float kernel for the float weights (the
  residual), which adds these floats

The columns in per cent give the time of the residual kernel for that share of float weights. In brackets is the time
of both parts relative to the pure binary layer. "dense float" is a float32 layer of the same size. Sparse results are
compared with dense ones. The exit code is 1 if the bar is missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import records
from chains import kernel_contestant
from command_line import console, layer_parser
from contestant import seconds_a_layer
from layers import BINARY_LAYERS, Layer, square
from records import Machine, Record
from rich.table import Table

from sbnn_tvm.algebra.domain import SIGN, Domain, Levels
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    FloatOutput,
    IntegerThreshold,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.layouts.words import pack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d

SHARES = (0.001, 0.005, 0.01, 0.02, 0.05)
LAYERS = (square(12, 256), *BINARY_LAYERS)
PURE, SIGNS, DENSE = "pure binary", "signs", "dense float"
MOST = 2.0
"""The bar: time of a layer with 1 % float weights over the pure one, for 256 outputs, K = 2304 and 144 pixels."""


def measure(layer: Layer, target: CpuTarget, bits: int, seconds: float) -> list[Record]:
    """Time a layer with each share of float weights; ``bits`` are the bits per activation."""
    rng, isa, s = np.random.default_rng(0), target.isa, layer.shape
    domain: Domain = SIGN if bits == 1 else Levels(tuple(range(1 << bits)))
    codes = rng.integers(0, 1 << bits, (s.batch, s.height, s.width, s.in_channels))
    data, x = pack_codes(codes, bits, isa), domain.values[codes]
    signs = rng.integers(0, 2, (s.out_channels, s.in_channels, *s.kernel)).astype(bool)
    latent = rng.standard_normal(signs.shape).astype(np.float32)
    alpha, k, t = (Channel(rng.random(s.out_channels).astype(np.float32)) for _ in range(3))
    scaled = Program((Step("multiply", Ref(0), alpha),), (FloatOutput(Ref(1)),))
    steps = (Step("add", Tensor(0), Ref(0)), Step("multiply", Ref(1), k), Step("subtract", Ref(2), t))
    rest = Program(steps, (BitsOutput(Ref(3), Scalar(0.0)),))
    threshold = IntegerThreshold(np.zeros(s.out_channels, np.int64), np.zeros(s.out_channels, bool))

    binary = popcount_conv2d(s, signs, 0, scaled, isa, bits=bits)
    by_signs, (floats,) = kernel_contestant(binary, [data], target)
    contestants = {
        PURE: kernel_contestant(popcount_conv2d(s, signs, 0, threshold, isa, bits=bits), [data], target)[0],
        SIGNS: by_signs,
        DENSE: kernel_contestant(float_conv2d(s, latent, STORE, isa), [x], target)[0],
    }
    for share in SHARES:
        weight = np.where(rng.random(latent.shape) < share, latent, 0)
        _check(s, weight, x, data, domain, target)
        kernel = sparse_float_conv2d(s, weight, rest, isa, domain)
        contestants[f"residual {share:.1%}"] = kernel_contestant(kernel, [data, floats.numpy()], target)[0]
    times = seconds_a_layer(contestants, seconds)
    density = {f"residual {share:.1%}": share for share in SHARES}
    return [
        Record(f"{layer.name}, {bits} bits", s, name, isa.name, _stores(name), time, density.get(name))
        for name, time in times.items()
    ]


def _stores(name: str) -> str:
    return "float" if name in (SIGNS, DENSE) else "bits"


def _check(
    s: Conv2dShape, weight: np.ndarray, x: np.ndarray, data: np.ndarray, domain: Domain, target: CpuTarget
) -> None:
    """Check the sparse float kernel against the dense one."""
    kernels = sparse_float_conv2d(s, weight, STORE, target.isa, domain), float_conv2d(s, weight, STORE, target.isa)
    results = []
    for kernel, source in zip(kernels, (data, x), strict=True):
        contestant, (out,) = kernel_contestant(kernel, [source], target)
        contestant.run()
        results.append(out.numpy())
    np.testing.assert_allclose(*results, rtol=0, atol=1e-5 * np.abs(results[1]).max())


def ratio(measured: Sequence[Record], share: float) -> float:
    """The time of both parts together, relative to the pure binary layer."""
    seconds = {record.kernel: record.seconds for record in measured}
    return (seconds[SIGNS] + seconds[f"residual {share:.1%}"]) / seconds[PURE]


def table(layers: Sequence[Sequence[Record]], target: CpuTarget, machine: Machine) -> Table:
    """One row per layer: microseconds, and the time of both parts relative to the pure binary layer."""
    title = f"Microseconds (both parts relative to the pure binary layer), one thread, {target.isa}"
    out = Table(title=f"{title}\n{machine}")
    for heading in ("layer", PURE, SIGNS, *(f"{share:.1%}" for share in SHARES), DENSE):
        out.add_column(heading, justify="left" if heading == "layer" else "right")
    for measured in layers:
        seconds = {record.kernel: record.seconds * 1e6 for record in measured}
        rest = [f"{seconds[f'residual {share:.1%}']:.1f} ({ratio(measured, share):.2f})" for share in SHARES]
        cells = [f"{seconds[name]:.1f}" for name in (PURE, SIGNS, DENSE)]
        out.add_row(measured[0].layer, *cells[:2], *rest, cells[2])
    return out


def main() -> int:
    """Measure every layer; the exit code is 1 if the bar is missed."""
    parser = layer_parser(__doc__, seconds=3.0)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2], help="bits per activation")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(1)
    chosen = [(layer, bits) for bits in arguments.bits for layer in LAYERS if arguments.only in layer.name]
    layers = [measure(layer, target, bits, arguments.seconds) for layer, bits in chosen]
    out = console()
    out.print(table(layers, target, machine))
    if arguments.output:
        records.write(arguments.output, [record for measured in layers for record in measured], machine)
    judged = [each for (layer, _), each in zip(chosen, layers, strict=True) if layer is LAYERS[0]]
    missed = [each for each in judged if ratio(each, 0.01) > MOST]
    for measured in missed:
        out.print(
            f"[red]FAIL {measured[0].layer}: {ratio(measured, 0.01):.2f} times the pure layer, more than {MOST}[/]"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
