"""The command line, ``sbnn-tvm``: its commands, its errors and its exit codes.

It starts fast because it imports little: each command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from .exit_codes import DEFECT, INTERRUPTED, USER_ERROR

try:
    import typer
    from typer.core import TyperGroup

    from .console import check_terminal_size, complain, error_console, examples
except ModuleNotFoundError as error:  # where models are only run
    print(f'error: the command line needs {error.name}: pip install "sbnn-tvm[compile]"', file=sys.stderr)
    raise SystemExit(USER_ERROR) from None

from .. import __version__
from ..errors import DefectError, SbnnError
from ..extras import needed_by
from ..printable import printable
from .bench_command import BENCH_EXAMPLES, bench
from .export_demo_command import EXPORT_DEMO_EXAMPLES, export_demo
from .model_commands import COMPILE_EXAMPLES, INSPECT_EXAMPLES, VERIFY_EXAMPLES, compile_, inspect, verify
from .streams import flush, guard_streams
from .targets_command import targets
from .tuning_commands import TUNE_EXAMPLES, tune, tuning_app
from .zoo_commands import zoo_app


class _Commands(TyperGroup):
    """Ends every command with an exit code, and explains every error of the user in one sentence."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            raise _with_printable_message(error) from None

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.params.get("debug", False)
        try:
            with needed_by("this"):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except SbnnError as error:
            if debug:
                error_console().print_exception()
            complain(str(error))
            raise typer.Exit(DEFECT if isinstance(error, DefectError) else USER_ERROR) from None
        except Exception as error:
            if isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "exit_code"):
                raise _with_printable_message(error) from None
            if debug:
                error_console().print_exception()
            if isinstance(error, OSError) and error.strerror:  # of a disk, a permission, a name: not ours
                name = "" if error.filename is None else f": {error.filename}"
                complain(f"{error.strerror}{name}")
                raise typer.Exit(USER_ERROR) from None
            complain(_defect(error))
            raise typer.Exit(DEFECT) from None


def _defect(error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"a defect of sbnn-tvm, not of your input: {reason}; `sbnn-tvm --debug ...` shows where"


def _with_printable_message(error: Exception) -> Exception:
    """The error; if it is one of typer's, it quotes arguments, which may hold characters of control."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        error.message = "\n".join(map(printable, message.split("\n")))  # type: ignore[attr-defined]
    return error


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "sbnn-tvm zoo list                      [dim]trained models to try the commands on[/]",
        "sbnn-tvm compile zoo:mnist-sbnn-5      [dim]any command takes them by name[/]",
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
app.add_typer(zoo_app, name="zoo")
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
    guard_streams()
    check_terminal_size()
    code: object = 0
    try:
        app(prog_name="sbnn-tvm")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SbnnError as error:
        complain(str(error))
        code = USER_ERROR
    except Exception as error:
        complain(_defect(error))
        code = DEFECT
    try:
        flush()
    except SbnnError as error:
        complain(str(error))
        code = code or USER_ERROR
    raise SystemExit(code)
