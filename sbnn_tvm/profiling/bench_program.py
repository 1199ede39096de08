"""Build a program that measures a model on a machine that has nothing but Linux."""

from __future__ import annotations

from pathlib import Path

from ..deploy.c_library.toolchain import Toolchain
from ..deploy.c_library.write_library import c_identifier
from ..deploy.targets import CpuTarget
from ..errors import TargetError
from ..execution.runnable_model import RunnableModel

_SOURCE = Path(__file__).with_name("bench_program.c")
_MUSL = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "arm": "arm-linux-musleabihf",
    "riscv64": "riscv64-linux-musl",
}


def check_has_bench_program(target: CpuTarget) -> None:
    """Refuse a target without processes and files.

    Raises:
        TargetError: If there is no program for the target.
    """
    if target.platform.system not in ("linux", "android") or target.machine not in _MUSL:
        raise TargetError(
            f"a board is measured by a program for Linux, but {target} is {target.machine} with {target.platform}"
        )


def write_bench_program(module: RunnableModel, folder: Path) -> Path:
    """Write ``bench_program.c`` with the model as one static program; ``board.py`` reads what it prints.

    It is linked with musl, which zig compiles for each architecture once, in about a minute, and keeps in its cache.

    Args:
        module: The model.
        folder: Where to write the program and the static library.

    Returns:
        The program.

    Raises:
        TargetError: If there is no program for the target.
        LibraryError: If the model needs TVM's runtime, or the compiler fails.
    """
    check_has_bench_program(module.target)
    name = c_identifier(module.report.model)
    library, program = module.export(folder / "model.a", "c"), folder / "bench_program"
    header = library.with_name(f"{name}.h")
    options = ("-std=c11", "-D_GNU_SOURCE", f"-DMODEL_NAME={name}", "-include", str(header))
    Toolchain(_MUSL[module.target.machine], folder).build_program(program, [_SOURCE, library], options)
    return program
