"""The protocol of a compiled model, as verification and profiling need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.lowering.lower import Lowered

from ..deploy.targets import CpuTarget
from ..report.report import Report
from ..runtime.loaded_module import LoadedModule
from .library_program import LibraryProgram
from .run_kernels import KernelRunner


class RunnableModel(Protocol):
    """A compiled model that can be run as a whole and kernel by kernel; ``CompiledModule`` is one.

    Attributes:
        imported: The model as Relax, and its ONNX source.
        lowered: The module of kernels.
        target: The CPU that it was compiled for.
        report: What each layer became.
    """

    imported: Imported
    lowered: Lowered
    target: CpuTarget
    report: Report

    @property
    def library(self) -> LoadedModule:
        """The model as it is deployed, loaded on this machine."""

    @property
    def program(self) -> LibraryProgram | None:
        """The C library in a program of its own, in an emulator; None if that is not possible here."""

    @property
    def kernel_runner(self) -> KernelRunner:
        """Runs single kernels, on this machine or in an emulator."""

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The parameters of ``main`` after the inputs: constants that are stored coded, decoded."""

    def emulate(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Run the model kernel by kernel in an emulator of the target's CPU."""

    def export(self, path: Path, runtime: str | None = None) -> Path:
        """Write the model as a library."""
