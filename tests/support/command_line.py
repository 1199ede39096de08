"""Run a command of the command line in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from sbnn_tvm.cli import app as cli


def run(*arguments: object, code: int = 0, columns: int = 200) -> tuple[str, str]:
    """Run a command; returns what it wrote to stdout and stderr.

    Args:
        arguments: The command and its arguments.
        code: The exit code that it must have.
        columns: The width of the terminal, in characters.
    """
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result.stdout, result.stderr
