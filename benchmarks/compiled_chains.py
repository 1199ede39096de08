"""Chains of binary layers as the compiler builds them, for all kinds of weights, against the same on popcounts.

Run ``python benchmarks/compiled_chains.py``. A model of 3x3 convolutions, each with a batch norm and a binariser behind
it, goes the whole way through ``sbnn_tvm.compile``, and once more with ``kernels={"*": "popcount"}``. Few weights, at
random positions, take the larger value. A chain of the first layer alone is taken off, and with it what both ends cost.
Every build is verified against onnxruntime before it is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import records
import tvm_ffi
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.console import Console
from rich.table import Table
from torch import manual_seed, nn

import sbnn_tvm
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, Bits, Signs, TwoValues
from sbnn_tvm.frontends.torch.layers.domains import WeightDomain
from sbnn_tvm.runtime.threads import use_threads

DOMAINS: Mapping[str, WeightDomain] = {"{0, 1}": Bits(), "{-1, +1}": Signs(), "{a, b}": TwoValues("layer", "unit")}
"""Weights by what the tables call them; a and b are 0.04 and -0.7."""

FORCED: Mapping[str, Mapping[str, str] | None] = {"": None, ", popcount": {"*": "popcount"}}


def network(layer: Layer, domain: WeightDomain, density: float) -> nn.Module:
    """Convolutions between binarisers, with thresholds near the middle of the sums."""
    manual_seed(0)
    modules: list[nn.Module] = [Binarize(layer.shape.in_channels)]
    for s in layer.shapes:
        conv = BinaryConv2d(s.in_channels, s.out_channels, s.kernel, padding=s.padding[0], domain=domain)
        nn.init.uniform_(conv.weight, density - 1, density)
        if isinstance(domain, TwoValues):
            nn.init.constant_(conv.values.tau, 0.37)
            nn.init.constant_(conv.values.phi, -0.33)
        norm = nn.BatchNorm2d(s.out_channels)
        nn.init.normal_(norm.running_mean, std=4.0)
        nn.init.uniform_(norm.running_var, 2.0, 9.0)
        modules += [conv, norm, Binarize(s.out_channels)]
    return nn.Sequential(*modules).eval()


def chain(layer: Layer, domain: WeightDomain, density: float, target: CpuTarget, forced: str) -> Contestant:
    """A contestant of ``FORCED``."""
    s = layer.shape
    image = np.random.default_rng(0).standard_normal((s.batch, s.in_channels, s.height, s.width), np.float32)
    runs = []
    for each in (layer, replace(layer, links=1)):
        module = sbnn_tvm.compile(
            network(each, domain, density), target, input_shape=image.shape, kernels=FORCED[forced]
        )
        if not (verification := module.verify()).passed:
            raise SystemExit(f"{layer.name}{forced}: {verification}")
        runs.append(lambda run=module.run: run(image))
    return Contestant(runs[0], layer.links, runs[1])


def measure(layer: Layer, target: CpuTarget, densities: Sequence[float], seconds: float) -> list[Record]:
    """The times of a layer with all kinds of weights."""
    contestants = {
        (f"{name}{forced}", density): chain(layer, domain, density, target, forced)
        for density in densities
        for name, domain in DOMAINS.items()
        for forced in FORCED
    }
    times = seconds_a_layer({repr(key): contestant for key, contestant in contestants.items()}, seconds)
    return [
        Record(layer.name, layer.shape, name, target.isa.name, "bits", times[repr((name, density))], density)
        for name, density in contestants
    ]


def table(measured: Sequence[Record], target: CpuTarget, machine: Machine) -> Table:
    """One row for a kind of weights, by both kernels."""
    out = Table(title=f"Layers of compiled chains, us, one thread, {target}, {machine}")
    for heading in ("layer", "weights", "density", "us", "by popcounts", "faster"):
        out.add_column(heading, justify="left" if heading in ("layer", "weights") else "right")
    seconds = {(record.layer, record.kernel, record.density): record.seconds for record in measured}
    for record in measured:
        if record.kernel in DOMAINS:
            other = seconds[record.layer, f"{record.kernel}, popcount", record.density]
            times = (f"{record.seconds * 1e6:.1f}", f"{other * 1e6:.1f}", f"{other / record.seconds:.2f}")
            out.add_row(record.layer, record.kernel, f"{record.density:.1%}", *times)
    return out


def main() -> None:
    """Measure every layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time a layer (default: %(default)s)")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--densities", type=float, nargs="+", default=(0.05,), help="shares of set weights")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(tvm_ffi, 1)
    measured: list[Record] = []
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name:
            measured += measure(layer, target, arguments.densities, arguments.seconds)
    Console(width=160).print(table(measured, target, machine))
    if arguments.output:
        records.write(arguments.output, measured, machine)


if __name__ == "__main__":
    main()
