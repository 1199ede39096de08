"""What do the binarisation methods reach on the same network?

Run ``python benchmarks/methods.py`` (or ``make methods``). Each method of method_rows.py trains the network of
examples/mnist.py on 28x28 MNIST with several seeds, and its first model is compiled. PyTorch, onnxruntime and the
compiled model must agree on the whole test set. The table, and the plot of plots.py, give:

* the accuracy, with its standard error over the seeds
* the bytes of the body's weights as a file codes them, with scales; stem, head and batch norms do not count
* the size of the whole library
* the latency of the whole network on one thread, and that of the float32 network of the same architecture in
  onnxruntime; all take turns

What is finished is kept in a folder and not trained again, so that a comparison can be stopped, and filled by several
processes with different ``--only`` or ``--seeds``. A smoke test is ``--epochs 1 --seeds 0 --only signs``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from command_line import parser
from method_results import Deployment, Gain, Row, Training, deployment, markdown, replace_table, trainings, write
from networks import float_twin
from onnx import numpy_helper
from onnxruntime_peer import session
from records import Machine, write_json
from rich.console import Console
from rich.table import Column, Table
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.coding import smallest
from sbnn_tvm.frontends.onnx.opset import unpack_bits
from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.profiling.timing import interleave

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # first, because this folder has an apb.py too

import mnist
from agreement import deploy
from method_rows import METHODS, Method, Start
from training_loop import accuracy

console = Console(highlight=False)

GAINS = (
    ("general minus symmetric values at 5 %", "sbnn-5", "symmetric-5"),
    ("general minus symmetric values at 2 %", "sbnn-2", "symmetric-2"),
)
"""Comparisons seed by seed: what is compared, and two methods."""


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the body's constants without batch norms: bits in their shortest coding, all else as in the file."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    norms = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input}
    sizes = {
        name: array.nbytes
        for name, array in constants.items()
        if name.startswith("body") and name not in norms and array.dtype != np.int64  # shapes and pads
    }
    for node in model.graph.node:
        if node.op_type == "BinaryConv2d" and node.input[1] in sizes:
            (shape,) = (list(a.ints) for a in node.attribute if a.name == "weight_shape")
            bits = unpack_bits(constants[node.input[1]], shape)
            sizes[node.input[1]] = smallest(bits.reshape(len(bits), -1), shape[2] * shape[3]).nbytes
            for name in node.input[2:4]:  # an offset of 0 is not stored; equal values are stored once
                values = np.unique(constants[name])
                sizes[name] = 4 * (0 if not values.any() else 1 if len(values) == 1 else constants[name].size)
    return sum(sizes.values())


def train(method: Method, start: Start) -> None:
    """Trains a method with a seed, unless that is done; the first seed's model is deployed too."""
    folder = start.folder / method.key
    folder.mkdir(parents=True, exist_ok=True)
    done = trainings(folder).get(start.seed)
    if done is not None and done.epochs != start.epochs:
        raise SystemExit(
            f"{folder} was trained for {done.epochs} epochs, but now it is {start.epochs}: pass another --folder"
        )
    if done is not None and (start.seed != 0 or deployment(folder) is not None):
        return
    torch.manual_seed(start.seed)
    start.float_network()  # not part of the method's time
    begin = time.perf_counter()
    model = method.train(start)
    seconds = time.perf_counter() - begin
    reached = accuracy(model, mnist.load())
    console.print(f"{method.key}, seed {start.seed}: {reached:.1f} % in {seconds:.0f} s")
    if start.seed == 0:
        write(folder / "deployed.json", deployed(model, folder / "model.so"))
    write(folder / f"seed-{start.seed}.json", Training(start.seed, start.epochs, reached, seconds))


def deployed(model: nn.Module, library: Path) -> Deployment:
    """Compiles a model, compares it with onnxruntime and PyTorch on all test images, and exports it."""
    result = deploy(model, mnist.load())
    result.module.export(library)
    body = [layer for layer in result.module.report.linear if layer.name.startswith("body")]
    console.print(f"  {result}")
    return Deployment(
        weight_bytes(to_onnx(model)),
        library.stat().st_size,
        result.images,
        result.predictions,
        result.distance,
        (sum(layer.binary for layer in body), len(body)),
        tuple(dict.fromkeys(layer.kernel for layer in body)),
    )


def measure(methods: Sequence[Method], folder: Path, seconds: float) -> list[Row]:
    """Times the libraries in the folder, and the float32 networks in onnxruntime, in turns."""
    found = [(method, made) for method in methods if (made := deployment(folder / method.key)) is not None]
    image = mnist.load().test_images[:1].numpy()
    calls = {}
    for method, _ in found:
        library = sbnn_tvm.load(folder / method.key / "model.so", num_threads=1)
        calls[method.key] = partial(library.run, image)
    architectures = dict.fromkeys(method.architecture for method, _ in found)
    for architecture in architectures:
        peer = session(to_onnx(float_twin(architecture()).eval()))
        calls[architecture] = partial(peer.run, None, {"input": image})
    times = interleave(calls, seconds=seconds * len(calls))
    rows = []
    for method, made in found:
        done = trainings(folder / method.key)
        rows.append(
            Row(
                method.key,
                method.name,
                method.family,
                {seed: each.accuracy for seed, each in sorted(done.items())},
                float(np.mean([each.seconds for each in done.values()])),
                made,
                times[method.key].minimum * 1e6,
                times[method.architecture].minimum * 1e6,
            )
        )
    return rows


def gains(rows: Sequence[Row]) -> list[Gain]:
    """The comparisons of GAINS whose rows there are."""
    by_key = {row.key: row for row in rows}
    return [Gain.of(name, by_key[one], by_key[other]) for name, one, other in GAINS if {one, other} <= by_key.keys()]


def table(rows: Sequence[Row]) -> Table:
    """One row per method."""
    columns = ("accuracy %", "bytes", "library", "us", "float32 us", "faster", "equal classes", "on bits", "seconds")
    made = Table("method", *(Column(name, justify="right") for name in columns), "kernels")
    for row in rows:
        of = row.deployment
        made.add_row(
            row.name,
            row.accuracy_text,
            f"{of.weight_bytes:,}",
            f"{of.library_bytes:,}",
            f"{row.microseconds:.1f}",
            f"{row.float_microseconds:.0f}",
            f"{row.float_microseconds / row.microseconds:.1f}x",
            f"{of.equal}/{of.images}",
            f"{of.on_bits[0]}/{of.on_bits[1]}",
            f"{row.seconds:.0f}",
            ", ".join(of.kernels),
        )
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    options.add_argument(
        "--epochs", type=int, default=mnist.BINARY.epochs, help="epochs per training (default: %(default)s)"
    )
    options.add_argument("--only", nargs="+", choices=[method.key for method in METHODS], help="train only these")
    options.add_argument(
        "--folder", type=Path, default=Path("out/methods"), help="of the results (default: %(default)s)"
    )
    options.add_argument("--retime", action="store_true", help="do not train: time the libraries in the folder")
    options.add_argument("--seconds", type=float, default=2.0, help="measuring time per library (default: %(default)s)")
    options.add_argument("--docs", type=Path, help="put the table into this document, between its marks")
    return options.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Train, measure, and print a table."""
    arguments = parse(argv)
    torch.set_num_threads(1)
    if not arguments.retime:
        for seed in arguments.seeds:
            start = Start(arguments.folder, seed, arguments.epochs)
            for method in METHODS:
                if arguments.only is None or method.key in arguments.only:
                    train(method, start)
    rows = measure(METHODS, arguments.folder, arguments.seconds)
    console.print(table(rows))
    compared = gains(rows)
    for gain in compared:
        console.print(f"{gain.name}: {gain}")
    machine = Machine()
    if arguments.output is not None:
        write_json(arguments.output, {"machine": asdict(machine), "methods": [asdict(row) for row in rows]})
    if arguments.docs is not None:
        replace_table(arguments.docs, markdown(rows, compared, str(machine)))
    return rows


if __name__ == "__main__":
    main()
