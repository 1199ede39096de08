"""What do the binarisation methods reach on the same small network?

Run ``python benchmarks/methods.py`` (or ``make methods``). Each method trains the same network on digits with several
seeds, by the protocol of examples/digits.py, and is compiled. PyTorch, onnxruntime and the compiled model must agree on
the whole test set. The table, and the plot of plots.py, give:

* the accuracy, with its standard error over the seeds
* the bytes of the body's weights as a file codes them, with scales; stem, head and batch norms do not count
* the latency of the whole network on one thread; all methods take turns. With 8x8 pixels and 16 channels it consists
  mostly of calls; networks.py has networks of real size

To add a method, add an entry to ``METHODS``: a name, and a function that trains a model from a seed for a number of
epochs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from command_line import parser
from onnx import numpy_helper
from records import Machine, write_json
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.coding import smallest
from sbnn_tvm.frontends.onnx.opset import unpack_bits
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    ScaledSigns,
    SubBit,
    Symmetric,
    TwoBits,
    WeightDomain,
    quantize_,
    to_onnx,
)
from sbnn_tvm.profiling.timing import interleave

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # first, because this folder has an apb.py too

import adabin
import apb
import claims
import digits
import mixbin
import sbnn
import siman
import training_loop
from agreement import deploy

console = Console(highlight=False)


@dataclass(frozen=True)
class Method:
    """A method to train a network.

    Attributes:
        name: Its name in tables and plots.
        train: Takes a seed and a number of epochs; returns the trained model in eval mode.
    """

    name: str
    train: Callable[[int, int], nn.Module]


def plain(layer: digits.Layer, seed: int, epochs: int) -> nn.Module:
    """Train by the protocol of digits.py, with ``layer`` in the body."""
    torch.manual_seed(seed)
    return training_loop.train(digits.tiny_network(layer), digits.load(), training_loop.Recipe(epochs=epochs), seed)


def without_training(seed: int, epochs: int) -> nn.Module:
    """Train the float network, then replace its weights by the nearest two values per channel."""
    model = plain(digits.float_layer, seed, epochs)
    quantize_(model, calibration=digits.load().train_images)
    return model


def partly_binary(seed: int, epochs: int) -> nn.Module:
    """Let a greedy search choose the binary layers, then train from scratch; ``epochs`` is ignored."""
    return mixbin.from_scratch(mixbin.search("greedy", seed).binary, seed)


def few_in_float(decay: float, seed: int, epochs: int) -> nn.Module:
    """Train the float network, then continue with binary weights of which a few stay float."""
    data = digits.load()
    return apb.tuned(apb.apb_network(apb.pretrained(data, seed)), data, decay, seed, epochs)


def with_domain(weights: WeightDomain, activations: Callable[[], nn.Module], seed: int, epochs: int) -> nn.Module:
    """Train by the protocol of digits.py, with other weights and activations in the body."""
    layer = partial(BinaryConv2d, kernel_size=3, padding=1, domain=weights)
    return plain(lambda inputs, outputs: layer(inputs, outputs, binarize=activations()), seed, epochs)


METHODS = (
    Method("float32", partial(plain, digits.float_layer)),
    Method("{-a, +a}", partial(plain, digits.binary_layer)),
    Method("SBNN, 50 %", lambda seed, epochs: sbnn.train_sparse(0.5, seed=seed, epochs=epochs)),
    Method("SBNN, 10 %", lambda seed, epochs: sbnn.train_sparse(0.1, seed=seed, epochs=epochs)),
    Method("SBNN, 5 %", lambda seed, epochs: sbnn.train_sparse(0.05, seed=seed, epochs=epochs)),
    Method("SBNN, 2 %", lambda seed, epochs: sbnn.train_sparse(0.02, seed=seed, epochs=epochs)),
    Method("SiMaN", lambda seed, epochs: siman.train(siman.Magnitudes(), seed, epochs)),
    Method("AdaBin", lambda seed, epochs: adabin.train(seed=seed, epochs=epochs)),
    Method("Sub-bit, 4/9 bit per weight", partial(with_domain, SubBit(4), Binarize)),
    Method("APB, weight decay 0.001", partial(few_in_float, 1e-3)),
    Method("2-bit activations", partial(with_domain, ScaledSigns(), partial(Symmetric, 2, 0.4, learned=True))),
    Method("2-bit activations and weights", partial(with_domain, TwoBits(), partial(Symmetric, 2, 0.4, learned=True))),
    Method("MixBin-style, half the cost", partly_binary),
    Method("two-valued weights, float activations, not trained", without_training),
)


@dataclass(frozen=True)
class Result:
    """The result of a method.

    Attributes:
        method: Name of the method.
        accuracy, error: Per cent of the test images: mean over the seeds, and its standard error.
        nbytes: Size of the body's weights.
        microseconds: Latency of one image.
    """

    method: str
    accuracy: float
    error: float
    nbytes: int
    microseconds: float = math.nan


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the body's layers: bits in their shortest coding, everything else as it is in the file."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sizes = {
        name: array.nbytes
        for name, array in constants.items()
        if name.startswith("body") and ".layer" in name and array.dtype != np.int64  # shapes and pads
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


def train(methods: tuple[Method, ...], seeds: int, epochs: int, folder: Path) -> None:
    """Train and deploy methods; libraries and results are written to the folder, other files there are kept."""
    data = digits.load()
    for method in methods:
        models = [method.train(seed, epochs) for seed in track(range(seeds), method.name, console=console)]
        accuracy = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        agreement = deploy(models[0], data)
        console.print(f"{accuracy} %; {agreement}")
        place = folder / str(METHODS.index(method))
        agreement.module.export(place.with_suffix(".so"))
        result = Result(method.name, accuracy.value, accuracy.error, weight_bytes(to_onnx(models[0])))
        place.with_suffix(".json").write_text(json.dumps(asdict(result)))


def time(folder: Path) -> list[Result]:
    """Time the libraries in the folder, in turns."""
    places = [place for index in range(len(METHODS)) if (place := folder / f"{index}.json").exists()]
    results = [Result(**json.loads(place.read_text())) for place in places]
    image = digits.load().test_images[:1].numpy()
    libraries = [sbnn_tvm.load(place.with_suffix(".so"), num_threads=1) for place in places]
    calls = {each.method: partial(library.run, image) for each, library in zip(results, libraries, strict=True)}
    times = interleave(calls, seconds=2.0 * len(calls))
    return [replace(result, microseconds=times[result.method].minimum * 1e6) for result in results]


def table(results: list[Result]) -> Table:
    """One row per method."""
    made = Table("method", *(Column(name, justify="right") for name in ("accuracy %", "bytes", "us per image")))
    for each in results:
        made.add_row(
            each.method, f"{each.accuracy:.1f} +- {each.error:.1f}", f"{each.nbytes:,}", f"{each.microseconds:.1f}"
        )
    return made


def main() -> None:
    """Train, measure, and print a table."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3, help="trainings per method (default: %(default)s)")
    options.add_argument("--epochs", type=int, default=40, help="epochs per training (default: %(default)s)")
    options.add_argument(
        "--only", nargs="+", choices=[method.name for method in METHODS], help="train these methods only"
    )
    options.add_argument("--folder", type=Path, default=Path("out/methods"), help="of libraries (default: %(default)s)")
    options.add_argument("--retime", action="store_true", help="do not train: time the libraries in the folder")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    chosen = tuple(method for method in METHODS if arguments.only is None or method.name in arguments.only)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not arguments.retime:
        train(chosen, arguments.seeds, arguments.epochs, arguments.folder)
    results = time(arguments.folder)
    console.print(table(results))
    if arguments.output is not None:
        content = {"machine": asdict(Machine()), "methods": [asdict(result) for result in results]}
        write_json(arguments.output, content)


if __name__ == "__main__":
    main()
