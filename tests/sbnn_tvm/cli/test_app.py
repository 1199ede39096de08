"""The command line: what each command prints and writes, and its exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.compiler import explain
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.execution.programs import why_not
from sbnn_tvm.report.report import Report
from tests.support import foreign_models
from tests.support.command_line import run

COMMANDS = ("compile", "verify", "inspect", "bench", "targets", "export-demo")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "net.onnx"
    onnx.save(foreign_models.vgg(channels=32, size=8, hidden=32), path)
    return path


@pytest.fixture(scope="module")
def library(model: Path) -> Path:
    return sbnn_tvm.compile(model).export(model.with_name("net.so"))


def test_help_teaches_by_examples() -> None:
    output, _ = run("--help")
    for command in COMMANDS:
        assert command in output
        if command != "targets":
            assert "Examples" in run(command, "--help")[0]
    assert "Exit codes" in output


def test_version() -> None:
    assert run("--version")[0] == f"sbnn-tvm {sbnn_tvm.__version__}\n"


def test_the_help_needs_no_compiler() -> None:
    code = "import sys, sbnn_tvm.cli.app; print([m for m in ('numpy', 'onnx', 'torch', 'tvm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_packages_of_the_compiler() -> None:
    code = "import sys, runpy; sys.modules['typer'] = None; runpy.run_module('sbnn_tvm')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: the command line needs typer: pip install")
    assert done.stderr.count("\n") == 1


def test_compile_as_a_process_leaves_a_library_its_header_and_nothing_else(model: Path, tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "sbnn_tvm", "compile", str(model), "--report", "report.json", "--verify"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"net\.so: [\d.]+ KiB for \S+-linux-gnu\n[\d.]+ KiB code, [\d.]+ KiB constants", done.stdout)
    assert "agrees with onnxruntime" in done.stdout
    assert "4 of 5 layers with weights are binary" in done.stdout
    assert sorted(path.name for path in here.iterdir()) == ["net.h", "net.so", "report.json"]
    assert not [path for path in temporary.iterdir() if path.name != ".ses"]  # onnxruntime's
    report = Report.from_json((here / "report.json").read_text())
    assert report.model == "net" and len(report.linear) == 5
    x = np.zeros((1, 3, 8, 8), np.float32)
    assert sbnn_tvm.load(here / "net.so").run(x).shape == (1, 10)


def test_compile_writes_what_the_output_and_the_runtime_name(model: Path, tmp_path: Path) -> None:
    (tmp_path / "net.zip").write_bytes(b"PK")
    for name in ("net.a", "folder", "net.zip"):
        if name != "net.zip":
            shown, _ = run("compile", model, "-o", tmp_path / name)
            assert re.search(rf"{name}: [\d.]+ KiB for \S+-linux-gnu", shown)
        _, error = run("inspect", tmp_path / name, code=2)
        assert "only shared libraries have a record" in error and error.count("\n") == 1
    assert (tmp_path / "net.h").exists() and (tmp_path / "folder" / "net.c").exists()
    run("compile", model, "-o", tmp_path / "tvm.so", "--runtime", "tvm")
    shown, _ = run("inspect", tmp_path / "tvm.so")
    assert re.search(r"runtime +TVM 0\.", shown) and "C names" not in shown


def test_compile_for_a_shape_a_target_and_a_sign(tmp_path: Path) -> None:
    path, output, dump = tmp_path / "sign.onnx", tmp_path / "sign-arm.so", tmp_path / "dump"
    onnx.save(foreign_models.sign_net(channels=32, size=4, batch="N"), path)
    shown, _ = run(
        *("compile", path, "-o", output, "-t", "arm", "--input-shape", "x=2,3,4,4"),
        *("--sign-zero", "positive", "--dump", dump),
    )
    assert "note: Sign gives +1 instead of 0 at 0" in shown and "aarch64" in shown
    assert sorted(file.name for file in dump.iterdir())[0] == "0_imported.py"
    inspected, _ = run("inspect", output)
    assert "arm (aarch64-unknown-linux-gnu)" in inspected and "x: float32[2, 3, 4, 4]" in inspected
    assert Report.from_json(sbnn_tvm.runtime.loading.read_metadata(output).report).notes


def test_strict_refuses_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sign.onnx"
    onnx.save(foreign_models.sign_net(channels=32, size=4), path)
    _, error = run("compile", path, "-o", tmp_path / "sign.so", "--strict", "--sign-zero", "positive", code=2)
    assert error.startswith("error: strict=True refuses this model") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_verify_shows_layers_and_outputs(model: Path) -> None:
    shown, _ = run("verify", model, "--samples", 2, "--seed", 5)
    assert "output, end to end" in shown and "/Where_3" in shown and "2 inputs: agrees with onnxruntime" in shown


def test_verify_of_arm_code_in_the_emulator(model: Path) -> None:
    ran = "the library run in qemu-aarch64" if why_not(resolve("arm")) is None else "kernels run in an emulator"
    assert ran in run("verify", model, "--target", "arm", "--samples", 1)[0]


def test_verify_with_inputs_from_files(model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for name in ("x.npy", "x.npz"):
        assert "3 inputs: agrees" in run("verify", model, "--input", tmp_path / name)[0]


def test_a_mismatch_has_exit_code_1_and_names_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(foreign_models.bireal_net(channels=32, size=16), path)
    shown, _ = run("verify", path, "--tolerance", 0, code=1)
    assert "the first layer that differs is '/" in " ".join(shown.split())


def test_a_mismatch_keeps_compile_from_writing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verification = sbnn_tvm.compile(model).verify(samples=1)
    wrong = [type(layer)(**{**vars(layer), "wrong": 1}) for layer in verification.layers]
    failed = type(verification)(**{**vars(verification), "layers": tuple(wrong)})
    monkeypatch.setattr(sbnn_tvm.CompiledModule, "verify", lambda *args, **kwargs: failed)
    run("compile", model, "-o", tmp_path / "net.so", "--verify", code=1)
    assert not list(tmp_path.iterdir())


def test_inspect_a_model_is_the_report_of_its_compilation(model: Path) -> None:
    steps: list[str] = []
    report = explain(model, "armv7", progress=steps.append)
    assert report == sbnn_tvm.compile(model, "armv7").report
    assert steps == ["importing the model", "recognising binary layers", "choosing kernels"]
    shown, _ = run("inspect", model, "--target", "armv7")
    assert report.summary() in shown and "Why not binary" in shown


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_tables_fit_the_terminal(model: Path, library: Path, columns: int) -> None:
    for command in (("inspect", library), ("inspect", model), ("targets",), ("verify", model, "--samples", 1)):
        shown, _ = run(*command, columns=columns)
        assert max(map(len, shown.splitlines())) <= columns


def test_inspect_a_library(library: Path) -> None:
    shown, _ = run("inspect", library)
    assert "x: float32[1, 3, 8, 8]" in shown and "y: float32[1, 10]" in shown and "native" in shown
    assert re.search(r"runtime +none: a C library", shown) and "net_init, net_run and so on, in net.h" in shown
    assert re.search(r"size +[\d.]+ KiB: [\d.]+ KiB code, [\d.]+ KiB constants, [\d.]+ KiB record", shown)
    assert "4 of 5 layers with weights are binary" in shown


def test_bench(model: Path, library: Path) -> None:
    shown, _ = run("bench", library, "--seconds", 0.05, "--threads", 2)
    assert re.search(r"net\.so +[\d.]+ (us|ms)", shown)
    shown, _ = run("bench", library, "--seconds", 0.05, "--against", library)
    assert "times slower" in shown
    shown, _ = run("bench", model, "--seconds", 0.05, "--against", "onnxruntime")
    assert re.search(r"onnxruntime +[\d.]+ (us|ms) +[\d.]+ (us|ms) +[\d,]+ +[\d.]+", shown)


def test_targets() -> None:
    shown, _ = run("targets")
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "runs" in rows["native"] and "aarch64-linux-gnu" in rows["cortex-a53"] and "neon" in rows["arm"]


@pytest.mark.parametrize("arch", ["vgg", "resnet"])
def test_export_demo_gives_a_model_for_the_other_commands(arch: str, tmp_path: Path) -> None:
    path = tmp_path / "demo.onnx"
    shown, _ = run("export-demo", "-o", path, "--arch", arch, "--input-shape", "1,1,8,8", "--density", 0.1)
    assert f"sbnn-tvm inspect {path}" in shown
    report = explain(path)
    binary = [layer for layer in report.layers if layer.binary]
    assert len(binary) >= 6 and all(abs(layer.density - 0.1) < 0.01 for layer in binary if layer.density is not None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("compile", "missing.onnx"), "'missing.onnx' does not exist"),
        (("compile", "{model}", "-t", "amr"), "did you mean arm"),
        (("compile", "{model}", "-t", "{{oops"), "neither a name nor JSON"),
        (("compile", "{model}", "-t", '{{"kind": "llvm", "mcpu": "znver99"}}'), "knows no CPU (mcpu) 'znver99'"),
        (("compile", "{model}", "-o", "missing/net.so"), "there is no folder missing"),
        (("compile", "{model}", "-o", "/proc/net.so"), "cannot write /proc/net.so"),
        (("compile", "{model}", "-o", "missing/net"), "there is no folder missing"),
        (("compile", "{model}", "-o", "net.txt"), "the output of a compiled model is a file .so, .a, .zip"),
        (("compile", "{model}", "-o", "net.a", "--runtime", "tvm"), "a library for TVM's runtime is a file .so, but"),
        (("compile", "{model}", "--report", "missing/net.json"), "there is no folder missing"),
        (("compile", "{model}", "--dump", "{model}"), "cannot make the folder"),
        (("compile", "{model}", "--input-shape", "1,three"), "a shape is written as in 1,3,224,224"),
        (("compile", "{model}", "--input-shape", "1,3", "--input-shape", "x=1,3"), "needs a name"),
        (("compile", "{model}", "--input-shape", "1,3,9,9"), "contradicts the model"),
        (("compile", "{library}"), "is a compiled library: name the model"),
        (("verify", "{library}"), "is a compiled library: name the model"),
        (("verify", "{model}", "--samples", "0"), "samples=0"),
        (("verify", "{model}", "--tolerance", "-1"), "the tolerance must be a number from 0 on"),
        (("verify", "{model}", "--seed", "-1"), "the seed must be a number from 0 on"),
        (("verify", "{model}", "--input", "missing.npy"), "missing.npy cannot be read: No such file"),
        (("verify", "{model}", "--input", "{model}"), "is not an .npy or .npz file"),
        (("inspect", "missing.so"), "there is no file missing.so"),
        (("inspect", "missing.onnx"), "'missing.onnx' does not exist"),
        (("bench", "missing.so"), "there is no file missing.so"),
        (("bench", "{model}", "-t", "arm"), "code for arm does not run on this machine"),
        (("bench", "{library}", "--against", "onnxruntime"), "onnxruntime cannot run"),
        (("bench", "{library}", "--against", "tflite"), "--against takes onnxruntime or a compiled library"),
        (("bench", "{library}", "--seconds", "0"), "--seconds is 0"),
        (("bench", "{library}", "--threads", "0"), "num_threads must be a positive integer"),
        (("bench", "{library}", "--ssh", "a@b"), "name the model that"),
        (("bench", "{model}", "--ssh", "a@b", "--layers"), "--layers measures on this machine"),
        (("bench", "{model}", "--ssh", "a@b", "--rpc", "c:1/d"), "give one of them"),
        (("bench", "{model}", "--ssh=-v"), "a board is written as in user@host, but got '-v'"),
        (("bench", "{model}", "--ssh-port", "22"), "are for --ssh USER@HOST"),
        (("bench", "{model}", "--ssh", "a@b", "--ssh-config", "missing"), "there is no file missing"),
        (("bench", "{model}", "--ssh", "a@b", "--threads", "0"), "--threads is 0"),
        (("bench", "{model}", "--ssh", "a@b", "-t", "cortex-m4"), "cortex-m4 is cortex-m with no operating system"),
        (("bench", "{model}", "--rpc", "nowhere"), "a runner is 'local', 'estimated' or 'rpc://host:port/key'"),
        (("export-demo", "--arch", "mlp"), "there is no architecture 'mlp'"),
        (("export-demo", "--input-shape", "1,3,32,16"), "square images"),
        (("export-demo", "--density", "1.5"), "the density must be between 0 and 1"),
        (("export-demo", "-o", "missing/model.onnx"), "there is no folder missing"),
    ],
)
def test_an_error_of_the_user_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    model: Path,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shown, error = run(*(argument.format(model=model, library=library) for argument in arguments), code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and sentence in error
    assert not shown and not list(tmp_path.iterdir())


def test_an_unknown_option_or_choice_is_an_error_of_the_user(model: Path) -> None:
    assert "--optimise" in run("compile", model, "--optimise", code=2)[1]
    assert "sometimes" in run("compile", model, "--sign-zero", "sometimes", code=2)[1]


def test_debug_shows_where_an_error_comes_from() -> None:
    _, error = run("--debug", "inspect", "missing.onnx", code=2)
    assert "Traceback" in error and "load_model.py" in error


def test_an_interrupt_and_a_defect(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        def interleave(*args: object) -> None:
            raise error

        monkeypatch.setattr("sbnn_tvm.profiling.timing.interleave", interleave)

    fail(KeyboardInterrupt())
    assert run("bench", library, code=130)[1] == "error: interrupted\n"
    fail(IndexError("list index\nout of range"))
    _, error = run("bench", library, code=70)
    assert "a defect of sbnn-tvm" in error and "IndexError: list index out of range" in error
    fail(ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"))
    assert 'pip install "sbnn-tvm[verify]"' in run("bench", library, code=2)[1]


def test_the_report_of_a_library_is_the_report_of_its_compilation(model: Path, library: Path) -> None:
    metadata = sbnn_tvm.runtime.loading.read_metadata(library)
    assert json.loads(metadata.report) == json.loads(explain(model).to_json())


def test_values_of_a_layer(model: Path, library: Path, tmp_path: Path) -> None:
    name = next(layer.name for layer in explain(model).layers if layer.binary)
    shown, _ = run("inspect", str(model), "--values", name)
    assert shown.startswith(f"{name} (Conv), on a random input\n") and "2 distinct values" in shown
    assert "weights, output channels first  float32" in shown and "reads '" in shown and "computes '" in shown
    np.save(tmp_path / "x.npy", np.ones((1, 3, 8, 8), np.float32))
    assert f"on {tmp_path}/x.npy" in run("inspect", str(model), "--values", name, "--input", str(tmp_path / "x.npy"))[0]
    np.save(tmp_path / "xx.npy", np.ones((2, 3, 8, 8), np.float32))
    refusals = {
        ("--values", "x"): "the model has no layer 'x'",
        ("--input", str(tmp_path / "x.npy")): "--input is for --values LAYER",
        ("--values", name, "--input", str(tmp_path / "xx.npy")): "shows one input of the model, but",
    }
    for arguments, sentence in refusals.items():
        assert sentence in run("inspect", str(model), *arguments, code=2)[1]
    assert "is a compiled library" in run("inspect", str(library), "--values", name, code=2)[1]
