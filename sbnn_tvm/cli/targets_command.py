"""The command ``targets``."""

from __future__ import annotations

from ..runtime.hide_torch import hide_torch
from .console import result_console, shown_steps


def targets() -> None:
    """List the named targets, and which of them run on this machine."""
    with shown_steps() as step:
        step("asking LLVM")
        with hide_torch():
            from ..deploy.targets import KNOWN, resolve
        from .tables import targets_table

        known = {name: resolve(name) for name in KNOWN}
    console = result_console()
    console.print(targets_table(known))
    console.print(
        '\nFor any other CPU, pass a TVM target: --target \'{"kind": "llvm", "mtriple": "aarch64-linux-gnu", '
        '"mcpu": "cortex-a76"}\'',
        style="dim",
    )
