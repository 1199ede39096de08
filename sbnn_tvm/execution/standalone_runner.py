"""Run a C library as others use it: in a program of its own, outside this process.

A static library is linked into a small C program, which runs on this machine if it is for its CPU, otherwise in an
emulator of that CPU (qemu-user). A WebAssembly module runs in Node.js, through the ES module beside it. The program
(standalone_programs/) reads inputs from its standard input, and writes outputs to its standard output.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..deploy.c_library.toolchain import Toolchain
from ..deploy.c_library.write_library import RUNTIME
from ..deploy.linking import find_zig
from ..deploy.targets import CpuTarget
from ..errors import EmulationError
from ..runtime.metadata import TensorSpec
from ..temporary_folder import temporary_folder

Export = Callable[[Path], object]
"""Writes a model to a path; its suffix says as what."""

_PROGRAMS = files(__package__) / "standalone_programs"
_LIMIT = 600.0  # seconds

# zig's name of an architecture, and options of its compiler.
_COMPILED = {
    "x86_64": ("x86_64", ()),
    "aarch64": ("aarch64", ()),
    "arm": ("arm", ("-mcpu=cortex_a7",)),
    "riscv64": ("riscv64", ()),
}
_EMULATORS = {"aarch64": "qemu-aarch64", "arm": "qemu-arm", "riscv64": "qemu-riscv64"}

# What a library refers to but never calls on one thread and without exceptions.
_NEVER_CALLED = re.compile(r"pthread_\w+|sig\w+|sched_\w+|syscall|sysconf|__errno_location|__aeabi_unwind_\w+")


def why_not(target: CpuTarget) -> str | None:
    """Why a library for ``target`` cannot run on this machine, as a clause; None if it can."""
    if target.machine == "wasm32":
        return None if shutil.which("node") else "Node.js is not installed (node)"
    if target.machine not in _COMPILED or target.platform.system not in ("linux", "android"):
        return f"there is no emulator for {target.platform} on {target.machine}"
    if find_zig() is None:
        return "there is no C compiler: pip install ziglang"
    emulator = _emulator(target)
    if emulator and shutil.which(emulator[0]) is None:
        return f"the emulator {emulator[0]} is not installed (Debian: qemu-user)"
    if not emulator and not target.native:
        return f"this CPU lacks features of {target}"
    return None


def how(target: CpuTarget) -> str:
    """What runs a library for ``target``: ``"this machine"``, or the name of a program."""
    if target.machine == "wasm32":
        return "node"
    return (*_emulator(target), "this machine")[0]


def run_standalone(
    export: Export,
    symbol: str,
    target: CpuTarget,
    outputs: Sequence[TensorSpec],
    samples: Sequence[Sequence[np.ndarray]],
    limit: float = _LIMIT,
) -> list[tuple[np.ndarray, ...]]:
    """Run a model on inputs, in a program of its own, on one thread.

    Args:
        export: Writes the model as a C library, for example ``CompiledModule.export``.
        symbol: What the names of its functions begin with.
        target: The target that it was compiled for.
        outputs: The outputs of the model.
        samples: The inputs of each run, in the order of the model, of its shapes and dtypes.
        limit: Seconds that all runs together may take.

    Returns:
        The outputs of each run.

    Raises:
        EmulationError: If the library cannot run here (``why_not``), or fails or takes too long.
        LibraryError: If it cannot be exported or linked.
    """
    reason = why_not(target)
    if reason is not None:
        raise EmulationError(f"a library for {target} cannot run here: {reason}")
    with temporary_folder(EmulationError) as folder:
        if target.machine == "wasm32":
            export(folder / f"{symbol}.wasm")
            script = folder / "node.mjs"
            script.write_bytes((_PROGRAMS / "node.mjs").read_bytes())
            command = ("node", str(script), str(folder / f"{symbol}.mjs"))
        else:
            export(folder / f"{symbol}.a")
            command = (*_emulator(target), str(_program(folder, symbol, target)))
        data = b"".join(b"\1" + b"".join(np.ascontiguousarray(x).tobytes() for x in sample) for sample in samples)
        written = _run(command, data, target, limit)
    return _read(written, outputs, len(samples), target)


def _program(folder: Path, symbol: str, target: CpuTarget) -> Path:
    """Link ``symbol``.a, whose header is beside it, into a program."""
    architecture, flags = _COMPILED[target.machine]
    for name in ("host.h", "linux.c", "hosted.c"):
        (folder / name).write_bytes((_PROGRAMS / name).read_bytes())
    (folder / "freestanding.c").write_bytes((RUNTIME / "freestanding.c").read_bytes())
    (folder / "main.c").write_text((_PROGRAMS / "main.c.in").read_text("utf-8").replace("@NAME@", symbol), "utf-8")
    environment = "eabihf" if architecture == "arm" else "none"
    bare = Toolchain(f"{architecture}-freestanding-{environment}", folder, (*flags, "-ffreestanding", "-fno-builtin"))
    objects = [folder / f"{name}.o" for name in ("linux", "main", "freestanding")]
    for each in objects:
        bare.compile(each.with_suffix(".c"), each)
    program, library = folder / "program", folder / f"{symbol}.a"
    missing = bare.link_program(program, [*objects, library])
    if all(map(_NEVER_CALLED.fullmatch, missing)):
        return program
    system = "linux-musleabihf" if architecture == "arm" else "linux-musl"
    hosted = Toolchain(f"{architecture}-{system}", folder, flags)
    hosted.build_program(program, [folder / "main.c", folder / "hosted.c", library])
    return program


def _emulator(target: CpuTarget) -> tuple[str, ...]:
    """The command that runs a program for ``target``, before the name of its file."""
    if target.native or target.machine not in _EMULATORS:
        return ()
    name = _EMULATORS[target.machine]
    if target.machine != "riscv64":
        return (name,)
    cpu = ["rv64", *(f"{each}=true" for each in sorted(target.features) if each != "v")]
    if "v" in target.features:
        cpu += ["v=true", "vlen=128", "vext_spec=v1.0"]
    return (name, "-cpu", ",".join(cpu))


def _run(command: Sequence[str], data: bytes, target: CpuTarget, limit: float) -> bytes:
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise EmulationError(f"the library for {target} was still running in {command[0]} after {limit:g} s") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        errors = [line for line in said if "Error" in line] or said
        code = done.returncode
        ended = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise EmulationError(f"the library for {target} failed in {Path(command[0]).name}: {(*errors, ended)[0]}")
    return done.stdout


def _read(data: bytes, outputs: Sequence[TensorSpec], runs: int, target: CpuTarget) -> list[tuple[np.ndarray, ...]]:
    results, at = [], 0
    for _ in range(runs):
        arrays = []
        for spec in outputs:
            count = int(np.prod(spec.shape, dtype=np.int64))
            if at + count * np.dtype(spec.dtype).itemsize > len(data):
                raise EmulationError(f"the library for {target} wrote {len(data)} bytes, fewer than its outputs have")
            arrays.append(np.frombuffer(data, spec.dtype, count, at).reshape(spec.shape).copy())
            at += arrays[-1].nbytes
        results.append(tuple(arrays))
    return results
