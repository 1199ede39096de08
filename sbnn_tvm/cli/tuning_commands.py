"""The command ``tune``, and the commands ``tuning show``, ``merge``, ``export``, ``plot`` and ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..runtime.hide_torch import hide_torch
from .console import bold, examples, plain, result_console, shown_steps, warn
from .flags import ModelFlags, expand_flags
from .model_files import ModelFile, check_is_model

TUNE_EXAMPLES = examples(
    "sbnn-tvm tune model.onnx --time-budget 300",
    "sbnn-tvm compile model.onnx --tuning tuning.jsonl",
    "sbnn-tvm tune model.onnx --target cortex-a72 --runner rpc://tracker:9190/pi4     [dim]on boards[/]",
    "sbnn-tvm tune model.onnx --target arm --runner estimated     [dim]count instructions, without hardware[/]",
)


@expand_flags
def tune(
    model: ModelFile,
    database: Annotated[
        Path, typer.Option("--database", "-d", metavar="FILE", help="The database of measurements.")
    ] = Path("tuning.jsonl"),
    trials: Annotated[
        int | None, typer.Option(help="Largest number of measurements.", show_default="as many as promise a gain")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time to stop after.", show_default="no limit")
    ] = None,
    runner: Annotated[
        str, typer.Option(metavar="local|estimated|rpc://HOST:PORT/KEY", help="Where to measure.")
    ] = "local",
    threads: Annotated[int, typer.Option(help="Threads that share the work of a layer.")] = 1,
    *,
    flags: ModelFlags,
) -> None:
    """Find the fastest kernels for the layers of a model by measuring them.

    Every measurement is stored at once. So it may be stopped at any moment, and continues there the next time.
    """
    from .tuning_tables import result_table, shown_progress

    check_is_model(model)
    with shown_steps() as step:
        step("loading the compiler")
        target, options = flags.tvm_target(), flags.options()
        with hide_torch():
            from ..tuning.tuner import tune as tune_model
    with shown_progress() as progress:
        result = tune_model(
            model,
            target,
            options,
            database=database,
            trials=trials,
            time_budget=time_budget,
            runner=runner,
            threads=threads,
            progress=progress,
        )
    console = result_console()
    console.print(result_table(result))
    console.print("\n", bold(database), plain(f": {result.machine}"), "\n", plain(result.summary()), sep="")
    for line in result.skipped:
        warn(line)


tuning_app = typer.Typer(help="Read tuning databases, and serve boards.", no_args_is_help=True)

DatabaseFile = Annotated[Path, typer.Argument(metavar="FILE", help="A tuning database.")]


@tuning_app.command(epilog=examples("sbnn-tvm tuning show tuning.jsonl"))
def show(database: DatabaseFile) -> None:
    """Show what was measured, for each machine."""
    from ..tuning_database.database import Database
    from .tuning_tables import database_table

    console, found = result_console(), Database(database, must_exist=True)
    for machine in found.machines():
        console.print(bold(machine), database_table(found, machine), "", sep="\n")
    for network in found.networks:
        verdict = "slower, not used" if network.slower else f"{network.gain:.3f}x"
        console.print(plain(f"{network.title} as a whole, tuned: {verdict} ({network.machine.cpu}, {network.when})"))
    for line in found.complaints():
        warn(line)


@tuning_app.command(epilog=examples("sbnn-tvm tuning merge all.jsonl mine.jsonl yours.jsonl"))
def merge(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The database to write; it is replaced.")],
    databases: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tuning databases.")],
) -> None:
    """Write the records of several databases to one, without duplicates."""
    from ..tuning_database.database import merge as merge_databases

    count, skipped = merge_databases(output, databases)
    for line in skipped:
        warn(line)
    result_console().print(bold(output), f": {count} records", sep="")


@tuning_app.command(epilog=examples("sbnn-tvm tuning export tuning.jsonl -o best.jsonl"))
def export(
    database: DatabaseFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The database to write; it is replaced.")
    ],
) -> None:
    """Write only the records that `compile` needs: the measurements of the fastest candidate of each task."""
    from ..tuning_database.database import Database, write

    found = Database(database, must_exist=True)
    records = found.decisive()
    write(output, records)
    for line in found.complaints():
        warn(line)
    result_console().print(bold(output), f": {len(records)} records", sep="")


@tuning_app.command(epilog=examples("sbnn-tvm tuning plot tuning.jsonl -o pictures"))
def plot(
    database: DatabaseFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the plots.")] = Path("."),
) -> None:
    """Plot the best gain of each task over time, and the time of each task tuned and untuned."""
    from ..tuning.plots import draw
    from ..tuning_database.database import Database

    for file in draw(Database(database, must_exist=True), output):
        result_console().print(bold(file))


@tuning_app.command(
    epilog=examples(
        "python -m tvm.exec.rpc_tracker --port 9190                          [dim]once[/]",
        "sbnn-tvm tuning serve --host 0.0.0.0 --tracker 192.168.1.2:9190 --key pi4     [dim]on every board[/]",
    )
)
def serve(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="TVM's RPC tracker.")],
    key: Annotated[str, typer.Option(help="A name for all boards of this kind.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The first port to try.")] = 9090,
) -> None:
    """Run measurements of other machines on this one, until it is interrupted.

    It executes code of whoever connects: anyone who reaches the tracker or this server can run any code here. Use it in
    a trusted network only.
    """
    import time

    from ..tuning.rpc_runner import serve as start

    name, _, number = tracker.rpartition(":")
    if not name or not number.isdigit():
        raise InputError(f"a tracker is written as in 192.168.1.2:9190, but got {tracker!r}")
    if _is_local(host) and not _is_local(name):
        warn(f"only this machine can connect to {host}: for other machines, give an address of this one, as --host")
    server = start(host, port, (name, int(number)), key)
    result_console().print(f"serving as {key!r} on {host}:{server.port} for the tracker at {tracker}")
    try:
        while True:
            time.sleep(1)
    finally:
        server.terminate()


def _is_local(host: str) -> bool:
    """Whether other machines cannot reach an address of this machine."""
    return host == "localhost" or host.startswith("127.") or host == "::1"
