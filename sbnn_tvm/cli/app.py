"""The command line, ``sbnn-tvm``. It imports little: what a command needs is imported when the command runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.text import Text
    from typer.core import TyperGroup
except ModuleNotFoundError as error:  # where models are only run
    raise SystemExit(f'error: the command line needs {error.name}: pip install "sbnn-tvm[compile]"') from None

from .. import __version__
from ..errors import InputError, LibraryError, ModelError, SbnnError, TargetError
from ..runtime.hide_torch import hide_torch

if TYPE_CHECKING:
    import numpy as np

    from ..module import CompiledModule
    from ..runtime.loading import LoadedModule

MISMATCH, USER_ERROR, DEFECT, INTERRUPTED = 1, 2, 70, 130
"""Exit codes other than 0."""

_EXTRAS = {
    "onnx": "compile",
    "elftools": "compile",
    "onnxruntime": "verify",
    "unicorn": "verify",
    "cloudpickle": "tune",
    "tornado": "tune",
    "matplotlib": "tune",
    "torch": "torch",
    "onnxscript": "torch",
}


class _Commands(TyperGroup):
    """Ends every command with an exit code, and every error of the user with one sentence."""

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.params.get("debug", False)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except SbnnError as error:
            if debug:
                Console(stderr=True).print_exception()
            _complain(str(error))
            raise typer.Exit(USER_ERROR) from None
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").split(".")[0])
            if extra is None or debug:
                raise
            _complain(f'this needs {error.name}: pip install "sbnn-tvm[{extra}]"')
            raise typer.Exit(USER_ERROR) from None
        except Exception as error:
            if debug or isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "exit_code"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _complain(f"a defect of sbnn-tvm, not of yours: {reason}; `sbnn-tvm --debug ...` shows where")
            raise typer.Exit(DEFECT) from None


def _complain(sentence: str) -> None:
    console = Console(stderr=True, highlight=False)
    text = Text.assemble(("error: ", "bold red"), (" ".join(sentence.split()), "red"))
    console.print(text, soft_wrap=not console.is_terminal)


def _examples(*lines: str) -> str:
    return "[bold]Examples[/]\n" + "\n".join(f"  [dim]$[/] {line}" for line in lines)


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "sbnn-tvm export-demo -o model.onnx     [dim]a model to play with[/]",
        "sbnn-tvm inspect model.onnx            [dim]what becomes binary, and why not[/]",
        "sbnn-tvm compile model.onnx -o model.so",
        "sbnn-tvm verify model.onnx --target arm",
        "sbnn-tvm bench model.so",
        "sbnn-tvm tune model.onnx && sbnn-tvm compile model.onnx --tuning tuning.jsonl",
    )
    + "\n\nExit codes: 0 all is well, 1 the compiled model differs from onnxruntime, 2 an error in what was asked for.",
)


class SignZero(str, Enum):
    """What a plain Sign gives at 0."""

    exact = "exact"
    positive = "positive"
    negative = "negative"


OnnxFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model, for example from export_onnx.")]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME",
        help="What to compile for: a name that `sbnn-tvm targets` lists, or a TVM target as JSON.",
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME=]N,C,H,W",
        help="Shape of an input whose dimensions the model leaves open; once for each such input.",
    ),
]
SignZeroOption = Annotated[
    SignZero,
    typer.Option(
        help="What a plain Sign gives at 0: exactly 0, which keeps a layer in float, or what you allow instead.",
        show_choices=True,
    ),
]


KernelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--kernel",
        metavar="LAYER=FAMILY",
        help="Compute a layer (named as in the report, * for any letters) by popcount, counters, float or "
        "sparse_float; repeatable.",
    ),
]


TuningOption = Annotated[
    Path | None,
    typer.Option("--tuning", metavar="FILE", help="Take the kernels that `sbnn-tvm tune` found to be fastest."),
]
TuningCpu = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose measurements to use, if the database has several CPUs for the target."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sbnn-tvm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from.", envvar="SBNN_TVM_DEBUG")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Sparse binary neural networks from PyTorch, via ONNX, to one small, fast library for a CPU."""


@app.command(
    "compile",
    epilog=_examples(
        "sbnn-tvm compile model.onnx -o model.so",
        "sbnn-tvm compile model.onnx --target arm -o model-arm.so --verify",
        "sbnn-tvm compile model.onnx --input-shape 1,3,224,224 --report report.json",
        "sbnn-tvm compile model.onnx --input-shape x=1,3,64,64 --input-shape y=1,4",
    ),
)
def compile_(
    model: OnnxFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.so", help="The library.", show_default="MODEL.so"),
    ] = None,
    target: Target = "native",
    input_shape: InputShape = None,
    sign_zero: SignZeroOption = SignZero.exact,
    kernel: KernelOption = None,
    tuning: TuningOption = None,
    tuning_cpu: TuningCpu = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a model of which a binary layer would run in float.")
    ] = False,
    dump: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the module after each phase there, as TVMScript.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the report there too.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with onnxruntime first; write nothing if they differ.")
    ] = False,
) -> None:
    """Compile an ONNX model to a shared library, and say what each layer became.

    Python runs it by [bold]sbnn_tvm.load("model.so").run(x)[/], with numpy and TVM's runtime alone.
    """
    from ..atomic_file import check_destination, replacing

    output = output or Path(model.stem + ".so")
    _check_is_model(model)
    for path, error in ((output, LibraryError), (report, LibraryError)):
        if path is not None:
            check_destination(path, error)
    console = _console()
    with _steps() as step:
        module = _compile(
            model,
            target,
            input_shape,
            sign_zero,
            kernel,
            step,
            tuning=tuning,
            tuning_cpu=tuning_cpu,
            strict=strict,
            dump=dump,
        )
    console.print(module.report)
    if verify:
        _verify(module, console)
    with _steps() as step:
        step("linking")
        module.export(output)
    if report is not None:
        with replacing(report, LibraryError) as draft:
            draft.write_text(json.dumps(json.loads(module.report.to_json()), indent=2) + "\n")
    from .tables import readable_bytes

    console.print(f"\n[bold]{output}[/]: {readable_bytes(output.stat().st_size)} for {module.target.triple}")


@app.command(
    epilog=_examples(
        "sbnn-tvm verify model.onnx",
        "sbnn-tvm verify model.onnx --target arm --samples 1     [dim]in an emulator[/]",
        "sbnn-tvm verify model.onnx --input images.npy --tolerance 1e-5",
    )
)
def verify(
    model: OnnxFile,
    target: Target = "native",
    samples: Annotated[int, typer.Option(help="How many random inputs.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of floats, relative to the largest value.")
    ] = 1e-4,
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy|npz", help="Inputs instead of random ones, one or many; .npz holds arrays by input name."
        ),
    ] = None,
    input_shape: InputShape = None,
    sign_zero: SignZeroOption = SignZero.exact,
    kernel: KernelOption = None,
    tuning: TuningOption = None,
    tuning_cpu: TuningCpu = None,
) -> None:
    """Compile a model and compare every output and every layer with onnxruntime.

    A build for another CPU runs in an emulator.

    Bits that differ because a value lies within the rounding error of its threshold count as flipped, not as wrong.
    """
    _check_is_model(model)
    arrays = None if input is None else _read_arrays(input)
    console = _console()
    with _steps() as step:
        module = _compile(model, target, input_shape, sign_zero, kernel, step, tuning=tuning, tuning_cpu=tuning_cpu)
    _verify(module, console, inputs=arrays, samples=samples, seed=seed, tolerance=tolerance)


@app.command(
    epilog=_examples(
        "sbnn-tvm inspect model.onnx --target arm     [dim]what becomes binary there, and why not[/]",
        "sbnn-tvm inspect model.so                    [dim]what a library is for, whatever its CPU[/]",
    )
)
def inspect(
    file: Annotated[Path, typer.Argument(metavar="MODEL.onnx|MODEL.so", help="A model, or a compiled library.")],
    target: Target = "native",
    input_shape: InputShape = None,
    sign_zero: SignZeroOption = SignZero.exact,
    kernel: KernelOption = None,
    tuning: TuningOption = None,
    tuning_cpu: TuningCpu = None,
) -> None:
    """Show what each layer of a model would become, or has become in a library; no machine code is made or run."""
    console = _console()
    if _is_library(file):
        from ..report.report import Report
        from ..runtime.loading import read_metadata
        from .tables import metadata_table

        metadata = read_metadata(file)
        console.print(metadata_table(metadata, file.stat().st_size), "")
        console.print(Report.from_json(metadata.report))
        return
    with _steps() as step:
        step("loading the compiler")
        with hide_torch():
            from ..compiler import explain
        report = explain(
            file,
            _target(target),
            input_shape=_shapes(input_shape),
            sign_zero=sign_zero.value,
            kernels=_kernels(kernel),
            tuning=tuning,
            tuning_cpu=tuning_cpu,
            progress=step,
        )
    console.print(report)


@app.command(
    epilog=_examples(
        "sbnn-tvm bench model.so",
        "sbnn-tvm bench model.onnx --against onnxruntime --threads 2",
        "sbnn-tvm bench new.so --against old.so --seconds 20",
        "sbnn-tvm bench model.onnx --layers",
    )
)
def bench(
    file: Annotated[Path, typer.Argument(metavar="MODEL.onnx|MODEL.so", help="A model, or a compiled library.")],
    target: Target = "native",
    threads: Annotated[int, typer.Option(help="Threads that share the work of a layer.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure, about.")] = 5.0,
    against: Annotated[
        str | None,
        typer.Option(metavar="onnxruntime|OTHER.so", help="Take turns with this, and give the ratio."),
    ] = None,
    input_shape: InputShape = None,
    sign_zero: SignZeroOption = SignZero.exact,
    kernel: KernelOption = None,
    tuning: TuningOption = None,
    tuning_cpu: TuningCpu = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time every kernel alone, and compare it with the machine's limits.")
    ] = False,
) -> None:
    """Time a model on this machine, on random inputs."""
    import tempfile

    import numpy as np

    from ..profiling.timing import interleave
    from ..runtime.inputs import random_inputs
    from ..runtime.loading import load
    from .tables import timing_table

    if not seconds > 0:
        raise InputError(f"there must be some seconds to measure, but --seconds is {seconds}")
    if against not in (None, "onnxruntime") and not Path(against or "").exists():
        raise InputError(f"--against takes onnxruntime or a compiled library, and there is no file {against}")
    console = _console()
    options = {"tuning": tuning, "tuning_cpu": tuning_cpu}
    if layers:
        _bench_layers(file, lambda step: _compile(file, target, input_shape, sign_zero, kernel, step, **options))
        return
    module: CompiledModule | None = None
    with _steps() as step, tempfile.TemporaryDirectory(prefix="sbnn_tvm-") as folder:
        if _is_library(file):
            if against == "onnxruntime":
                raise InputError(f"onnxruntime cannot run {file}: name the ONNX model that it was compiled from")
            loaded = load(file, threads)
        else:
            module = _compile(file, target, input_shape, sign_zero, kernel, step, **options)
            if not module.target.native:
                raise TargetError(f"code for {module.target} does not run on this machine, so it cannot be timed here")
            step("linking")
            loaded = load(module.export(Path(folder) / "model.so"), threads)
        inputs = random_inputs(loaded.inputs, np.random.default_rng(0))
        functions: dict[str, Callable[[], object]] = {file.name: lambda: loaded.run(*inputs)}
        if against == "onnxruntime":
            assert module is not None
            functions["onnxruntime"] = _onnxruntime(module, inputs, threads)
        elif against is not None:
            other = _same_interface(load(against, threads), loaded)
            functions[against] = lambda: other.run(*inputs)
        step(f"measuring for {seconds:g} s")
        times = interleave(functions, seconds)
    console.print(timing_table(times))
    notes = [
        f"{loaded.num_threads} thread{'s' * (loaded.num_threads != 1)}, a call as from Python.",
        "Others may use this machine: compare minima; medians far above them show how busy it is.",
    ]
    if against == "onnxruntime":
        notes.append(
            "onnxruntime runs the same ONNX model, optimised, its binary layers as float ones behind their binarisers; "
            "a float network without binarisers is faster there."
        )
    console.print("", " ".join(notes), sep="\n", style="dim")


@app.command(
    epilog=_examples(
        "sbnn-tvm tune model.onnx --time-budget 300",
        "sbnn-tvm compile model.onnx --tuning tuning.jsonl",
        "sbnn-tvm tune model.onnx --target cortex-a72 --runner rpc://tracker:9190/pi4     [dim]on boards[/]",
        "sbnn-tvm tune model.onnx --target arm --runner estimated     [dim]by instructions, without hardware[/]",
    )
)
def tune(
    model: OnnxFile,
    database: Annotated[Path, typer.Option("--database", "-d", metavar="FILE", help="What was measured.")] = Path(
        "tuning.jsonl"
    ),
    target: Target = "native",
    trials: Annotated[int | None, typer.Option(help="The most measurements.", show_default="as many as pay")] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The most time.", show_default="as long as it pays")
    ] = None,
    runner: Annotated[
        str, typer.Option(metavar="local|estimated|rpc://HOST:PORT/KEY", help="Where to measure.")
    ] = "local",
    threads: Annotated[int, typer.Option(help="Threads that share the work of a layer.")] = 1,
    input_shape: InputShape = None,
    sign_zero: SignZeroOption = SignZero.exact,
) -> None:
    """Find the fastest kernels for the layers of a model by measuring them.

    It may be stopped at any moment, and goes on where it was: every measurement is in the database at once.
    """
    from .tuning_tables import result_table, shown_progress

    _check_is_model(model)
    shapes, target_ = _shapes(input_shape), _target(target)
    with _steps() as step:
        step("loading the compiler")
        with hide_torch():
            from ..tuning.tuner import tune as tune_model
    with shown_progress() as progress:
        result = tune_model(
            model,
            target_,
            database=database,
            trials=trials,
            time_budget=time_budget,
            runner=runner,
            threads=threads,
            input_shape=shapes,
            sign_zero=sign_zero.value,
            progress=progress,
        )
    console = _console()
    console.print(result_table(result))
    console.print(f"\n[bold]{database}[/]: {result.machine}\n{result.summary()}")


tuning_app = typer.Typer(help="Look into tuning databases, and serve boards.", no_args_is_help=True)
app.add_typer(tuning_app, name="tuning")

Databases = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tuning databases.")]


@tuning_app.command(epilog=_examples("sbnn-tvm tuning show tuning.jsonl"))
def show(database: Annotated[Path, typer.Argument(metavar="FILE", help="A tuning database.")]) -> None:
    """Show what was measured, on which machines."""
    from ..tuning_database.database import Database
    from .tuning_tables import database_table

    console, found = _console(), Database(database, must_exist=True)
    for machine in found.machines():
        console.print(f"[bold]{machine}[/]", database_table(found, machine), "", sep="\n")
    for network in found.networks:
        verdict = "slower, not used" if network.slower else f"{network.gain:.3f}x"
        console.print(f"{network.title} as a whole, tuned: {verdict} ({network.machine.cpu}, {network.when})")
    _show_corrupt(found.corrupt)


@tuning_app.command(epilog=_examples("sbnn-tvm tuning merge all.jsonl mine.jsonl yours.jsonl"))
def merge(output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Is replaced.")], databases: Databases) -> None:
    """Write the records of several databases to one, each once."""
    from ..tuning_database.database import merge as merge_databases

    count, corrupt = merge_databases(output, databases)
    _show_corrupt(corrupt)
    _console().print(f"[bold]{output}[/]: {count} records")


@tuning_app.command(epilog=_examples("sbnn-tvm tuning export tuning.jsonl -o best.jsonl"))
def export(
    database: Annotated[Path, typer.Argument(metavar="FILE", help="A tuning database.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Is replaced.")],
) -> None:
    """Write what decides, and nothing else: the measurements of the fastest candidate of each task."""
    from ..tuning_database.database import Database, write

    found = Database(database, must_exist=True)
    records = found.decisive()
    write(output, records)
    _show_corrupt(found.corrupt)
    _console().print(f"[bold]{output}[/]: {len(records)} records")


@tuning_app.command(epilog=_examples("sbnn-tvm tuning plot tuning.jsonl -o pictures"))
def plot(
    database: Annotated[Path, typer.Argument(metavar="FILE", help="A tuning database.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the pictures.")] = Path("."),
) -> None:
    """Draw the best so far of every task, and every task tuned against untuned."""
    from ..tuning.plots import draw
    from ..tuning_database.database import Database

    for file in draw(Database(database, must_exist=True), output):
        _console().print(f"[bold]{file}[/]")


@tuning_app.command(
    epilog=_examples(
        "python -m tvm.exec.rpc_tracker --port 9190                          [dim]once[/]",
        "sbnn-tvm tuning serve --tracker 192.168.1.2:9190 --key pi4     [dim]on every board[/]",
    )
)
def serve(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="TVM's RPC tracker.")],
    key: Annotated[str, typer.Option(help="The name of boards of this kind.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="The first port to try.")] = 9090,
) -> None:
    """Measure for others on this machine, until it is interrupted.

    Whoever reaches the tracker or this server can run any code here: in a trusted network only.
    """
    import time

    from ..tuning.rpc_runner import serve as start

    name, _, number = tracker.rpartition(":")
    if not name or not number.isdigit():
        raise InputError(f"a tracker is written as in 192.168.1.2:9190, but got {tracker!r}")
    server = start(host, port, (name, int(number)), key)
    _console().print(f"serving as {key!r} on port {server.port} for the tracker at {tracker}")
    try:
        while True:
            time.sleep(1)
    finally:
        server.terminate()


def _show_corrupt(lines: Iterable[object]) -> None:
    for line in lines:
        Console(stderr=True, highlight=False).print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


@app.command()
def targets() -> None:
    """List the targets that have a name, and which of them run here."""
    with _steps() as step:
        step("asking LLVM")
        with hide_torch():
            from ..deploy.targets import KNOWN, resolve
        from .tables import targets_table

        known = {name: resolve(name) for name in KNOWN}
    console = _console()
    console.print(targets_table(known))
    console.print(
        '\nAny other CPU as a TVM target: --target \'{"kind": "llvm", "mtriple": "aarch64-linux-gnu", '
        '"mcpu": "cortex-a76"}\'',
        style="dim",
        markup=False,
    )


@app.command(
    "export-demo",
    epilog=_examples(
        "sbnn-tvm export-demo -o model.onnx",
        "sbnn-tvm export-demo -o model.onnx --arch resnet --input-shape 1,3,64,64 --density 0.1",
    ),
)
def export_demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where to.")] = Path("model.onnx"),
    arch: Annotated[str, typer.Option(metavar="vgg|resnet", help="A chain with poolings, or residual blocks.")] = "vgg",
    input_shape: Annotated[str, typer.Option(metavar="N,C,H,W", help="Of square images.")] = "1,3,32,32",
    density: Annotated[float, typer.Option(help="Share of the weights that take the upper value.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write a small binary network with random weights, to try the other commands on. Needs PyTorch."""
    from ..atomic_file import check_destination
    from .tables import readable_bytes

    check_destination(output, ModelError)
    shape = _dimensions(input_shape)
    with _steps() as step:
        step("loading PyTorch")
        from sbnn_tvm.frontends.torch.export import export_onnx
        from sbnn_tvm.frontends.torch.networks.random_networks import random_network

        step("making the network")
        network = random_network(arch, shape, density=density, seed=seed)
        step("exporting it")
        export_onnx(network, output)
    console = _console()
    console.print(f"[bold]{output}[/]: {readable_bytes(output.stat().st_size)}; try [bold]sbnn-tvm inspect {output}[/]")


def main() -> None:
    """The entry point."""
    app(prog_name="sbnn-tvm")


def _console() -> Console:
    """For results. What goes to a file or a pipe is not folded to the width of a terminal that it will not see."""
    console = Console(highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(highlight=False, width=200)


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Shows the step that is being done and how long it has taken, on stderr, if that is a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda name: progress.update(task, description=name)


def _compile(
    model: Path,
    target: str,
    input_shape: list[str] | None,
    sign_zero: SignZero,
    kernel: list[str] | None,
    step: Callable[[str], None],
    **options: Any,
) -> CompiledModule:
    shapes, target_, kernels = _shapes(input_shape), _target(target), _kernels(kernel)
    step("loading the compiler")
    with hide_torch():
        from ..compiler import compile
    return compile(
        model, target_, input_shape=shapes, sign_zero=sign_zero.value, kernels=kernels, progress=step, **options
    )


def _verify(module: CompiledModule, console: Console, **options: Any) -> None:
    from .tables import verification_table

    with _steps() as step:
        step("comparing with onnxruntime")
        found = module.verify(check=False, **options)
    console.print("", verification_table(found))
    if not found.passed:
        raise typer.Exit(MISMATCH)


def _target(text: str) -> str | dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"--target {text} is neither a name nor JSON: {error}") from None


def _shapes(texts: list[str] | None) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    if len(pairs) == 1 and not pairs[0][1]:
        return _dimensions(texts[0])
    for text, (_, equals, _) in zip(texts, pairs, strict=True):
        if not equals:
            raise InputError(
                f"with several inputs each --input-shape needs a name, as in image=1,3,224,224, not {text}"
            )
    return {name: _dimensions(shape) for name, _, shape in pairs}


def _bench_layers(file: Path, compile: Callable[[Callable[[str], None]], CompiledModule]) -> None:
    from .tables import profile_table

    if _is_library(file):
        raise InputError(f"--layers wants the ONNX model that {file} was compiled from")
    with _steps() as step:
        module = compile(step)
        step("timing the kernels")
        times = module.profile()
    console = _console()
    console.print(profile_table(file.name, times))
    console.print("\nOne thread; a kernel that has no weights is compared with loads from L2.", style="dim")


def _kernels(texts: list[str] | None) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in texts or ()]
    for text, (layer, _, family) in zip(texts or (), pairs, strict=True):
        if not layer or not family:
            raise InputError(f"a kernel is chosen as in layers.0.conv=counters, but got {text!r}")
    return {layer: family for layer, _, family in pairs}


def _dimensions(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InputError(f"a shape is written as in 1,3,224,224, but got {text!r}") from None


def _read_arrays(path: Path) -> Any:
    from zipfile import BadZipFile

    import numpy as np

    try:
        arrays = np.load(path, allow_pickle=False)
        return arrays if isinstance(arrays, np.ndarray) else dict(arrays)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is not an .npy or .npz file of numbers: {error}") from None


def _is_library(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF" or path.suffix == ".so"
    except OSError:
        return path.suffix == ".so"  # whoever reads it says what is wrong


def _check_is_model(path: Path) -> None:
    if _is_library(path):
        raise InputError(f"{path} is a compiled library: name the ONNX model that it was compiled from")


def _same_interface(other: LoadedModule, loaded: LoadedModule) -> LoadedModule:
    shapes = [[(spec.shape, spec.dtype) for spec in module.inputs] for module in (other, loaded)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the two libraries take different inputs: {other} and {loaded}")
    return other


def _onnxruntime(module: CompiledModule, inputs: tuple[np.ndarray, ...], threads: int) -> Callable[[], object]:
    """onnxruntime at its best on the same model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = module.imported.model.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: array for spec, array in zip(module.inputs, inputs, strict=True)}
    return lambda: session.run(None, feeds)
