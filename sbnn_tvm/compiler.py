"""``sbnn_tvm.compile``: from a PyTorch, ONNX or TFLite model to a library for a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.passes.families.choose import Decisions
from sbnn_tvm.passes.lowering.lower import Lowered
from sbnn_tvm.passes.pipeline import to_composites, to_kernels
from sbnn_tvm.passes.relax.facts import notes_of
from sbnn_tvm.schedules.tir.loops import one_thread

from .deploy.targets import CpuTarget, resolve
from .errors import CompileError, defects_named
from .extras import needed_by
from .module import CompiledModule
from .options import CompileKeywords, CompileOptions, options_of
from .report.build_report import build_report, of_builds, with_tuning
from .report.report import Report
from .tuning_database.lookup import TuningLookup

if TYPE_CHECKING:
    from typing import TypeAlias, Unpack

    import onnx
    import torch

    Model: TypeAlias = torch.nn.Module | onnx.ModelProto | str | os.PathLike[str] | bytes
    TargetLike: TypeAlias = str | Mapping[str, Any] | tvm.target.Target


def compile(
    model: Model,
    target: TargetLike = "native",
    options: CompileOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    **keywords: Unpack[CompileKeywords],
) -> CompiledModule:
    """Compile a model for a CPU.

    Args:
        model: A PyTorch module, the path or content of an ONNX or TFLite file, or a ModelProto.
        target: ``"native"``, a name that ``sbnn-tvm targets`` lists, a TVM target dict, or a TVM target.
        options: How to compile; see :class:`sbnn_tvm.CompileOptions`.
        progress: Called with the name of each step of the compilation when it begins.
        keywords: The same options one by one: ``input_shape``, ``sign_zero``, ``exact_weights``, ``kernels``,
            ``tuning``, ``tuning_cpu``, ``strict``, ``name``, ``dump``, ``compare_export``. They replace the fields of
            ``options``.

    Returns:
        The compiled model: ``run``, ``verify``, ``report``, ``export``.

    Raises:
        ModelError: If the model cannot be read, or has an operator or shape that is not supported; if a PyTorch
            module computes something else than the ONNX file that torch exports it to.
        TargetError: If the target is not known.
        CompileError: If an option has a value that is not allowed; if ``kernels`` names no layer, or a family that
            cannot compute the layer; or with ``strict``, if something would fall back.

    Example::

        module = sbnn_tvm.compile("model.onnx", target="arm", strict=True)
        print(module.report)
        module.export("model.so")
    """
    chosen = options_of("compile", CompileKeywords, options, keywords)
    progress = progress or _silent
    front = lower_model(model, target, chosen, progress)
    if chosen.strict and front.report.fallbacks():
        raise CompileError("strict=True refuses this model: " + "; ".join(front.report.fallbacks()))
    progress("generating machine code")
    return front.build()


def explain(
    model: Model,
    target: TargetLike = "native",
    options: CompileOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    **keywords: Unpack[CompileKeywords],
) -> Report:
    """Report what ``compile`` would make of a model, layer by layer, without generating machine code.

    Args:
        model: Same as in ``compile``.
        target: Same as in ``compile``.
        options: Same as in ``compile``; ``strict`` is ignored.
        progress: Same as in ``compile``.
        keywords: Same as in ``compile``.

    Returns:
        The report of the model that ``compile`` would return.

    Raises:
        ModelError: Same as in ``compile``.
        TargetError: Same as in ``compile``.
        CompileError: Same as in ``compile``, except for ``strict``.
    """
    return lower_model(model, target, options_of("explain", CompileKeywords, options, keywords), progress).report


@dataclass(frozen=True, eq=False)
class LoweredModel:
    """A model before machine code is generated.

    Attributes:
        imported: The model as Relax.
        composites: The module whose layers are composites.
        lowered: The module of kernels.
        target: What to generate code for.
        report: What each layer became.
        builds: The model for each build of a target that holds several, best first; the other attributes describe one.
    """

    imported: Imported
    composites: IRModule
    lowered: Lowered
    target: CpuTarget
    report: Report
    builds: tuple[LoweredModel, ...] = ()

    def build(self) -> CompiledModule:
        """Generate machine code."""
        builds = [each.build() for each in self.builds]
        module = CompiledModule(self.imported, self.composites, self.lowered, self.target, self.report, builds)
        if module.needs_tvm:
            note = f"the library needs TVM's runtime: {module.needs_tvm}"
            if builds:
                note += f"; it holds one build, for {module.one_build.target}"
            module.report = replace(self.report, notes=(*self.report.notes, note))
        return module


def lower_model(
    model: Model, target: TargetLike, options: CompileOptions, progress: Callable[[str], None] | None = None
) -> LoweredModel:
    """Import a model, run the phases, and choose and build its kernels: ``compile`` without machine code.

    Raises:
        ModelError: Same as in ``compile``.
        TargetError: Same as in ``compile``.
        CompileError: Same as in ``compile``, except for ``strict``.
    """
    progress = progress or _silent
    cpu = resolve(target)
    lookups = _lookups(cpu, options)
    progress("importing the model")
    input_shape = options.input_shape
    source = _to_onnx(model, input_shape, options.compare_export, options.exact_weights)
    with defects_named("importing the model"):
        imported = import_onnx(load_model(source), _shape_of_open_inputs(model, input_shape))
    progress("recognising binary layers")
    dump = None if options.dump is None else _folder(options.dump)
    composites = to_composites(imported.mod, options.sign_zero, dump, options.exact_weights)
    notes = notes_of(composites)

    def for_one(build: CpuTarget, tuned: TuningLookup | None) -> LoweredModel:
        with defects_named("choosing kernels"):
            lowered, slower = _lower(composites, build, Decisions(options.forced_families, imported.nodes), tuned)
        with defects_named("writing the report"):
            report = build_report(lowered, imported, options.name or _name_of(model), build.name, notes)
            if tuned is not None:
                report = with_tuning(report, tuned, slower)
        return LoweredModel(imported, composites, lowered, build, report)

    progress("choosing kernels")
    models = tuple(for_one(build, tuned) for build, tuned in lookups)
    if not cpu.builds:
        return models[0]
    described = next(each for each in models if each.target == cpu.single)
    report = of_builds(described.report, {each.target.name: each.report for each in models}, cpu.name)
    return replace(described, target=cpu, report=report, builds=models)


def _lookups(cpu: CpuTarget, options: CompileOptions) -> list[tuple[CpuTarget, TuningLookup | None]]:
    """The target of each build, and the measurements that are used for it."""
    if options.tuning is None:
        return [(build, None) for build in cpu.builds or (cpu,)]
    lookups: list[tuple[CpuTarget, TuningLookup | None]] = []
    for build in cpu.builds or (cpu,):
        lookup = TuningLookup.of(options.tuning, build, options.tuning_cpu if build == cpu.single else None)
        # A database is about one CPU: that the others are not tuned is no fallback.
        lookups.append((build, lookup if lookup.machine is not None or build == cpu.single else None))
    return lookups


def _lower(
    composites: IRModule, cpu: CpuTarget, untuned: Decisions, tuned: TuningLookup | None
) -> tuple[Lowered, bool]:
    """The module of kernels, and whether it ignores measurements since the network would be slower with them."""
    with nullcontext() if cpu.platform.threads else one_thread():
        lowered = to_kernels(composites, cpu.isa, untuned if tuned is None else replace(untuned, tuned=tuned))
        if tuned is None or not tuned.slower(lowered.layers, cpu.isa):
            return lowered, False
        return to_kernels(composites, cpu.isa, untuned), True


def _folder(path: str | os.PathLike[str]) -> Path:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"cannot make the folder {os.fspath(path)} to dump to: {error.strerror}") from None
    return Path(path)


def _silent(step: str) -> None:
    """Ignore the progress: no callback was given."""


def _is_torch_module(model: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module | torch.export.ExportedProgram)


def _is_tflite(model: object) -> bool:
    if isinstance(model, bytes):
        return model[4:8] == b"TFL3"
    return isinstance(model, str | os.PathLike) and Path(model).suffix == ".tflite"


def _to_onnx(model: Any, input_shape: Any, compare_export: bool, exact_weights: bool) -> Any:
    if _is_tflite(model):
        with needed_by("reading a TFLite file"):
            from sbnn_tvm.frontends.tflite.to_onnx import to_onnx as of_tflite
        with defects_named("reading the TFLite file"):
            return of_tflite(model, input_shape)
    if not _is_torch_module(model):
        return model
    with needed_by("the export of a PyTorch model"):
        from sbnn_tvm.frontends.torch.export import to_onnx

    return to_onnx(model, input_shape, compare_export=compare_export, exact_weights=exact_weights)


def _shape_of_open_inputs(model: Any, input_shape: Any) -> Any:
    return None if _is_torch_module(model) or _is_tflite(model) else input_shape


def _name_of(model: Any) -> str:
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    if _is_torch_module(model):
        return type(model).__name__
    graph = getattr(model, "graph", None)
    return graph.name or "model" if graph is not None else "model"
