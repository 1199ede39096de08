"""``sbnn_tvm.compile``: from a PyTorch or ONNX model to a library for a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.passes.families.choose import Decisions
from sbnn_tvm.passes.families.families import BY_NAME
from sbnn_tvm.passes.families.family import Family
from sbnn_tvm.passes.lowering.lower import Lowered
from sbnn_tvm.passes.phases.resolve_signs import SignZero
from sbnn_tvm.passes.pipeline import Options, to_composites, to_executable, to_kernels

from .deploy.targets import CpuTarget, resolve
from .errors import CompileError
from .module import CompiledModule
from .report.describe import describe, with_tuning
from .report.record import Report
from .tuning_database.lookup import Tuning

if TYPE_CHECKING:
    from typing import TypeAlias

    import onnx
    import torch

    Model: TypeAlias = torch.nn.Module | onnx.ModelProto | str | os.PathLike[str] | bytes
    TargetLike: TypeAlias = str | Mapping[str, Any] | tvm.target.Target


def compile(
    model: Model,
    target: TargetLike = "native",
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    sign_zero: SignZero = "exact",
    kernels: Mapping[str, str] | None = None,
    tuning: str | os.PathLike[str] | None = None,
    tuning_cpu: str | None = None,
    strict: bool = False,
    name: str | None = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> CompiledModule:
    """Compile a model for a CPU.

    Args:
        model: A PyTorch module, the path or content of an ONNX file, or a ModelProto.
        target: ``"native"``, a name that ``sbnn-tvm targets`` lists, a TVM target dict, or a TVM target.
        input_shape: Shape of the input, batch included (or shapes by input name). A PyTorch module without it needs an
            ``example_input_array``; an ONNX model needs it where dimensions are open.
        sign_zero: What a plain ``Sign`` gives at 0. ONNX says 0, a third value, which keeps a layer in float;
            ``"positive"`` and ``"negative"`` allow +1 or -1, and the report says so.
        kernels: Kernel families to take instead of the cost model's choice, by the name of a layer (as in the report)
            or a pattern such as ``"layers.*"``: ``"popcount"``, ``"counters"``, ``"float"`` or
            ``"sparse_float"``.
        tuning: A database of measurements, from ``sbnn_tvm.tune``: the fastest kernels are taken where the target's CPU
            was measured. The report says which, and what they gained.
        tuning_cpu: Whose measurements to use, if the database has several CPUs for a target that is not this machine:
            the CPU's name, or a part of it.
        strict: Refuse a model of which any layer with binary weights would run in float, or any operator in TVM's
            unscheduled loops, or a value be approximated.
        name: Of the model, in reports; taken from the file or the class without it.
        dump: A folder for the module after each phase, as TVMScript.
        progress: Called with the name of each step of the compilation when it begins.

    Returns:
        The compiled model: ``run``, ``verify``, ``report``, ``export``.

    Raises:
        ModelError: If the model cannot be read, or has an operator or shape that is not supported.
        TargetError: If the target is not known.
        CompileError: With ``strict``, if something would fall back; or if ``kernels`` names no layer, no family, or a
            family that cannot compute the layer.

    Example::

        module = sbnn_tvm.compile("model.onnx", target="arm")
        print(module.report)
        module.export("model.so")
    """
    progress = progress or _silent
    front = lower_model(
        model,
        target,
        input_shape=input_shape,
        sign_zero=sign_zero,
        kernels=kernels,
        tuning=tuning,
        tuning_cpu=tuning_cpu,
        name=name,
        dump=dump,
        progress=progress,
    )
    if strict and front.report.fallbacks():
        raise CompileError("strict=True refuses this model: " + "; ".join(front.report.fallbacks()))
    progress("generating machine code")
    return front.build()


def explain(
    model: Model,
    target: TargetLike = "native",
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    sign_zero: SignZero = "exact",
    kernels: Mapping[str, str] | None = None,
    tuning: str | os.PathLike[str] | None = None,
    tuning_cpu: str | None = None,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """What ``compile`` would make of a model, layer by layer, without generating machine code.

    Args:
        model: As of compile, like all others.
        target, input_shape, sign_zero, kernels, tuning, tuning_cpu, name, progress: As of compile.

    Returns:
        The report that the compiled model would have.

    Raises:
        ModelError: As compile.
        TargetError: As compile.
        CompileError: As compile, but for ``strict``.
    """
    return lower_model(
        model,
        target,
        input_shape=input_shape,
        sign_zero=sign_zero,
        kernels=kernels,
        tuning=tuning,
        tuning_cpu=tuning_cpu,
        name=name,
        progress=progress,
    ).report


@dataclass(frozen=True, eq=False)
class LoweredModel:
    """Everything up to machine code.

    Attributes:
        imported: The model as Relax.
        composites: The module whose layers are composites.
        lowered: The module of kernels.
        target: What for.
        report: What each layer became.
    """

    imported: Imported
    composites: IRModule
    lowered: Lowered
    target: CpuTarget
    report: Report

    def build(self) -> CompiledModule:
        """Generate machine code."""
        executable = to_executable(self.lowered, self.target.target)
        return CompiledModule(self.imported, self.composites, self.lowered, executable, self.target, self.report)


def lower_model(
    model: Model,
    target: TargetLike,
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    sign_zero: SignZero = "exact",
    kernels: Mapping[str, str] | None = None,
    tuning: str | os.PathLike[str] | None = None,
    tuning_cpu: str | None = None,
    name: str | None = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> LoweredModel:
    """The first part of ``compile``, which describes the arguments."""
    if sign_zero not in ("exact", "positive", "negative"):
        raise CompileError(f"sign_zero must be 'exact', 'positive' or 'negative', but got {sign_zero!r}")
    if tuning_cpu is not None and tuning is None:
        raise CompileError(f"tuning_cpu={tuning_cpu!r} says whose measurements to use, but there is no tuning=...")
    progress = progress or _silent
    forced = _families(kernels or {})
    cpu = resolve(target)
    tuned = None if tuning is None else Tuning.of(tuning, cpu, tuning_cpu)
    progress("importing the model")
    imported = import_onnx(load_model(_to_onnx(model, input_shape)), _shape_of_open_inputs(model, input_shape))
    options = Options(sign_zero, None if dump is None else _folder(dump))
    progress("recognising binary layers")
    composites = to_composites(imported.mod, options)
    progress("choosing kernels")
    untuned = Decisions(forced, imported.nodes)
    lowered = to_kernels(composites, cpu.isa, untuned if tuned is None else replace(untuned, tuned=tuned))
    slower = tuned is not None and tuned.slower(lowered.layers, cpu.isa)
    if slower:
        lowered = to_kernels(composites, cpu.isa, untuned)
    report = describe(lowered, imported, name or _name_of(model), cpu.name, options)
    if tuned is not None:
        report = with_tuning(report, tuned, slower)
    return LoweredModel(imported, composites, lowered, cpu, report)


def _families(kernels: Mapping[str, str]) -> tuple[tuple[str, Family], ...]:
    for layer, family in kernels.items():
        if family not in BY_NAME:
            raise CompileError(
                f"kernels: {family!r} for {layer!r} is no family of kernels; the families are {', '.join(BY_NAME)}"
            )
    return tuple((layer, BY_NAME[family]) for layer, family in kernels.items())


def _folder(path: str | os.PathLike[str]) -> Path:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"cannot make the folder {os.fspath(path)} to dump to: {error.strerror}") from None
    return Path(path)


def _silent(step: str) -> None:
    """Nobody asked for the progress."""


def _is_torch_module(model: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _to_onnx(model: Any, input_shape: Any) -> Any:
    if not _is_torch_module(model):
        return model
    from sbnn_tvm.frontends.torch.export import to_onnx

    return to_onnx(model, input_shape)


def _shape_of_open_inputs(model: Any, input_shape: Any) -> Any:
    return None if _is_torch_module(model) else input_shape


def _name_of(model: Any) -> str:
    if isinstance(model, str | os.PathLike):
        return Path(model).stem
    if _is_torch_module(model):
        return type(model).__name__
    graph = getattr(model, "graph", None)
    return graph.name or "model" if graph is not None else "model"
