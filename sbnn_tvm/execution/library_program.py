"""Run a C library as others use it: in a program of its own, outside this process, on one thread.

The program is linked with the static library (standalone_programs/main.c.in). A WebAssembly module runs in Node.js,
through the ES module that is exported beside it (standalone_programs/node.mjs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..deploy.targets import CpuTarget
from ..errors import EmulationError, LibraryError
from ..runtime.metadata import TensorSpec
from ..temporary_folder import temporary_folder
from .program_process import ProgramProcess
from .programs import link, read_source, why_not, write_sources

Export = Callable[[Path], object]
"""Writes a model to a path; its suffix says as what."""


class LibraryProgram:
    """A C library in a program that runs it on the inputs that it reads."""

    def __init__(self, export: Export, symbol: str, target: CpuTarget, outputs: Sequence[TensorSpec]) -> None:
        """Export the library, and start the program.

        Args:
            export: Writes the model as a C library, for example ``CompiledModule.export``.
            symbol: What the names of its functions begin with.
            target: The target that it was compiled for.
            outputs: The outputs of the model.

        Raises:
            EmulationError: If programs for the target cannot run on this machine (``programs.why_not``).
            LibraryError: If the library cannot be exported or linked.
        """
        if reason := why_not(target):
            raise EmulationError(f"a library for {target} cannot run here: {reason}")
        self._outputs = tuple(outputs)
        with temporary_folder(LibraryError) as folder:
            if target.machine == "wasm32":
                export(folder / f"{symbol}.wasm")
                write_sources(folder, "node.mjs")
                command: tuple[str, ...] = ("node", str(folder / "node.mjs"), str(folder / f"{symbol}.mjs"))
            else:
                export(folder / f"{symbol}.a")  # its header is beside it
                (folder / "main.c").write_text(read_source("main.c.in").replace("@NAME@", symbol), "utf-8")
                command = link(folder, folder / f"{symbol}.a", target)
            self._process = ProgramProcess(command, f"the library for {target}")
            self._process.ask(b"\0", [1])  # afterwards no file is read any more

    def run(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run the model on inputs in the order of the model, of its shapes and dtypes.

        Raises:
            EmulationError: If the library fails or takes too long.
        """
        data = b"\1" + b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
        dtypes = [np.dtype(spec.dtype) for spec in self._outputs]
        counts = [int(np.prod(spec.shape, dtype=np.int64)) for spec in self._outputs]
        parts = self._process.ask(data, [n * dtype.itemsize for n, dtype in zip(counts, dtypes, strict=True)])
        return tuple(
            np.frombuffer(part, dtype).reshape(spec.shape).copy()
            for part, dtype, spec in zip(parts, dtypes, self._outputs, strict=True)
        )
