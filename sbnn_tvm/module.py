"""A compiled model, still in the process that compiled it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.lowering.lower import Lowered

from .deploy.linking import write_library
from .deploy.targets import CpuTarget
from .errors import InputError, TargetError
from .execution.run_kernels import KernelRunner, NativeKernels, outputs_of, prepare, run_kernels
from .report.report import Report
from .runtime.inputs import match_inputs, random_inputs, split_batches
from .runtime.loading import LoadedModule, load
from .runtime.metadata import Metadata, TensorSpec
from .verification.verify import Verification, verify

if TYPE_CHECKING:
    from .profiling.profile import KernelTime


class CompiledModule:
    """What ``sbnn_tvm.compile`` returns.

    Attributes:
        imported: The model as Relax, and its ONNX source.
        composites: The module whose layers are composites of Relax operators: the oracle for the kernels.
        lowered: The module of kernels.
        target: What it was compiled for.
        report: What each layer became, and why.
    """

    def __init__(
        self,
        imported: Imported,
        composites: IRModule,
        lowered: Lowered,
        executable: Any,
        target: CpuTarget,
        report: Report,
    ) -> None:
        self.imported = imported
        self.composites = composites
        self.lowered = lowered
        self.target = target
        self.report = report
        self._executable = executable

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return self.imported.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return self.imported.outputs

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model on this machine.

        Args:
            inputs: One array for each of ``self.inputs``, in their order, or a single dict from their names to arrays.

        Returns:
            The output, or a tuple of them if there are several.

        Raises:
            InputError: If an array is missing, or of another shape or dtype than the model declares.
            TargetError: If the target is another CPU than this machine's (``emulate`` runs it, slowly).
        """
        return self.library.run(*inputs)

    def emulate(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Run the model kernel by kernel in an emulator of the target's CPU; all outputs as a tuple.

        Raises:
            InputError: As ``run``.
            TargetError: If there is no emulator for the target.
        """
        arrays = match_inputs(self.inputs, inputs)
        return outputs_of(run_kernels(self.lowered, self.emulator, (*arrays, *prepare(self.lowered, self.emulator))))

    def verify(
        self,
        inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None,
        *,
        samples: int = 3,
        seed: int = 0,
        tolerance: float = 1e-4,
        check: bool = True,
    ) -> Verification:
        """Compare every output, and every layer, with onnxruntime on the same ONNX model.

        A build for this machine is run here as ``export`` writes it; a build for another CPU is run in an emulator.

        Args:
            inputs: The model's input (or inputs), where random ones will not do; a larger first dimension than the
                model's batch is run batch by batch.
            samples: How many random inputs to run when none are given.
            seed: Of the random inputs.
            tolerance: Largest difference of a float output, relative to the largest value of that output.
            check: Raise an error on a mismatch rather than only report it.

        Returns:
            What was compared.

        Raises:
            VerificationError: On a mismatch; names the first layer that differs.
            InputError: If the inputs do not fit the model, or nothing is asked to be compared.
            TargetError: If the target can be neither run nor emulated here.
        """
        if not tolerance >= 0:
            raise InputError(f"the tolerance must be a number from 0 on, but got {tolerance}")
        if inputs is None and samples < 1:
            raise InputError(f"at least one random input is needed to compare anything, but samples={samples}")
        if seed < 0:
            raise InputError(f"the seed must be a number from 0 on, but got {seed}")
        rng = np.random.default_rng(seed)
        random = (random_inputs(self.inputs, rng) for _ in range(samples))
        result = verify(self, random if inputs is None else split_batches(self.inputs, inputs), tolerance)
        if check:
            result.check()
        return result

    def profile(self, seconds: float = 0.06) -> list[KernelTime]:
        """Time every kernel alone, on one thread of this machine, and compare it with what the machine can do at most.

        Args:
            seconds: To time a kernel; its fastest call counts.

        Raises:
            TargetError: If the target is another CPU than this machine's.
        """
        from .profiling.profile import profile

        return profile(self, self._load(1), seconds)

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as one shared library, which ``sbnn_tvm.load`` runs; an existing file is replaced.

        Returns:
            The path.

        Raises:
            LibraryError: If the destination cannot be written, or there is no linker for the target.
        """
        metadata = Metadata(
            name=self.report.model,
            inputs=self.inputs,
            outputs=self.outputs,
            target=self.target.name,
            triple=self.target.triple,
            features=tuple(sorted(self.target.features)),
            report=self.report.to_json(),
            sbnn_version=version("sbnn-tvm"),
            tvm_version=version("apache-tvm"),
            prepares=self.lowered.prepares,
        )
        write_library(self._executable, path, self.target, metadata)
        return Path(path)

    @cached_property
    def library(self) -> LoadedModule:
        """The model as it is deployed: exported to a temporary file and loaded.

        Raises:
            TargetError: If the target is another CPU than this machine's.
        """
        return self._load(None)

    def _load(self, num_threads: int | None) -> LoadedModule:
        if not self.target.native:
            raise TargetError(
                f"this model was compiled for {self.target} ({self.target.triple}), which is not this machine's CPU: "
                f'export it and run it there, use emulate(), or compile with target="native"'
            )
        return load(self.export(Path(self._folder.name) / "model.so"), num_threads)

    @cached_property
    def emulator(self) -> KernelRunner:
        """Runs the target's machine code on this machine.

        Raises:
            TargetError: If there is no emulator for the target.
        """
        from .execution.emulator import Emulator

        return Emulator.from_library(self.export(Path(self._folder.name) / "model.so"))

    @property
    def kernel_runner(self) -> KernelRunner:
        """Runs single kernels: on this machine if the target is its CPU, else in an emulator."""
        return self._native_kernels if self.target.native else self.emulator

    @cached_property
    def constants(self) -> tuple[np.ndarray, ...]:
        """What ``main`` takes behind the inputs: the constants that are stored coded, made by ``kernel_runner``."""
        return prepare(self.lowered, self.kernel_runner)

    @cached_property
    def _native_kernels(self) -> KernelRunner:
        return NativeKernels(self.library)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="sbnn_tvm-")

    def __repr__(self) -> str:
        return f"<CompiledModule: {self.report.summary()}>"
