"""Convolution kernels against the machine's limits and against other engines, one thread.

Run ``python benchmarks/kernels.py``. For every layer a chain of convolutions (each output is the next input, every
link has its own weights) is timed by each contestant:

* this project's binary kernel: packed bits in, thresholded bits out, zero padding; and its float32 kernel
* OpenVINO's binary convolution, a further layer of the chain with bits between the layers
* onnxruntime, float32 and int8 (uint8 activations, int8 weights)
* the instructions that cannot be done without, on registers (probes.py)

The contestants take turns, and the fastest run counts. All of them compute the same numbers, which is checked.

With ``--target x86-64-v3`` the kernels are compiled for AVX2. Other engines choose their instructions themselves, so
the binary kernel is then compared with a plain popcount loop by vpshufb instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino_peer
import records
import tvm_ffi
from chains import BinaryChain, FloatChain, binary_contestant, float_contestant
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, FLOAT_LAYERS, Layer
from onnxruntime_peer import float_contestant as onnxruntime_float
from onnxruntime_peer import int8_contestant as onnxruntime_int8
from records import Machine, Record
from rich.console import Console
from rich.table import Table
from vpshufb_loop import vpshufb_contestant

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.profiling.limits import float_probe, popcount_probe
from sbnn_tvm.runtime.threads import use_threads
from sbnn_tvm.schedules.isa import Isa, PopcountMethod

LARQ = "Larq Compute Engine is left out: it runs models that its own converter made with TensorFlow 2.16 and numpy 1"


@dataclass(frozen=True)
class Bar:
    """A ratio of two contestants' times, and what it must reach.

    Attributes:
        name: Shown in the table.
        time: Whose time is divided.
        by: By whose time.
        least: The least ratio.
        isas: Names of the instruction sets for which it is meant; all of them if empty.
    """

    name: str
    time: str
    by: str
    least: float
    isas: tuple[str, ...] = ()

    def ratio(self, seconds: Mapping[str, float], isa: Isa) -> float | None:
        """The ratio, if both took part."""
        meant = not self.isas or isa.name in self.isas
        return seconds[self.time] / seconds[self.by] if meant and {self.time, self.by} <= seconds.keys() else None


BARS = (
    # 0.9 of what xor, popcount and add of one word after the other allow; the limit is of three words at once.
    Bar("share of the limit", "binary limit", "binary", 0.8, ("avx512-vpopcntdq",)),
    Bar("binary speed / OpenVINO", "OpenVINO binary", "binary", 1.0),
    Bar("binary speed / vpshufb loop", "vpshufb loop", "binary", 1.3, ("avx2",)),
    Bar("binary speed / ort float32", "onnxruntime float32", "binary", 18.0),
    Bar("float32 speed / ort float32", "onnxruntime float32", "float32", 0.87),
)


def contestants(layer: Layer, target: CpuTarget, others: bool) -> dict[str, Contestant]:
    """Everyone who computes a layer; ``others`` are the other engines."""
    rng = np.random.default_rng(0)
    floats = FloatChain.random(layer, rng)
    taking_part, output = {}, np.empty(0)
    taking_part["float32"], output = float_contestant(floats, target)
    if others:
        taking_part["onnxruntime float32"], means = onnxruntime_float(floats)
        np.testing.assert_allclose(output.mean(axis=(1, 2)), means, rtol=1e-3, atol=1e-4)
        taking_part["onnxruntime int8"] = onnxruntime_int8(layer, rng)
    if layer.binary:
        chain = BinaryChain.random(layer, rng)
        taking_part["binary"] = binary_contestant(chain, target)
        if others and openvino_peer.available():
            taking_part["OpenVINO binary"] = openvino_peer.binary_contestant(chain, target)
        if target.isa.popcount == PopcountMethod.LOOKUP:
            taking_part["vpshufb loop"] = vpshufb_contestant(layer.shape, rng)
    return taking_part


def measure(layer: Layer, target: CpuTarget, others: bool, seconds: float) -> list[Record]:
    """The times of a layer by every contestant, and the limits, as times of as many multiply-accumulates."""
    all_ = contestants(layer, target, others)
    limits = {"float32 limit": float_probe(target)} | ({"binary limit": popcount_probe(target)} if layer.binary else {})
    times = seconds_a_layer(all_ | {name: Contestant(probe.run) for name, probe in limits.items()}, seconds)
    for name, probe in limits.items():
        times[name] *= layer.shape.macs / probe.work
    return [Record(layer.name, layer.shape, name, target.isa.name, _stored(name), time) for name, time in times.items()]


def _stored(contestant: str) -> str:
    return "counts" if contestant == "vpshufb loop" else "bits" if "binary" in contestant else "float"


def ratios(measured: Sequence[Record], target: CpuTarget) -> dict[Bar, float]:
    """The ratios of one layer."""
    seconds = {record.kernel: record.seconds for record in measured}
    found = {bar: bar.ratio(seconds, target.isa) for bar in BARS}
    return {bar: ratio for bar, ratio in found.items() if ratio is not None}


def table(layers: Sequence[Sequence[Record]], target: CpuTarget, machine: Machine) -> Table:
    """All layers: microseconds by every contestant, then the ratios."""
    columns = list(dict.fromkeys(record.kernel for measured in layers for record in measured))
    reached = [ratios(measured, target) for measured in layers]
    bars = [bar for bar in BARS if any(bar in each for each in reached)]
    out = Table(title=f"Microseconds a layer, one thread, {target.isa}; and the bars\n{machine}")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target, machine, errors = resolve(arguments.target), Machine(), Console(stderr=True)
    others = target.isa == resolve("native").isa
    if not others:
        errors.print(f"Compiled for {target}: other engines, which use all that this machine has, are left out")
    elif not openvino_peer.available():
        errors.print(openvino_peer.MISSING)
    if others:
        errors.print(LARQ)
    use_threads(tvm_ffi, 1)
    layers = []
    for layer in (*BINARY_LAYERS, *FLOAT_LAYERS):
        if arguments.only in layer.name:
            with errors.status(layer.name):
                layers.append(measure(layer, target, others, arguments.seconds))
    Console(width=None if Console().is_terminal else 220).print(table(layers, target, machine))
    if arguments.output:
        records.write(arguments.output, [record for measured in layers for record in measured], machine)
    values = [(bar, ratio) for measured in layers for bar, ratio in ratios(measured, target).items()]
    return 0 if all(ratio >= bar.least for bar, ratio in values) else 1


if __name__ == "__main__":
    raise SystemExit(main())
