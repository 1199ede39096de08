"""How fast are single convolutions, compared with the machine's limits and with other engines?

Run ``python benchmarks/kernels.py``. For every layer a chain of convolutions is timed on one thread; each output is
the next input, and every convolution has its own weights. The contestants take turns, and the fastest run counts:

* binary: the popcount kernel of this project, packed bits in, thresholded bits out, zero padding
* float32: the float kernel of this project
* int8: the kernel of this project on bytes; uint8 activations, int8 weights
* OpenVINO binary: its binary convolution, with bits between the layers; the first layer is subtracted
* onnxruntime float32 and int8
* OpenVINO int8: the graph of onnxruntime int8, with QuantizeLinear and DequantizeLinear; the first layer is subtracted
* limit: a loop of the instructions that the layer cannot avoid, on registers (probes.py)

The binary outputs are compared with float convolutions, and the others with those of onnxruntime.

With ``--target x86-64-v3`` the kernels are compiled for AVX2. Other engines choose their instructions themselves, so
the binary kernel is then compared with a plain popcount loop by vpshufb (vpshufb_loop.c).

The table gives microseconds per layer, then ratios with their bars. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import openvino_peer
import records
from chains import BinaryChain, FloatChain, Int8Chain, binary_contestant, float_contestant, int8_contestant
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, FLOAT_LAYERS, Layer
from onnxruntime_peer import float_contestant as onnxruntime_float
from onnxruntime_peer import int8_contestant as onnxruntime_int8
from records import Machine, Record
from rich.console import Console
from rich.table import Table
from vpshufb_loop import vpshufb_contestant

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.profiling.limits import float_probe, integer_probe, popcount_probe
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.isa import Isa, PopcountMethod

LARQ = "Larq Compute Engine is left out: its interpreter and converter need numpy 1 and TensorFlow 2.16"


@dataclass(frozen=True)
class Bar:
    """A ratio of the times of two contestants, and its least allowed value.

    Attributes:
        name: Its name in the table.
        time: The contestant whose time is the numerator.
        by: The contestant whose time is the denominator.
        least: The least allowed ratio.
        isas: Names of the instruction sets that it applies to; all if empty.
    """

    name: str
    time: str
    by: str
    least: float
    isas: tuple[str, ...] = ()

    def ratio(self, seconds: Mapping[str, float], isa: Isa) -> float | None:
        """The ratio; None if the bar does not apply or a contestant is missing."""
        meant = not self.isas or isa.name in self.isas
        return seconds[self.time] / seconds[self.by] if meant and {self.time, self.by} <= seconds.keys() else None


BARS = (
    # The limit is that of popcounts of three words at once. With one word at a time this bar would be 0.9.
    Bar("share of the limit", "binary limit", "binary", 0.8, ("avx512-vpopcntdq",)),
    Bar("binary speed / OpenVINO", "OpenVINO binary", "binary", 1.0),
    Bar("binary speed / vpshufb loop", "vpshufb loop", "binary", 1.3, ("avx2",)),
    Bar("binary speed / ort float32", "onnxruntime float32", "binary", 18.0),
    Bar("int8 share of the limit", "int8 limit", "int8", 0.75),
    Bar("int8 speed / ort int8", "onnxruntime int8", "int8", 1.0),
    Bar("int8 speed / OpenVINO int8", "OpenVINO int8", "int8", 1.0),
    Bar("float32 speed / ort float32", "onnxruntime float32", "float32", 0.87),
)


def contestants(layer: Layer, target: CpuTarget, others: bool) -> dict[str, Contestant]:
    """All contestants of a layer, by name; with ``others`` also other engines. Their outputs are compared."""
    rng = np.random.default_rng(0)
    floats, bytes_ = FloatChain.random(layer, rng), Int8Chain.random(layer, rng)
    taking_part, output = {}, np.empty(0)
    taking_part["float32"], output = float_contestant(floats, target)
    taking_part["int8"], codes = int8_contestant(bytes_, target)
    if others:
        taking_part["onnxruntime float32"], means = onnxruntime_float(floats)
        np.testing.assert_allclose(output.mean(axis=(1, 2)), means, rtol=1e-3, atol=1e-4)
        taking_part["onnxruntime int8"], mean_codes = onnxruntime_int8(bytes_)
        np.testing.assert_allclose(codes.mean(axis=(1, 2)), mean_codes, rtol=0, atol=0.51)  # a mean is rounded
        if openvino_peer.available():
            taking_part["OpenVINO int8"], theirs = openvino_peer.int8_contestant(bytes_)
            np.testing.assert_allclose(codes, theirs, rtol=0, atol=layer.links)  # it rounds otherwise
    if layer.binary:
        chain = BinaryChain.random(layer, rng)
        taking_part["binary"] = binary_contestant(chain, target)
        if others and openvino_peer.available():
            taking_part["OpenVINO binary"] = openvino_peer.binary_contestant(chain, target)
        if target.isa.popcount == PopcountMethod.LOOKUP:
            taking_part["vpshufb loop"] = vpshufb_contestant(layer.shape, rng)
    return taking_part


def measure(layer: Layer, target: CpuTarget, others: bool, seconds: float) -> list[Record]:
    """Time a layer by every contestant, and the limits, scaled to the multiply-accumulates of the layer."""
    all_ = contestants(layer, target, others)
    limits = {"float32 limit": float_probe(target), "int8 limit": integer_probe(target)}
    limits |= {"binary limit": popcount_probe(target)} if layer.binary else {}
    times = seconds_a_layer(all_ | {name: Contestant(probe.run) for name, probe in limits.items()}, seconds)
    for name, probe in limits.items():
        times[name] *= layer.shape.macs / probe.work
    return [Record(layer.name, layer.shape, name, target.isa.name, _stored(name), time) for name, time in times.items()]


def _stored(contestant: str) -> str:
    if "int8" in contestant:
        return "bytes"
    return "counts" if contestant == "vpshufb loop" else "bits" if "binary" in contestant else "float"


def ratios(measured: Sequence[Record], target: CpuTarget) -> dict[Bar, float]:
    """The bars that apply to one layer, and its ratios."""
    seconds = {record.kernel: record.seconds for record in measured}
    found = {bar: bar.ratio(seconds, target.isa) for bar in BARS}
    return {bar: ratio for bar, ratio in found.items() if ratio is not None}


def table(layers: Sequence[Sequence[Record]], target: CpuTarget, machine: Machine) -> Table:
    """One row per layer: microseconds of every contestant, then the ratios."""
    columns = list(dict.fromkeys(record.kernel for measured in layers for record in measured))
    reached = [ratios(measured, target) for measured in layers]
    bars = [bar for bar in BARS if any(bar in each for each in reached)]
    out = Table(title=f"Microseconds per layer and bars, one thread, {target.isa}\n{machine}")
    out.add_column("layer")
    for column in columns:
        out.add_column(column, justify="right")
    for bar in bars:
        out.add_column(f"{bar.name}\n>= {bar.least}", justify="right")
    for measured, values in zip(layers, reached, strict=True):
        seconds = {record.kernel: record.seconds for record in measured}
        cells = [f"{seconds[column] * 1e6:.1f}" if column in seconds else "-" for column in columns]
        for bar in bars:
            if bar in values:
                passed = values[bar] >= bar.least
                cells.append(f"[{'green' if passed else 'red'}]{values[bar]:.2f} {'pass' if passed else 'FAIL'}[/]")
            else:
                cells.append("-")
        out.add_row(measured[0].layer, *cells)
    return out


def main() -> int:
    """Measure every layer; the exit code is 1 if a bar is missed."""
    arguments = layer_parser(__doc__, seconds=10.0).parse_args()
    target, machine, errors = resolve(arguments.target), Machine(), Console(stderr=True)
    others = target.isa == resolve("native").isa
    if not others:
        errors.print(
            f"Compiled for {target}: other engines are left out, since they use all instructions of this machine"
        )
    elif not openvino_peer.available():
        errors.print(openvino_peer.MISSING)
    if others:
        errors.print(LARQ)
    use_threads(1)
    layers = []
    for layer in (*BINARY_LAYERS, *FLOAT_LAYERS):
        if arguments.only in layer.name:
            with errors.status(layer.name):
                layers.append(measure(layer, target, others, arguments.seconds))
    console(220).print(table(layers, target, machine))
    if arguments.output:
        records.write(arguments.output, [record for measured in layers for record in measured], machine)
    values = [(bar, ratio) for measured in layers for bar, ratio in ratios(measured, target).items()]
    return 0 if all(ratio >= bar.least for bar, ratio in values) else 1


if __name__ == "__main__":
    raise SystemExit(main())
