"""The command line, ``sbnn-tvm``: its commands, its errors and its exit codes.

It starts fast because it imports little: each command imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from typer.core import TyperGroup
except ModuleNotFoundError as error:  # where models are only run
    raise SystemExit(f'error: the command line needs {error.name}: pip install "sbnn-tvm[compile]"') from None

from .. import __version__
from ..errors import SbnnError
from .bench_command import BENCH_EXAMPLES, bench
from .console import complain, examples
from .exit_codes import DEFECT, INTERRUPTED, USER_ERROR
from .export_demo_command import EXPORT_DEMO_EXAMPLES, export_demo
from .model_commands import COMPILE_EXAMPLES, INSPECT_EXAMPLES, VERIFY_EXAMPLES, compile_, inspect, verify
from .targets_command import targets
from .tuning_commands import TUNE_EXAMPLES, tune, tuning_app

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
"""The extra of ``pip install`` that brings a package."""


class _Commands(TyperGroup):
    """Ends every command with an exit code, and explains every error of the user in one sentence."""

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.params.get("debug", False)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except SbnnError as error:
            if debug:
                Console(stderr=True).print_exception()
            complain(str(error))
            raise typer.Exit(USER_ERROR) from None
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").split(".")[0])
            if extra is None or debug:
                raise
            complain(f'this needs {error.name}: pip install "sbnn-tvm[{extra}]"')
            raise typer.Exit(USER_ERROR) from None
        except Exception as error:
            if debug or isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "exit_code"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            complain(f"a defect of sbnn-tvm, not of your input: {reason}; `sbnn-tvm --debug ...` shows where")
            raise typer.Exit(DEFECT) from None


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "sbnn-tvm export-demo -o model.onnx     [dim]a model to try the commands on[/]",
        "sbnn-tvm inspect model.onnx            [dim]which layers become binary[/]",
        "sbnn-tvm compile model.onnx -o model.so",
        "sbnn-tvm verify model.onnx --target arm",
        "sbnn-tvm bench model.so",
        "sbnn-tvm tune model.onnx && sbnn-tvm compile model.onnx --tuning tuning.jsonl",
    )
    + "\n\nExit codes: 0 success, 1 the compiled model differs from onnxruntime, 2 a wrong argument, file or option.",
)
app.command("compile", epilog=COMPILE_EXAMPLES)(compile_)
app.command("verify", epilog=VERIFY_EXAMPLES)(verify)
app.command("inspect", epilog=INSPECT_EXAMPLES)(inspect)
app.command("bench", epilog=BENCH_EXAMPLES)(bench)
app.command("tune", epilog=TUNE_EXAMPLES)(tune)
app.add_typer(tuning_app, name="tuning")
app.command("targets")(targets)
app.command("export-demo", epilog=EXPORT_DEMO_EXAMPLES)(export_demo)


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
    """Compile sparse binary neural networks from PyTorch, through ONNX, to one small, fast library for a CPU."""


def main() -> None:
    """The entry point."""
    app(prog_name="sbnn-tvm")
