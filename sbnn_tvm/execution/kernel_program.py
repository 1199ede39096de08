"""Call the kernels of a C library one by one, in a program of their own, outside this process.

The machine code is that of the library. The program reads a call from its standard input and writes its results to its
standard output, again and again (standalone_programs/kernels.c.in).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from sbnn_tvm.passes.lowering.raw_kernels import RawKernels

from ..deploy.linking import write_object
from ..deploy.targets import CpuTarget
from ..errors import EmulationError, LibraryError
from ..temporary_folder import temporary_folder
from .program_process import ProgramProcess
from .programs import link, read_source, why_not

_OVERRUN = 1000  # as in kernels.c.in


class KernelProgram:
    """Calls raw kernels in a program."""

    def __init__(self, kernels: RawKernels, target: CpuTarget) -> None:
        """Link and start the program.

        Args:
            kernels: The kernels.
            target: The target that they were compiled for.

        Raises:
            EmulationError: If programs for the target cannot run on this machine.
            LibraryError: If the program cannot be linked.
        """
        if reason := why_not(target):
            raise EmulationError(f"the kernels for {target} cannot run here: {reason}")
        self._kernels = kernels
        self._numbers = {name: number for number, name in enumerate(kernels.signatures)}
        with temporary_folder(LibraryError) as folder:
            (folder / "kernels.o").write_bytes(write_object(kernels.code))
            (folder / "main.c").write_text(_source(kernels), "utf-8")
            command = link(folder, folder / "kernels.o", target)
            self._process = ProgramProcess(command, f"the kernels for {target}")
            self._call(len(self._numbers), [], [])  # there is no such kernel; afterwards no file is read any more

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place.

        Raises:
            EmulationError: If the arrays do not fit the kernel, or it fails.
        """
        signature = self._kernels.signatures[name]
        if wrong := signature.mismatch(arrays):
            raise EmulationError(f"kernel {name!r} cannot be called: {wrong}")
        extents = [arrays[index].shape[axis] for index, axis in signature.extents]
        status, results = self._call(self._numbers[name], extents, [array.tobytes() for array in arrays])
        if status >= _OVERRUN:
            raise EmulationError(f"kernel {name!r} writes beyond the end of argument {status - _OVERRUN}")
        if status != 0:
            raise EmulationError(f"kernel {name!r} failed with status {status}")
        for array, result in zip(arrays, results, strict=True):
            if array.flags.writeable:
                array[...] = np.frombuffer(result, array.dtype).reshape(array.shape)

    def _call(self, number: int, extents: Sequence[int], arguments: Sequence[bytes]) -> tuple[int, list[bytes]]:
        head = struct.pack("<3I", number, len(extents), len(arguments))
        head += struct.pack(f"<{len(extents)}q{len(arguments)}Q", *extents, *map(len, arguments))
        status, *results = self._process.ask(head + b"".join(arguments), [4, *map(len, arguments)])
        return struct.unpack("<i", status)[0], results


def _source(kernels: RawKernels) -> str:
    """The program's source."""
    prototypes, calls = [], []
    for number, (name, signature) in enumerate(kernels.signatures.items()):
        pointers, extents = len(signature.shapes), len(signature.extents)
        parameters = ", ".join(["void *"] * pointers + ["int64_t"] * extents)
        arguments = ", ".join([*(f"p[{i}]" for i in range(pointers)), *(f"e[{i}]" for i in range(extents))])
        prototypes.append(f"extern int32_t {kernels.prefix}{name}({parameters or 'void'});")
        calls.append(f"    case {number}: return {kernels.prefix}{name}({arguments});")
    source = read_source("kernels.c.in")
    return source.replace("@PROTOTYPES@", "\n".join(prototypes)).replace("@CALLS@", "\n".join(calls))
