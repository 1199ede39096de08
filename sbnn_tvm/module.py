"""A compiled model in the process that compiled it: run, verify, time and export it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.lowering.lower import Lowered
from sbnn_tvm.passes.lowering.raw_kernels import RawKernels
from sbnn_tvm.passes.lowering.to_program import NeedsTvmError
from sbnn_tvm.passes.pipeline import to_executable, to_program, to_raw_kernels

from .deploy.c_library.program import Tensor
from .deploy.c_library.write_library import CompiledProgram, c_identifier, write_c_library
from .deploy.linking import write_library
from .deploy.targets import ONE_OF_SEVERAL, CpuTarget
from .errors import InputError, LibraryError, TargetError, defects_named
from .execution import programs
from .execution.kernel_program import KernelProgram
from .execution.library_program import LibraryProgram
from .execution.native_kernels import NativeKernels
from .execution.run_kernels import KernelRunner, outputs_of, prepare, run_kernels
from .execution.tvm_kernels import TvmKernels
from .extras import needed_by
from .report.report import Report
from .runtime.inputs import match_inputs, split_batches
from .runtime.loaded_module import LoadedModule
from .runtime.loading import load
from .runtime.metadata import Metadata, TensorSpec
from .runtime.tvm_module import TvmModule
from .temporary_folder import temporary_folder
from .verification.inputs import RandomInputs
from .verification.result import Verification
from .verification.verify import verify

if TYPE_CHECKING:
    from .profiling.profile import KernelTime


class CompiledModule:
    """A compiled model, returned by ``sbnn_tvm.compile``.

    Attributes:
        imported: The model as Relax, and its ONNX source.
        composites: The module whose layers are composites of Relax operators; the kernels must compute the same.
        lowered: The module of kernels.
        target: The CPU that it was compiled for.
        report: What each layer became, and why.
        builds: If the target holds several builds, the model for each of them, best first. The other attributes then
            describe the one for this machine, or the best one.
    """

    def __init__(
        self,
        imported: Imported,
        composites: IRModule,
        lowered: Lowered,
        target: CpuTarget,
        report: Report,
        builds: Sequence[CompiledModule] = (),
    ) -> None:
        self.imported = imported
        self.composites = composites
        self.lowered = lowered
        self.target = target
        self.report = report
        self.builds = tuple(builds)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return self.imported.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return self.imported.outputs

    @property
    def needs_tvm(self) -> str:
        """Why a library of the model needs TVM's runtime; empty if it does not."""
        return str(self._programs) if isinstance(self._programs, NeedsTvmError) else ""

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model on this machine.

        Args:
            inputs: One array per element of ``self.inputs``, in that order, or a single dict from names to arrays.

        Returns:
            The output; if there are several, a tuple of them in the order of ``self.outputs``.

        Raises:
            InputError: If an array is missing, or has a different shape or dtype than the model declares.
            TargetError: If the target is not this machine's CPU (``emulate`` runs such a model, slowly).
        """
        return self.library.run(*inputs)

    def emulate(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Run the model kernel by kernel: in an emulator of the target's CPU, unless it is this machine's.

        Args:
            inputs: Same as in ``run``.

        Returns:
            A tuple of all outputs.

        Raises:
            InputError: Same as in ``run``.
            TargetError: If there is no emulator for the target.
        """
        arrays = match_inputs(self.inputs, inputs)
        return outputs_of(run_kernels(self.lowered, self.kernel_runner, (*arrays, *self.constants)))

    def verify(
        self,
        inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None,
        *,
        samples: int = 3,
        seed: int = 0,
        tolerance: float | None = None,
        check: bool = True,
    ) -> Verification:
        """Compare every output, and every layer, with onnxruntime on the same ONNX model.

        A build for this machine runs as ``export`` writes it. A build for an ARM CPU runs in an emulator. Of a target
        with several builds each is compared; the result names those that cannot run here.

        Args:
            inputs: The model's inputs, instead of random ones. If the first dimension is larger than the model's batch,
                they run batch by batch.
            samples: Number of random inputs if ``inputs`` is None.
            seed: Seed of the random inputs.
            tolerance: Largest difference of a float output, relative to the largest value of that output. The default
                follows the type: 1e-4 for float32, four units in the last place for float16, 1e-9 for float64.
            check: Whether to raise an error on a mismatch.

        Returns:
            The comparison of every output and layer.

        Raises:
            VerificationError: On a mismatch; names the first layer that differs.
            InputError: If the inputs do not match the model, or there is nothing to compare.
            TargetError: If the target can be neither run nor emulated here.
        """
        if tolerance is not None and not 0 <= tolerance < float("inf"):
            raise InputError(f"the tolerance must be a number from 0 on, but got {tolerance}")
        if inputs is None and samples < 1:
            raise InputError(f"at least one random input is needed to compare anything, but samples={samples}")
        if seed < 0:
            raise InputError(f"the seed must be a number from 0 on, but got {seed}")
        batches = RandomInputs(samples, seed) if inputs is None else list(split_batches(self.inputs, inputs))
        others = [each for each in self.builds if each.target != self.target.single]
        runnable = [each for each in others if each._runs_here]
        result = replace(
            verify(self, batches, tolerance),
            builds=tuple(verify(each, batches, tolerance) for each in runnable),
            not_run=tuple(each.target.name for each in others if each not in runnable),
        )
        if check:
            result.check()
        return result

    def profile(self, seconds: float = 0.06) -> list[KernelTime]:
        """Time every kernel alone, on one thread of this machine, and compare it with the machine's limits.

        Args:
            seconds: Time per kernel; its fastest call counts.

        Raises:
            TargetError: If the target is not this machine's CPU.
        """
        from .profiling.profile import profile

        if self.builds:
            return self._described.profile(seconds)
        return profile(self, self._tvm_library, seconds)

    def export(self, path: str | os.PathLike[str], runtime: str | None = None) -> Path:
        """Write the model as a library.

        Args:
            path: What to write; an existing file is replaced. The suffix ``.so`` means a shared library, which
                ``sbnn_tvm.load`` runs; ``.a`` a static library, with its header beside it; ``.zip``, or no suffix for a
                folder, the header, the C sources, the constants and the object files.
            runtime: ``"c"`` for a C library, which needs neither TVM nor Python; ``"tvm"`` for a library that needs
                TVM's runtime, and holds one build: that for ``"x86-64-v3"`` if the target is ``"x86"``. The default is
                ``"c"``, unless the report says that the model needs TVM.

        Returns:
            The path.

        Raises:
            LibraryError: If the destination cannot be written, there is no linker for the target, or the runtime
                cannot run the model.
        """
        path = Path(path)
        if runtime not in (None, "c", "tvm"):
            raise LibraryError(f"the runtime of a library is 'c' or 'tvm', but got {runtime!r}")
        builds = self._programs
        if runtime == "tvm" and "tvm" not in self.target.runtimes:
            raise LibraryError(
                f"there is no TVM runtime for {self.target} ({self.target.platform} on {self.target.machine}): export "
                f'with runtime="c"'
            )
        if isinstance(builds, NeedsTvmError) and "tvm" not in self.target.runtimes:
            raise LibraryError(
                f"{builds}, and there is no TVM runtime for {self.target} ({self.target.platform} on "
                f"{self.target.machine})"
            )
        if runtime == "c" and isinstance(builds, NeedsTvmError):
            raise LibraryError(f'the model needs TVM\'s runtime: {builds}; export it with runtime="tvm"')
        if runtime == "tvm" or isinstance(builds, NeedsTvmError):
            if self.builds:
                return self.one_build.export(path, "tvm")
            if path.suffix in (".a", ".zip", ""):
                raise LibraryError(f"with TVM's runtime a model is a shared library, but {path} names something else")
            write_library(self._executable, path, self.target, self._metadata("tvm"))
        else:
            write_c_library(path, self._symbol, builds, self.target, self._metadata("c"))
        return path

    def _metadata(self, runtime: str) -> Metadata:
        builds = self._programs
        return Metadata(
            name=self.report.model,
            inputs=self.inputs,
            outputs=self.outputs,
            target=self.target.name,
            triple=self.target.triple,
            features=tuple(sorted(self.target.features)),
            report=self.report.to_json(),
            sbnn_version=version("sbnn-tvm"),
            tvm_version=version("apache-tvm"),
            runtime=runtime,
            symbol=self._symbol if runtime == "c" else "",
            parallel=isinstance(builds, NeedsTvmError) or any(each.program.parallel for each in builds),
            prepares=self.lowered.prepares,
        )

    @cached_property
    def _symbol(self) -> str:
        return c_identifier(self.report.model)

    @cached_property
    def _kernels(self) -> RawKernels:
        """The machine code of the kernels."""
        if self.builds:
            return self._described._kernels
        with defects_named("generating machine code"):
            return to_raw_kernels(self.lowered, self.target.target, f"{self._symbol}_{self._build}_")

    @property
    def _build(self) -> str:
        return c_identifier(self.target.name)

    @property
    def _described(self) -> CompiledModule:
        """The build that the attributes describe."""
        return next(each for each in self.builds if each.target == self.target.single)

    @property
    def one_build(self) -> CompiledModule:
        """The module itself, or the build for a runtime whose libraries hold one."""
        if not self.builds:
            return self
        name = ONE_OF_SEVERAL.get(self.target.name)
        return next((each for each in self.builds if each.target.name == name), self._described)

    @cached_property
    def _programs(self) -> tuple[CompiledProgram, ...] | NeedsTvmError:
        """The programs of all builds, or the reason why the model needs TVM's runtime."""
        programs = []
        for each in self.builds or (self,):
            if isinstance(each._program, NeedsTvmError):
                return each._program
            programs.append(each._program)
        return tuple(programs)

    @cached_property
    def _program(self) -> CompiledProgram | NeedsTvmError:
        """The model as a program for a C library, or the reason why it needs TVM's runtime."""
        inputs, outputs = ([Tensor(t.name, t.shape, t.dtype) for t in each] for each in (self.inputs, self.outputs))
        try:
            program = to_program(self.lowered, self._kernels, inputs, outputs)
        except NeedsTvmError as reason:
            return reason
        return CompiledProgram(self._build, program, self._kernels.code, self.target)

    @cached_property
    def _executable(self) -> Any:
        """The machine code for TVM's runtime."""
        with defects_named("generating machine code"):
            return to_executable(self.lowered, self.target.target)

    @cached_property
    def library(self) -> LoadedModule:
        """The model as it is deployed: exported to a temporary file and loaded.

        Raises:
            TargetError: If the target is not this machine's CPU.
        """
        return self._load(None)

    def _load(self, num_threads: int | None, runtime: str | None = None) -> LoadedModule:
        if not self.target.native:
            raise TargetError(
                f"this model was compiled for {self.target} ({self.target.triple}), which is not this machine's CPU: "
                f'export it and run it there, use emulate(), or compile with target="native"'
            )
        with temporary_folder(LibraryError) as folder:
            return load(self.export(folder / "model.so", runtime), num_threads)

    @property
    def _tvm_library(self) -> TvmModule:
        """The model for TVM's runtime on one thread; its kernels can be called one by one."""
        library = self._load(1, "tvm")
        assert isinstance(library, TvmModule)
        return library

    @cached_property
    def program(self) -> LibraryProgram | None:
        """The C library in a program of its own, usually in an emulator; None if the model needs TVM's runtime, or
        programs for the target cannot run on this machine."""
        if self.needs_tvm or programs.why_not(self.target) is not None:
            return None
        return LibraryProgram(self.export, self._symbol, self.target, self.outputs)

    @cached_property
    def kernel_runner(self) -> KernelRunner:
        """Runs single kernels: on this machine if the target is its CPU, otherwise in an emulator.

        Raises:
            TargetError: If there is no emulator for the target.
        """
        if self.target.native:
            if self.needs_tvm:
                return TvmKernels(self._tvm_library)
            return NativeKernels(self._kernels, self.target)
        if self._emulated:
            with needed_by("the emulator"):
                from .execution.emulator import Emulator

            if not self.needs_tvm:
                return Emulator.from_raw_kernels(self._kernels, self.target)
            with temporary_folder(LibraryError) as folder:
                return Emulator.from_library(self.export(folder / "model.so", "tvm"))
        if reason := programs.why_not(self.target):
            raise TargetError(f"a model for {self.target} can be neither run nor emulated here: {reason}")
        return KernelProgram(self._kernels, self.target)

    @property
    def _emulated(self) -> bool:
        """Whether kernels run in the emulator. It is slow with i8mm: such kernels run in a program if possible."""
        program = "i8mm" in self.target.features and not self.needs_tvm and programs.why_not(self.target) is None
        elf = self.target.machine in ("aarch64", "arm") and self.target.platform.object_format == "ELF"
        return elf and not program

    @property
    def _runs_here(self) -> bool:
        """Whether this machine can run the kernels somehow."""
        return self.target.native or self._emulated or programs.why_not(self.target) is None

    @cached_property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The parameters of ``main`` after the inputs: the coded constants, decoded by ``kernel_runner``."""
        return prepare(self.lowered, self.kernel_runner)

    def __repr__(self) -> str:
        return f"<CompiledModule: {self.report.summary()}>"
