"""Plots of the benchmarks' results.

Run ``python benchmarks/plots.py`` after benchmarks that wrote their results to out/*.json. It writes these plots to
out/plots, as PNG and as SVG:

* ``speed-ISA``: multiply-accumulates per second of the convolution kernels, and the limits of the machine
* ``density-ISA``: the time of a layer against its share of set weights, with the dense kernels for comparison
* ``networks``: the times of whole networks, with onnxruntime for comparison
* ``methods``: the accuracy of the methods against bytes and against time
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import method_plot
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from method_results import Row
from records import Machine, Record, read

# Colours that most colour-blind readers can tell apart (Okabe and Ito); sbnn_tvm has the strongest.
_OURS = "#0072B2"
_COLOURS = {
    "binary": _OURS,
    "float32": "#56B4E9",
    "OpenVINO binary": "#E69F00",
    "vpshufb loop": "#F0E442",
    "onnxruntime float32": "#999999",
    "onnxruntime int8": "#CC79A7",
}
_MORE_COLOURS = ("#D55E00", "#009E73", "#000000", "#8C564B")


@dataclass(frozen=True)
class Latency:
    """The time of a network in one engine, in milliseconds."""

    network: str
    engine: str
    milliseconds: float


def speed(records: Sequence[Record], machine: Machine) -> Figure:
    """Multiply-accumulates per second of every contestant; one panel for bits, one for floats and int8."""
    panels = [_dense(records, bits=True), _dense(records, bits=False)]
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for axis, panel, kind in zip(axes, panels, ("binary", "float32"), strict=True):
        _bars_below_a_limit(axis, panel, f"{kind} limit")
        axis.set_title("Binary layers" if kind == "binary" else "float32 and int8")
    figure.suptitle(f"Convolutions on one thread, {records[0].isa}: {machine}")
    return figure


def _dense(records: Sequence[Record], bits: bool) -> list[Record]:
    binary = ("binary", "OpenVINO binary", "vpshufb loop", "binary limit")
    return [record for record in records if record.density is None and (record.kernel in binary) == bits]


def _bars_below_a_limit(axis: Axes, records: Sequence[Record], limit: str) -> None:
    layers = list(dict.fromkeys(record.layer for record in records))
    kernels = [name for name in dict.fromkeys(record.kernel for record in records) if name != limit]
    kernels.sort(key=lambda name: list(_COLOURS).index(name) if name in _COLOURS else len(_COLOURS))
    width = 0.8 / max(len(kernels), 1)
    speeds = {(record.layer, record.kernel): record.macs_per_second * 1e-9 for record in records}
    for i, layer in enumerate(layers):
        for j, kernel in enumerate(kernels):
            if (layer, kernel) not in speeds:
                continue
            value, x = speeds[layer, kernel], i - 0.4 + (j + 0.5) * width
            axis.bar(x, value, width * 0.94, color=_COLOURS.get(kernel), label=_label(kernel) if i == 0 else None)
            # On white, because the line of the limit may cross it.
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
            number = axis.annotate(
                f"{value:.0f}", (x, value), (0, 3), textcoords="offset points", ha="center", fontsize=8, bbox=white
            )
            number.set_zorder(3)
        if (layer, limit) in speeds:
            label = f"{limit} of the machine" if i == 0 else "_"  # matplotlib hides this name in legends
            axis.hlines(speeds[layer, limit], i - 0.45, i + 0.45, colors="black", linestyles="--", label=label)
    axis.set_xticks(range(len(layers)), [_two_lines(layer) for layer in layers], fontsize=8)
    axis.set_ylabel("10$^9$ multiply-accumulates per second")
    axis.margins(y=0.22)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", ncols=2, fontsize=8, frameon=False)


def _label(kernel: str) -> str:
    return f"sbnn_tvm {kernel}" if kernel in ("binary", "float32") else kernel


def _two_lines(layer: str) -> str:
    kernel, _, rest = layer.partition(" ")
    return f"{kernel} {rest}" if len(rest) < 10 else f"{kernel}\n{rest.replace(' ', chr(10))}"


def density(records: Sequence[Record], machine: Machine) -> Figure:
    """Microseconds against the share of set weights, one panel per layer; dense kernels are horizontal lines."""
    layers = list(dict.fromkeys(record.layer for record in records if record.density is not None))
    columns = min(len(layers), 2)
    rows = -(-len(layers) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.5 * columns, 4.2 * rows), layout="constrained", squeeze=False, sharex=True
    )
    names = dict.fromkeys(
        (record.kernel, record.epilogue)
        for record in records
        if record.layer in layers and "float32" not in record.kernel
    )
    colours = dict(zip(names, (_OURS, "#E69F00", "#CC79A7", *_MORE_COLOURS) * 3, strict=False))
    for axis, layer in zip(axes.flat, layers, strict=False):
        measured = [record for record in records if record.layer == layer and "float32" not in record.kernel]
        for (kernel, epilogue), colour in colours.items():
            of_kernel = [each for each in measured if (each.kernel, each.epilogue) == (kernel, epilogue)]
            label = kernel if epilogue == "bits" or kernel.endswith(" limit") else f"{kernel}, {epilogue}"
            points = sorted((each.density, each.seconds * 1e6) for each in of_kernel if each.density is not None)
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
            for each in of_kernel:
                if each.density is None:
                    style = ":" if kernel.endswith(" limit") else "--"
                    axis.axhline(each.seconds * 1e6, linestyle=style, color=colour, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        shares = sorted({each.density for each in measured if each.density is not None})
        axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axis.minorticks_off()
        low, high = axis.get_ylim()
        ticks = [value for value in _ONE_TWO_FIVE if low <= value <= high]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_title(layer, fontsize=10)
        axis.grid(alpha=0.25)
        axis.set_xlabel("set weights")
        axis.set_ylabel("us")
        axis.legend(fontsize=8, frameon=False)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    figure.suptitle(f"Time of a layer against its density, one thread, {records[0].isa}: {machine}")
    return figure


_ONE_TWO_FIVE = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]


def networks(latencies: Sequence[Latency], machine: Machine) -> Figure:
    """The time of every network relative to onnxruntime float32, with milliseconds next to the bars."""
    names = list(dict.fromkeys(latency.network for latency in latencies))
    engines = list(dict.fromkeys(latency.engine for latency in latencies))
    colours = {"sbnn_tvm": _OURS, **_COLOURS}
    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.75 * len(names)), layout="constrained")
    times = {(latency.network, latency.engine): latency.milliseconds for latency in latencies}
    height = 0.8 / len(engines)
    for i, name in enumerate(names):
        base = times[name, "onnxruntime float32"]
        for j, engine in enumerate(engines):
            value, y = times[name, engine], i - 0.4 + (j + 0.5) * height
            axis.barh(y, value / base, height * 0.92, color=colours[engine], label=engine if i == 0 else None)
            faster = f"  {value:.2f} ms" + (f", {base / value:.1f}x" if value != base else "")
            axis.text(value / base, y, faster, va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("time, onnxruntime float32 = 1")
    axis.set_xlim(0, 1.18)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(engines), frameon=False)
    figure.suptitle(f"Networks, batch 1, one thread: {machine}", x=0.02, ha="left", fontsize=10)
    return figure


def read_networks(content: dict) -> tuple[Machine, list[Latency]]:
    """The results of networks.py."""
    engines = {"ours": "sbnn_tvm", "int8": "onnxruntime int8", "float32": "onnxruntime float32"}
    latencies = [
        Latency(network["name"], engine, network[key]["minimum"] * 1e3)
        for network in content["networks"]
        for key, engine in engines.items()
    ]
    return Machine(**content["machine"]), latencies


def figures(files: Iterable[Path]) -> dict[str, Figure]:
    """All plots that the files have data for, by name."""
    made: dict[str, Figure] = {}
    for path in files:
        content = json.loads(path.read_text())
        if content.get("networks"):
            machine, latencies = read_networks(content)
            made["networks"] = networks(latencies, machine)
        if content.get("methods"):
            rows = [Row.from_json(fields) for fields in content["methods"]]
            made["methods"] = method_plot.methods(rows, Machine(**content["machine"]))
        if "records" not in content:
            continue
        machine, records = read(path)
        for isa in dict.fromkeys(record.isa for record in records):
            of_isa = [record for record in records if record.isa == isa]
            if any(record.density is not None for record in of_isa):
                made[f"density-{isa}"] = density(of_isa, machine)
            else:
                made[f"speed-{isa}"] = speed(of_isa, machine)
    return made


def main() -> None:
    """Read the results and write the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="JSON files of benchmarks (default: out/*.json)")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/plots"), help="where to write the plots (default: %(default)s)"
    )
    arguments = parser.parse_args()
    made = figures(arguments.files or sorted(Path("out").glob("*.json")))
    if not made:
        raise SystemExit(
            "no results to plot: run kernels.py, networks.py or methods.py with --output out/NAME.json first"
        )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, figure in made.items():
        for suffix in ("png", "svg"):
            figure.savefig(arguments.folder / f"{name}.{suffix}", dpi=130)
        print(arguments.folder / f"{name}.png")


if __name__ == "__main__":
    main()
