"""The command ``bench``: time a model here, or on a board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, LibraryError, TargetError
from ..runtime.hide_torch import hide_torch
from .console import examples, result_console, shown_steps
from .flags import CompileFlags, expand_flags
from .model_commands import compile_model
from .model_files import ModelOrLibrary, is_library

if TYPE_CHECKING:
    import numpy as np

    from ..module import CompiledModule
    from ..runtime.loaded_module import LoadedModule

BENCH_EXAMPLES = examples(
    "sbnn-tvm bench model.so",
    "sbnn-tvm bench model.onnx --against onnxruntime --threads 2",
    "sbnn-tvm bench new.so --against old.so --seconds 20",
    "sbnn-tvm bench model.onnx --layers",
    "sbnn-tvm bench model.onnx -t cortex-a72 --ssh pi@192.168.1.7     [dim]on a board, which needs only ssh[/]",
    "sbnn-tvm bench model.onnx -t cortex-a72 --rpc tracker:9190/pi4    [dim]on a board with TVM's RPC server[/]",
)


@expand_flags
def bench(
    file: ModelOrLibrary,
    threads: Annotated[int, typer.Option(help="Threads that share the work of a layer.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time to measure, approximately.")] = 5.0,
    against: Annotated[
        str | None,
        typer.Option(metavar="onnxruntime|OTHER.so", help="Compare with this: run both in turns, and print the ratio."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time every kernel alone, and compare it with the machine's limits.")
    ] = False,
    ssh: Annotated[
        str | None,
        typer.Option(metavar="USER@HOST", help="Measure on this board, by a program that is copied there and removed."),
    ] = None,
    ssh_port: Annotated[int | None, typer.Option(metavar="PORT", help="With --ssh: the port of its server.")] = None,
    ssh_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --ssh: a configuration for ssh instead of ~/.ssh/config, with its key."
        ),
    ] = None,
    rpc: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT/KEY", help="Measure on a board that a tracker of TVM has under this key."),
    ] = None,
    *,
    flags: CompileFlags,
) -> None:
    """Time a model on this machine or on a board, on random inputs."""
    import numpy as np

    from ..profiling.timing import interleave
    from ..runtime.inputs import random_inputs
    from ..runtime.loading import load
    from ..temporary_folder import temporary_folder
    from .tables import timing_table

    if not 0 < seconds < float("inf"):
        raise InputError(f"the time to measure must be above 0, but --seconds is {seconds}")
    if against not in (None, "onnxruntime") and not Path(against or "").exists():
        raise InputError(f"--against takes onnxruntime or a compiled library, and there is no file {against}")
    if ssh is None and (ssh_port is not None or ssh_config is not None):
        raise InputError("--ssh-port and --ssh-config are for --ssh USER@HOST, which measures on a board")
    if ssh is not None or rpc is not None:
        _check_board_options(file, against, layers, ssh is not None and rpc is not None)
        if ssh is not None:
            _bench_by_ssh(file, flags, ssh, ssh_port, ssh_config, seconds, threads)
        elif rpc is not None:
            _bench_by_rpc(file, flags, rpc, seconds, threads)
        return
    if layers:
        _bench_layers(file, flags)
        return
    console = result_console()
    module: CompiledModule | None = None
    with shown_steps() as step, temporary_folder(LibraryError) as folder:
        if is_library(file):
            if against == "onnxruntime":
                raise InputError(f"onnxruntime cannot run {file}: name the model that it was compiled from")
            loaded = load(file, threads)
        else:
            module = compile_model(file, flags, step)
            if not module.target.native:
                raise TargetError(
                    f"code for {module.target} does not run on this machine, so it cannot be timed here: time it on a "
                    f"board by --ssh USER@HOST"
                )
            step("linking")
            loaded = load(module.export(folder / "model.so"), threads)
        inputs = random_inputs(loaded.inputs, np.random.default_rng(0))
        functions: dict[str, Callable[[], object]] = {file.name: lambda: loaded.run(*inputs)}
        if against == "onnxruntime" and module is not None:
            functions["onnxruntime"] = _onnxruntime(module, inputs, threads)
        elif against is not None:
            other = _same_interface(load(against, threads), loaded)
            functions[against] = lambda: other.run(*inputs)
        step(f"measuring for {seconds:g} s")
        times = interleave(functions, seconds)
    console.print(timing_table(times))
    notes = [
        f"{loaded.num_threads} thread{'s' * (loaded.num_threads != 1)}, called from Python.",
        "Compare minima: a median far above its minimum shows that other programs used the machine.",
    ]
    if against == "onnxruntime":
        notes.append(
            "onnxruntime runs the same ONNX model with its optimisations. It computes binary layers in float, after "
            "their binarisers; a float network without binarisers is faster there."
        )
    console.print("", " ".join(notes), sep="\n", style="dim")


def _bench_layers(file: Path, flags: CompileFlags) -> None:
    from .tables import profile_table

    if is_library(file):
        raise InputError(f"--layers needs the model that {file} was compiled from")
    with shown_steps() as step:
        module = compile_model(file, flags, step)
        step("timing the kernels")
        times = module.profile()
    console = result_console()
    console.print(profile_table(file.name, times))
    console.print("\nOne thread. A kernel without weights is compared with loads from L2.", style="dim")


def _check_board_options(file: Path, against: str | None, layers: bool, both: bool) -> None:
    if both:
        raise InputError("--ssh and --rpc name two ways to a board: give one of them")
    if layers or against is not None:
        raise InputError(f"{'--layers' if layers else '--against'} measures on this machine: leave out --ssh or --rpc")
    if is_library(file):
        raise InputError(f"a board gets a program made from the model: name the model that {file} was compiled from")


def _bench_by_ssh(
    file: Path, flags: CompileFlags, host: str, port: int | None, config: Path | None, seconds: float, threads: int
) -> None:
    from ..profiling.board import Board, measure_on_board
    from .tables import board_table, timing_table

    board = Board(host, port, config)
    if config is not None and not config.is_file():
        raise InputError(f"there is no file {config}, which --ssh-config names")
    if threads < 1:
        raise InputError(f"the number of threads must be positive, but --threads is {threads}")
    with shown_steps() as step:
        module = compile_model(file, flags, step)
        found = measure_on_board(module, board, seconds, threads, step)
    console = result_console()
    console.print(timing_table({file.name: found.timing}), "", board_table(found, str(board)))
    console.print("\nCalled from C, inputs and outputs in place.", style="dim")


def _bench_by_rpc(file: Path, flags: CompileFlags, address: str, seconds: float, threads: int) -> None:
    import numpy as np

    from ..profiling.timing import Timing
    from ..runtime.inputs import random_inputs
    from ..temporary_folder import temporary_folder
    from .tables import timing_table

    with shown_steps() as step, temporary_folder(LibraryError) as folder:
        module = compile_model(file, flags, step)
        with hide_torch():
            from ..tuning.named_runner import runner_named
        step(f"asking the tracker at {address}")
        runner = runner_named(f"rpc://{address}", threads)
        try:
            library = module.export(folder / "model.so", "tvm")
            step(f"measuring for {seconds:g} s")
            inputs = random_inputs(module.inputs, np.random.default_rng(0))
            turns = runner.time_networks({file.name: library}, inputs, seconds)
        finally:
            runner.close()
    console = result_console()
    console.print(
        timing_table({name: Timing.of([run for turn in each for run in turn]) for name, each in turns.items()})
    )
    console.print(f"\nOn a board of {address}, with TVM's runtime.", style="dim")


def _same_interface(other: LoadedModule, loaded: LoadedModule) -> LoadedModule:
    shapes = [[(spec.shape, spec.dtype) for spec in module.inputs] for module in (other, loaded)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the two libraries take different inputs: {other} and {loaded}")
    return other


def _onnxruntime(module: CompiledModule, inputs: tuple[np.ndarray, ...], threads: int) -> Callable[[], object]:
    """The same model in onnxruntime, with all its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = module.imported.model.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: array for spec, array in zip(module.inputs, inputs, strict=True)}
    return lambda: session.run(None, feeds)
