"""The commands ``compile``, ``verify`` and ``inspect``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group

from ..errors import InputError, LibraryError
from ..runtime.hide_torch import hide_torch
from .console import bold, examples, plain, result_console, shown_steps
from .exit_codes import MISMATCH
from .flags import CompileFlags, expand_flags
from .model_files import ModelFile, ModelOrLibrary, check_is_model, is_library, read_arrays

if TYPE_CHECKING:
    from ..deploy.platforms import Platform
    from ..module import CompiledModule

COMPILE_EXAMPLES = examples(
    "sbnn-tvm compile model.onnx -o model.so",
    "sbnn-tvm compile model.onnx --target arm -o model-arm.so --verify",
    "sbnn-tvm compile model.onnx -o model.a           [dim]a static library and its header, for a C program[/]",
    "sbnn-tvm compile model.onnx -o model             [dim]a folder with CMakeLists.txt, for a C project[/]",
    "sbnn-tvm compile model.onnx --runtime tvm        [dim]for TVM's runtime[/]",
    "sbnn-tvm compile model.onnx --input-shape 1,3,224,224 --report report.json",
    "sbnn-tvm compile model.onnx --input-shape x=1,3,64,64 --input-shape y=1,4",
)
VERIFY_EXAMPLES = examples(
    "sbnn-tvm verify model.onnx",
    "sbnn-tvm verify model.onnx --target arm --samples 1     [dim]in an emulator[/]",
    "sbnn-tvm verify model.onnx --input images.npy --tolerance 1e-5",
)
INSPECT_EXAMPLES = examples(
    "sbnn-tvm inspect model.onnx --target arm     [dim]which layers become binary[/]",
    "sbnn-tvm inspect model.so                    [dim]the interface and target of a library, for any CPU[/]",
    "sbnn-tvm inspect model.onnx --values conv1   [dim]which values the layer conv1 reads, and its weights[/]",
)


class RuntimeChoice(str, Enum):
    """What a library needs to run."""

    c = "c"
    tvm = "tvm"


@expand_flags
def compile_(
    model: ModelFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="What to write: FILE.so is a shared library, FILE.a a static one; FILE.zip, or a folder (no suffix), "
            "has the sources, objects and constants.",
            show_default="MODEL.so; .dylib for macOS, .a for iOS and microcontrollers, .wasm for wasm",
        ),
    ] = None,
    runtime: Annotated[
        RuntimeChoice | None,
        typer.Option(
            help="c: a C library, which needs nothing; tvm: a shared library for TVM's runtime.",
            show_default="c, unless the model needs TVM",
        ),
    ] = None,
    *,
    flags: CompileFlags,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a model if a binary layer would run in float.")
    ] = False,
    dump: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the module after each phase to FOLDER, as TVMScript.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Also write the report to a file.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with onnxruntime first; write nothing if they differ.")
    ] = False,
) -> None:
    """Compile an ONNX or TFLite model to a library, and report what each layer became.

    C programs include the header that is written beside it. Python runs a shared library by
    [bold]sbnn_tvm.load("model.so").run(x)[/], which needs only numpy.
    """
    from ..atomic_file import check_destination, replacing

    check_is_model(model)
    _check_output(output or Path(model.stem + ".so"), runtime)
    if report is not None:
        check_destination(report, LibraryError)
    console = result_console()
    with shown_steps() as step:
        module = compile_model(model, flags, step, strict=strict, dump=dump)
    console.print(module.report)
    if verify:
        _verify(module, console)
    if output is None:
        output = Path(model.stem + _default_suffix(module.target.platform))
    with shown_steps() as step:
        step("linking")
        module.export(output, None if runtime is None else runtime.value)
    if report is not None:
        with replacing(report, LibraryError) as draft:
            draft.write_text(json.dumps(json.loads(module.report.to_json()), indent=2) + "\n")
    from ..deploy.library_parts import library_parts
    from .tables import readable_bytes

    files = [output] if output.is_file() else list(output.iterdir())
    size = readable_bytes(sum(file.stat().st_size for file in files))
    parts = library_parts(output) if output.is_file() else None
    console.print("\n", bold(output), plain(f": {size} for {module.target.triple}"), sep="")
    if parts is not None:
        console.print(plain(str(parts)))


def _check_output(output: Path, runtime: RuntimeChoice | None) -> None:
    """Refuse what cannot be written for any target, before a long compilation."""
    from ..atomic_file import check_destination

    forms = (".so",) if runtime is RuntimeChoice.tvm else _FORMS
    if output.suffix not in forms:
        last = forms[-1] or "a folder, which has no suffix"
        allowed = f"{', '.join(forms[:-1])} or {last}" if len(forms) > 1 else last
        what = "a library for TVM's runtime" if runtime is RuntimeChoice.tvm else "a compiled model"
        raise InputError(f"the output of {what} is a file {allowed}, but --output is {output}")
    if output.suffix:
        check_destination(output, LibraryError)
    elif not output.parent.is_dir():
        raise LibraryError(f"cannot write {output}: there is no folder {output.parent}")


_FORMS = (".so", ".a", ".zip", ".dylib", ".wasm", "")


def _default_suffix(platform: Platform) -> str:
    """What is written for a platform if the user does not say."""
    if platform.shared_libraries:
        return ".dylib" if platform.system == "macos" else ".so"
    return ".a" if platform.static_libraries else ".wasm"


@expand_flags
def verify(
    model: ModelFile,
    samples: Annotated[int, typer.Option(help="Number of random inputs.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference of floats, relative to the largest value.",
            show_default="1e-4 for float32, 0.004 for float16, 1e-9 for float64",
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy|npz",
            help="Inputs to use instead of random ones, one or several; .npz has one array per input name.",
        ),
    ] = None,
    *,
    flags: CompileFlags,
) -> None:
    """Compile a model and compare every output and every layer with onnxruntime.

    A build for an ARM CPU runs in an emulator.

    A bit whose value is within the rounding error of its threshold counts as flipped, not as wrong.
    """
    check_is_model(model)
    arrays = None if input is None else read_arrays(input)
    console = result_console()
    with shown_steps() as step:
        module = compile_model(model, flags, step)
    _verify(module, console, inputs=arrays, samples=samples, seed=seed, tolerance=tolerance)


@expand_flags
def inspect(
    file: ModelOrLibrary,
    values: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Show which values the weights and activations of a layer take, named as in the report.",
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy|npz",
            help="With --values: an input to use instead of a random one; .npz has one array per input name.",
        ),
    ] = None,
    *,
    flags: CompileFlags,
) -> None:
    """Show what each layer of a model would become, or became in a library. No machine code is made or run."""
    console = result_console()
    if input is not None and values is None:
        raise InputError("--input is for --values LAYER, which shows the values of a layer")
    if values is not None:
        check_is_model(file)
        console.print(_values(file, values, input, flags))
        return
    if is_library(file):
        from ..deploy.library_parts import library_parts
        from ..report.report import Report
        from ..runtime.loading import read_metadata
        from .tables import metadata_table

        metadata = read_metadata(file)
        try:
            report = Report.from_json(metadata.report)
        except ValueError as error:
            raise LibraryError(f"{file} cannot be shown: {error}; compile the model again") from None
        console.print(metadata_table(metadata, library_parts(file)), "")
        console.print(report)
        return
    with shown_steps() as step:
        step("loading the compiler")
        target, options = flags.tvm_target(), flags.options()
        with hide_torch():
            from ..compiler import explain
        report = explain(file, target, options, progress=step)
    console.print(report)


def _values(model: Path, layer: str, input: Path | None, flags: CompileFlags) -> Group:
    """The values of one layer, in onnxruntime."""
    arrays = None if input is None else read_arrays(input)
    with shown_steps() as step:
        step("loading the compiler")
        target, options = flags.tvm_target(), flags.options()
        with hide_torch():
            from ..compiler import lower_model
            from ..runtime.inputs import split_batches
            from ..verification.layer_values import layer_values
        front = lower_model(model, target, options, step)
        given = None if arrays is None else split_batches(front.imported.inputs, arrays)
        if given is not None and len(given) != 1:
            raise InputError(f"--values shows one input of the model, but {input} has {len(given)}")
        step("running onnxruntime")
        found = layer_values(front.imported, layer, None if given is None else given[0])
    from .values_tables import values_tables

    line = next((each for each in front.report.layers if each.name == layer), None)
    return values_tables(found, line, "a random input" if input is None else str(input))


def compile_model(
    model: Path, flags: CompileFlags, step: Callable[[str], None], strict: bool = False, dump: Path | None = None
) -> CompiledModule:
    """Compile a file as the flags say."""
    step("loading the compiler")
    target, options = flags.tvm_target(), replace(flags.options(), strict=strict, dump=dump)
    with hide_torch():
        from ..compiler import compile
    return compile(model, target, options, progress=step)


def _verify(module: CompiledModule, console: Console, **options: Any) -> None:
    from .tables import verification_table

    with shown_steps() as step:
        step("comparing with onnxruntime")
        found = module.verify(check=False, **options)
    console.print("", verification_table(found))
    if not found.passed:
        raise typer.Exit(MISMATCH)
