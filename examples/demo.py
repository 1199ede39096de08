"""All steps on real data: train, export, compile, verify, deploy, measure. ``make demo`` runs this.

A sparse binary network learns scikit-learn's handwritten digits. It becomes an ONNX file and two libraries, for this
machine and for ARM. PyTorch, onnxruntime, a fresh process with neither of them, and a C program must classify every
test image in the same way. All files are written to out/. The exit code is not 0 if anything disagrees.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import inliner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    ScaledSigns,
    TwoValues,
    WeightDomain,
    clamp_latent_,
    to_onnx,
)
from sbnn_tvm.profiling.timing import interleave

console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)

REQUIRED_ACCURACY = 0.9
DENSITY = 0.1
"""The share of upper values that the {a, b} layers are trained to have."""


@dataclass(frozen=True)
class Digits:
    """Images float32 [N, 1, 8, 8] from -1 to 1, and labels int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(test: int = 450, seed: int = 0) -> Digits:
    """The 1797 digits of scikit-learn; a quarter of them are test images."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels[order])
    return Digits(x[test:], y[test:], x[:test], y[:test])


def network(width: int = 64) -> nn.Module:
    """A float stem, a binary body, a float head: 0.3 million weights, 99 % of them binary."""

    def conv(inputs: int, outputs: int, domain: WeightDomain = ScaledSigns(), pool: bool = False) -> nn.Sequential:  # noqa: B008
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            binarize=Binarize(inputs, learned=True),
            conv=BinaryConv2d(inputs, outputs, 3, padding=1, domain=domain),
            norm=nn.BatchNorm2d(outputs),
        )
        if pool:
            parts["pool"] = nn.MaxPool2d(2)
        return nn.Sequential(parts)

    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
            body1=conv(width, width),
            body2=conv(width, 2 * width, pool=True),
            body3=conv(2 * width, 2 * width, TwoValues(), pool=True),  # any two values, mostly the lower one
            flatten=nn.Sequential(Binarize(), nn.Flatten()),
            dense=nn.Sequential(BinaryLinear(8 * width, 2 * width), nn.BatchNorm1d(2 * width)),
            head=nn.Linear(2 * width, 10),
        )
    )
    model.example_input_array = torch.zeros(1, 1, 8, 8)  # the shape to export and compile for
    return model


def train(model: nn.Module, data: Digits, epochs: int = 12, seed: int = 0, batch: int = 64) -> None:
    """An ordinary PyTorch training loop."""
    torch.manual_seed(seed)
    batches = len(data.train_images) // batch
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * batches)
    model.train()
    for _ in track(range(epochs), f"training {epochs} epochs", console=console):
        for chosen in torch.randperm(len(data.train_images))[: batches * batch].split(batch):
            loss = functional.cross_entropy(model(data.train_images[chosen]), data.train_labels[chosen])
            loss = loss + 10 * excess_density(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clamp_latent_(model)
    model.eval()


def excess_density(model: nn.Module) -> Tensor:
    """A penalty on more upper weight values than DENSITY, which makes the network sparse (arXiv 2306.13515)."""
    layers = [m for m in model.modules() if isinstance(m, BinaryLayer) and isinstance(m.domain, TwoValues)]
    return torch.stack([functional.relu((layer.signs().mean() + 1) / 2 - DENSITY) for layer in layers]).sum()


def float_twin(model: nn.Module) -> nn.Module:
    """The same trained network with its binary weights as float32 in ordinary layers."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, layer in parent.named_children():
            if not isinstance(layer, BinaryLayer):
                continue
            scale, offset = (v if v is not None else torch.zeros(1) for v in layer.values(layer.weight))
            channel = (-1, *[1] * (layer.weight.ndim - 1))
            weight = scale.reshape(channel) * layer.signs() + offset.reshape(channel)
            plain: nn.Module
            if isinstance(layer, BinaryConv2d):
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
            else:
                plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            plain.weight = nn.Parameter(weight.detach())
            setattr(parent, name, plain)
    return twin


def write_onnx(model: nn.Module, folder: Path) -> tuple[Path, Path]:
    """The model with ai.sbnn operators, and its float twin in standard operators only."""
    binary, plain = folder / "digits.onnx", folder / "digits_float.onnx"
    sbnn_tvm.export_onnx(model, binary)
    onnx.save(inliner.inline_local_functions(to_onnx(float_twin(model))), plain)
    return binary, plain


def session(path: Path, optimise: bool = True) -> onnxruntime.InferenceSession:
    """Onnxruntime on one thread. As a reference it must not optimise, since this changes the rounding."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def classify_with_torch(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The class of every image."""
    with torch.no_grad():
        return model(torch.from_numpy(images)).argmax(1).numpy()


def classify_with_onnxruntime(path: Path, images: np.ndarray, optimise: bool = False) -> np.ndarray:
    """The class of every image, one at a time."""
    runner = session(path, optimise)
    return np.concatenate([runner.run(None, {"input": image[None]})[0].argmax(1) for image in images])


@dataclass(frozen=True, eq=False)
class Deployed:
    """The results of classify.py in a separate process.

    Attributes:
        predictions: The class of every image.
        load_seconds: The time to load the library.
        imported: Modules that the process imported and should not have; empty if all is well.
    """

    predictions: np.ndarray
    load_seconds: float
    imported: list[str]


def classify_in_fresh_process(library: Path, images: np.ndarray, folder: Path) -> Deployed:
    """Run classify.py, which uses only numpy and sbnn_tvm.load."""
    images_path, predictions_path = folder / "test_images.npy", folder / "predictions.npy"
    np.save(images_path, images)
    script = Path(__file__).with_name("classify.py")
    command = [sys.executable, *map(str, (script, library, images_path, predictions_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not done.stdout:
        check(False, f"classify.py: {done.stderr.strip()}")
    return Deployed(predictions=np.load(predictions_path), **json.loads(done.stdout))


def classify_in_c(module: sbnn_tvm.CompiledModule, images: np.ndarray, folder: Path) -> tuple[np.ndarray, Path] | None:
    """The class of every image, by the program classify.c with a static library, and that program.

    Returns:
        None if there is no C compiler.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    library, program = module.export(folder / "digits.a"), folder / "classify"
    source = str(Path(__file__).with_name("classify.c"))
    command = [compiler, "-O2", "-s", "-I", str(folder), source, str(library), "-lm", "-pthread", "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0:
        check(False, f"classify.c: {built.stderr.strip()}")
    done = subprocess.run([program.resolve()], input=images.tobytes(), capture_output=True, timeout=120)
    if done.returncode != 0:
        check(False, f"classify.c: {done.stderr.decode().strip()}")
    return np.array(done.stdout.split(), dtype=np.int64), program


def latencies(library: Path, float_model: Path, image: np.ndarray) -> tuple[float, float]:
    """Seconds per image on one thread, for the library and onnxruntime, measured in turns; the fastest call counts."""
    ours, theirs = sbnn_tvm.load(library, num_threads=1), session(float_model)
    times = interleave({"ours": lambda: ours.run(image), "theirs": lambda: theirs.run(None, {"input": image})})
    return times["ours"].minimum, times["theirs"].minimum


def heading(text: str) -> None:
    """Print the title of the next step."""
    console.rule(f"[bold]{text}", align="left")


def check(agree: bool, claim: str) -> None:
    """Print that a claim holds, or end the demo."""
    if not agree:
        console.print(f"[bold red]FAILED[/] {claim}", soft_wrap=True)
        sys.exit(1)
    console.print(f"[green]ok[/] {claim}", soft_wrap=True)


def kib(path: Path) -> str:
    """The size of a file."""
    return f"{path.stat().st_size / 1024:,.1f} KiB"


def main(arguments: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for all files (default: out)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="channels of the first layers")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # in layers this small, threads cost more time than they save

    heading("1. Train a sparse binary network on scikit-learn's digits")
    torch.manual_seed(0)
    data, model = digits(), network(options.width)
    train(model, data, options.epochs)
    images, labels = data.test_images.numpy(), data.test_labels.numpy()
    predictions = classify_with_torch(model, images)
    accuracy = float((predictions == labels).mean())
    check(accuracy > REQUIRED_ACCURACY, f"{accuracy:.1%} of {len(labels)} test images are classified correctly")

    heading("2. Export to ONNX")
    with console.status("exporting"):
        model_path, float_path = write_onnx(model, options.out)
    console.print(f"{model_path}: {kib(model_path)}; the same network with float32 weights: {kib(float_path)}")
    reference = classify_with_onnxruntime(model_path, images)
    check((reference == predictions).all(), "onnxruntime gives PyTorch's predictions")

    heading("3. Compile")
    modules = {}
    for target in ("native", "arm"):
        with console.status(f"compiling for {target}"):
            begin = time.perf_counter()
            modules[target] = sbnn_tvm.compile(model_path, target=target)
            library = modules[target].export(options.out / f"digits.{target}.so")
        console.print(f"{library}: {kib(library)}, {time.perf_counter() - begin:.1f} s")
    report = modules["native"].report
    console.print(report)

    heading("4. Verify against onnxruntime, layer by layer")
    for target, inputs in (("native", images), ("arm", images[:4])):
        with console.status(f"verifying the {target} build"):
            result = modules[target].verify(inputs, check=False)
        check(result.passed, str(result))

    heading("5. Deploy: classify the test images in a fresh process")
    library = options.out / "digits.native.so"
    deployed = classify_in_fresh_process(library, images, options.out)
    check(not deployed.imported, "the process imported neither torch, onnx, onnxruntime nor the compiler")
    same = (deployed.predictions == predictions).all() and (deployed.predictions == reference).all()
    check(same, f"all {len(images)} predictions equal those of PyTorch and onnxruntime")
    console.print(f"loading the library took {deployed.load_seconds * 1e3:.1f} ms")
    in_c = classify_in_c(modules["native"], images, options.out)
    if in_c is None:
        console.print("no C compiler (cc) is installed, so the program in C is left out")
    else:
        check((in_c[0] == predictions).all(), f"a C program of {kib(in_c[1])}, model included, predicts the same")

    heading("6. Measure: one image, one thread")
    with console.status("timing both in turns"):
        ours, theirs = latencies(library, float_path, images[:1])
    console.print(f"{ours * 1e6:.0f} us; onnxruntime float32 {theirs * 1e6:.0f} us")

    binary = [layer.name for layer in report.linear if layer.binary]
    table = Table("summary", "", title=None, min_width=80)
    table.add_row("test accuracy", f"{accuracy:.1%}, the same predictions in PyTorch, onnxruntime and the library")
    table.add_row("binary layers", f"{len(binary)} of {len(report.linear)} with weights: {', '.join(binary)}")
    table.add_row("ONNX file", f"{kib(model_path)}, {ratio(float_path, model_path)} smaller than with float32 weights")
    table.add_row("library", f"{kib(library)} for this machine, {kib(options.out / 'digits.arm.so')} for ARM")
    table.add_row("latency", f"{ours * 1e6:.0f} us per image, {theirs / ours:.1f}x faster than onnxruntime float32")
    console.print(table)
    console.print("8x8 digits are tiny, so calls take much of the time. benchmarks/ has networks of realistic size.")


def ratio(large: Path, small: Path) -> str:
    """How many times smaller the second file is."""
    return f"{large.stat().st_size / small.stat().st_size:.1f}x"


if __name__ == "__main__":
    main()
