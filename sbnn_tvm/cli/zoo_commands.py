"""The commands ``zoo list`` and ``zoo show``."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import examples, result_console
from .model_files import ZOO

zoo_app = typer.Typer(
    help="Small trained models that come with this package.",
    no_args_is_help=True,
    epilog=examples(
        "sbnn-tvm zoo list",
        "sbnn-tvm zoo show mnist-sbnn-5",
        "sbnn-tvm compile zoo:mnist-sbnn-5     [dim]any command takes a model of the zoo by name[/]",
    ),
)


@zoo_app.command("list")
def list_models() -> None:
    """List the models: what they do, how well, and their size."""
    from ..zoo import load, names
    from .tables import zoo_table

    result_console().print(zoo_table([load(name).card for name in names()]))


@zoo_app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `sbnn-tvm zoo list` shows.")]) -> None:
    """Show the card of a model: data, architecture, accuracy, licence, and the command that trained it."""
    from ..zoo import load
    from .tables import card_table

    model = load(name.removeprefix(ZOO))
    result_console().print(card_table(model.card, model.path))
