"""``sbnn_tvm.compile``: from a PyTorch or ONNX model to a library for a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm
from tvm.ir import IRModule

from sbnn_tvm.errors import CompileError
from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.loading import load_model
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.passes.candidates import Family
from sbnn_tvm.passes.choose_kernel import Decisions
from sbnn_tvm.passes.lower import Lowered
from sbnn_tvm.passes.pipeline import Options, to_composites, to_executable, to_kernels
from sbnn_tvm.passes.resolve_signs import SignZero
from sbnn_tvm.report import Report
from sbnn_tvm.reporting import describe
from sbnn_tvm.targets import CpuTarget, resolve

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
            or a pattern such as ``"layers.*"``: ``"popcount"``, ``"counters"`` or ``"float"``.
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
    front = _lower(model, target, input_shape, sign_zero, kernels, name, dump, progress)
    if strict and front.report.fallbacks():
        raise CompileError("strict=True refuses this model: " + "; ".join(front.report.fallbacks()))
    progress("generating machine code")
    executable = to_executable(front.lowered, front.target.target)
    return CompiledModule(front.imported, front.composites, front.lowered, executable, front.target, front.report)


def explain(
    model: Model,
    target: TargetLike = "native",
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    sign_zero: SignZero = "exact",
    kernels: Mapping[str, str] | None = None,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """What ``compile`` would make of a model, layer by layer, without generating machine code.

    Args:
        model: As of compile, like all others.
        target, input_shape, sign_zero, kernels, name, progress: As of compile.

    Returns:
        The report that the compiled model would have.

    Raises:
        ModelError: As compile.
        TargetError: As compile.
        CompileError: As compile, but for ``strict``.
    """
    return _lower(model, target, input_shape, sign_zero, kernels, name, None, progress or _silent).report


@dataclass(frozen=True)
class _Lowering:
    """Everything up to machine code."""

    imported: Imported
    composites: IRModule
    lowered: Lowered
    target: CpuTarget
    report: Report


def _lower(
    model: Model,
    target: TargetLike,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None,
    sign_zero: SignZero,
    kernels: Mapping[str, str] | None,
    name: str | None,
    dump: str | os.PathLike[str] | None,
    progress: Callable[[str], None],
) -> _Lowering:
    if sign_zero not in ("exact", "positive", "negative"):
        raise CompileError(f"sign_zero must be 'exact', 'positive' or 'negative', but got {sign_zero!r}")
    forced = _families(kernels or {})
    cpu = resolve(target)
    progress("importing the model")
    imported = import_onnx(load_model(_to_onnx(model, input_shape)), _shape_of_open_inputs(model, input_shape))
    options = Options(sign_zero, None if dump is None else _folder(dump))
    progress("recognising binary layers")
    composites = to_composites(imported.mod, options)
    progress("choosing kernels")
    lowered = to_kernels(composites, cpu.isa, Decisions(forced, imported.nodes))
    report = describe(lowered, imported, name or _name_of(model), cpu.name, options)
    return _Lowering(imported, composites, lowered, cpu, report)


def _families(kernels: Mapping[str, str]) -> tuple[tuple[str, Family], ...]:
    known = {family.value: family for family in Family}
    for layer, family in kernels.items():
        if family not in known:
            raise CompileError(
                f"kernels: {family!r} for {layer!r} is no family of kernels; the families are {', '.join(known)}"
            )
    return tuple((layer, known[family]) for layer, family in kernels.items())


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
