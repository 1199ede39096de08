"""The command ``bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, LibraryError, TargetError
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
    *,
    flags: CompileFlags,
) -> None:
    """Time a model on this machine, on random inputs."""
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
                raise TargetError(f"code for {module.target} does not run on this machine, so it cannot be timed here")
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
