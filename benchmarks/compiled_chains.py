"""How fast are sparse layers as the compiler builds them, compared with popcounts?

Run ``python benchmarks/compiled_chains.py``. A model of 3x3 convolutions, each followed by a batch norm and a
binariser, is compiled twice by ``sbnn_tvm.compile``: with the kernels of the cost model, and with ``kernels={"*":
"popcount"}``. A small share of the weights, at random positions, takes the larger value. The time of a model with the
first layer alone is subtracted, and with it the cost of both ends of the model. Every build is verified against
onnxruntime first.

The table gives microseconds per layer by both builds, and their ratio ("faster").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import records
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.table import Table
from torch import manual_seed, nn

import sbnn_tvm
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, Bits, Signs, TwoValues
from sbnn_tvm.frontends.torch.layers.domains import WeightDomain
from sbnn_tvm.runtime.threads import use_threads

DOMAINS: Mapping[str, WeightDomain] = {"{0, 1}": Bits(), "{-1, +1}": Signs(), "{a, b}": TwoValues("layer", "unit")}
"""Weight domains by their names in the table; a is 0.04 and b is -0.7."""

FORCED: Mapping[str, Mapping[str, str] | None] = {"": None, ", popcount": {"*": "popcount"}}
"""The kernels that the cost model chooses, and popcounts only: suffix of the name in records, argument of compile."""


def network(layer: Layer, domain: WeightDomain, density: float) -> nn.Module:
    """Convolutions with batch norm and binariser; the thresholds are near the middle of the sums."""
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
    """A compiled and verified chain.

    Args:
        layer: The layer that the chain repeats.
        domain: Its weight domain.
        density: Share of weights with the larger value.
        target: To compile for.
        forced: A key of ``FORCED``.
    """
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
    """Time a layer with all weight domains and densities."""
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
    """One row per layer, weight domain and density: the chosen kernels compared with popcounts."""
    out = Table(title=f"Compiled chains, us per layer, one thread, {target}, {machine}")
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
    parser = layer_parser(__doc__, seconds=10.0)
    parser.add_argument("--densities", type=float, nargs="+", default=(0.05,), help="shares of set weights")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    use_threads(1)
    measured: list[Record] = []
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name:
            measured += measure(layer, target, arguments.densities, arguments.seconds)
    console().print(table(measured, target, machine))
    if arguments.output:
        records.write(arguments.output, measured, machine)


if __name__ == "__main__":
    main()
