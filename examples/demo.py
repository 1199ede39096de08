"""All steps on real data: train, export, compile, verify, deploy, measure. ``make demo`` runs this.

Three networks of the same shape learn handwritten digits of 28x28 pixels (examples/mnist.py): in float32, with weights
{-a, +a}, and with weights {alpha, beta} of which 5 % are beta. The sparse one becomes an ONNX file and two libraries,
for this machine and for ARM. PyTorch, onnxruntime, a fresh process with neither of them, and a C program must classify
every test image in the same way. All files are written to out/. The exit code is not 0 if anything disagrees.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mnist
import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from training_loop import accuracy

import sbnn_tvm
from sbnn_tvm.profiling.timing import interleave

console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)

DENSITY = 0.05
"""The share of the sparse network's weights that are beta."""
NAMES = ("mnist-float", "mnist-dense", "mnist-sparse")
"""Of the files in the output folder."""
COLUMNS = ("accuracy", "ONNX", "library", "time", "than onnxruntime")
REQUIRED_ACCURACY = 90.0
"""Per cent of the test images, for the sparse network."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes:
        name: What it is called in the table.
        model: In eval mode.
        accuracy: Per cent of the test images.
        seconds: The time of its training, without that of the network that it starts from.
    """

    name: str
    model: nn.Module
    accuracy: float
    seconds: float


def train_all() -> list[Trained]:
    """The float network, then the dense and the sparse one, which start from its weights."""
    data, found = mnist.load(), list[Trained]()
    for name, make in (
        ("float32", lambda: mnist.train_float()),
        ("dense, {-a, +a}", lambda: mnist.train_dense(found[0].model)),
        ("sparse, {alpha, beta}", lambda: mnist.train_sparse(found[0].model, DENSITY)),
    ):
        begin = time.perf_counter()
        with console.status(f"training: {name}"):
            model = make()
        found.append(Trained(name, model, accuracy(model, data), time.perf_counter() - begin))
        console.print(f"{name}: {found[-1].accuracy:.1f} % of the test images, {found[-1].seconds:.0f} s")
    return found


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
    library, program = module.export(folder / "mnist.a"), folder / "classify"
    source = str(Path(__file__).with_name("classify.c"))
    command = [compiler, "-O2", "-s", "-I", str(folder), source, str(library), "-lm", "-pthread", "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0:
        check(False, f"classify.c: {built.stderr.strip()}")
    done = subprocess.run([program.resolve()], input=images.tobytes(), capture_output=True, timeout=120)
    if done.returncode != 0:
        check(False, f"classify.c: {done.stderr.decode().strip()}")
    return np.array(done.stdout.split(), dtype=np.int64), program


def latencies(libraries: list[Path], float_model: Path, image: np.ndarray) -> list[float]:
    """Seconds per image on one thread, for the libraries and at last for a float model in onnxruntime.

    They are measured in turns, and the fastest call of each counts.
    """
    theirs = session(float_model)
    calls = {str(path): partial(sbnn_tvm.load(path, num_threads=1).run, image) for path in libraries}
    calls["onnxruntime"] = lambda: theirs.run(None, {"input": image})
    return [time.minimum for time in interleave(calls).values()]


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
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    data = mnist.load()
    images = data.test_images.numpy()

    heading("1. Train three networks of one shape on handwritten digits of 28x28 pixels")
    trained = train_all()
    model = trained[-1].model
    predictions = classify_with_torch(model, images)
    claim = f"the sparse network classifies {trained[-1].accuracy:.1f} % of {len(images)} test images correctly"
    check(trained[-1].accuracy > REQUIRED_ACCURACY, claim)

    heading("2. Export to ONNX")
    with console.status("exporting"):
        files = [options.out / f"{name}.onnx" for name in NAMES]
        for each, path in zip(trained, files, strict=True):
            sbnn_tvm.export_onnx(each.model, path)
    model_path = files[-1]
    console.print("; ".join(f"{path}: {kib(path)}" for path in files))
    reference = classify_with_onnxruntime(model_path, images)
    check((reference == predictions).all(), "onnxruntime gives PyTorch's predictions")

    heading("3. Compile")
    modules, libraries = {}, list[Path]()
    for name, path, target in (
        *((name, path, "native") for name, path in zip(NAMES, files, strict=True)),
        (NAMES[-1], model_path, "arm"),
    ):
        with console.status(f"compiling {name} for {target}"):
            begin = time.perf_counter()
            modules[name, target] = sbnn_tvm.compile(path, target=target)
            libraries.append(modules[name, target].export(options.out / f"{name}.{target}.so"))
        console.print(f"{libraries[-1]}: {kib(libraries[-1])}, {time.perf_counter() - begin:.1f} s")
    native, arm = (modules[NAMES[-1], target] for target in ("native", "arm"))
    console.print(native.report)
    sparse = [layer for layer in native.report.linear if layer.binary]
    counted = [layer for layer in sparse if layer.kernel.startswith("counters")]
    check(counted == sparse, f"all {len(sparse)} sparse layers have kernels that process the set weights alone")

    heading("4. Verify against onnxruntime, layer by layer")
    for module, inputs in ((native, images[:250]), (arm, images[:2])):
        with console.status(f"verifying the build for {module.target}"):
            result = module.verify(inputs, check=False)
        check(result.passed, str(result))

    heading("5. Deploy: classify the test images in a fresh process")
    library = options.out / f"{NAMES[-1]}.native.so"
    deployed = classify_in_fresh_process(library, images, options.out)
    check(not deployed.imported, "the process imported neither torch, onnx, onnxruntime nor the compiler")
    same = (deployed.predictions == predictions).all() and (deployed.predictions == reference).all()
    check(same, f"all {len(images)} predictions equal those of PyTorch and onnxruntime")
    console.print(f"loading the library took {deployed.load_seconds * 1e3:.1f} ms")
    in_c = classify_in_c(native, images, options.out)
    if in_c is None:
        console.print("no C compiler (cc) is installed, so the program in C is left out")
    else:
        check((in_c[0] == predictions).all(), f"a C program of {kib(in_c[1])}, model included, predicts the same")

    heading("6. Measure: one image, one thread")
    with console.status("timing all in turns"):
        *ours, theirs = latencies(libraries[: len(trained)], files[0], images[:1])
    table = Table("network", *(Column(name, justify="right") for name in COLUMNS), title=None)
    for each, path, library, seconds in zip(trained, files, libraries, ours, strict=False):
        table.add_row(
            each.name,
            f"{each.accuracy:.1f} %",
            kib(path),
            kib(library),
            f"{seconds * 1e6:.0f} us",
            f"{theirs / seconds:.1f}x",
        )
    table.add_row(
        "float32, in onnxruntime",
        f"{trained[0].accuracy:.1f} %",
        kib(files[0]),
        "",
        f"{theirs * 1e6:.0f} us",
        "1.0x",
    )
    console.print(table)
    dense, sparse_time = ours[1:]
    console.print(f"The sparse network takes 1/{dense / sparse_time:.1f} of the time of the dense binary one.")


if __name__ == "__main__":
    main()
