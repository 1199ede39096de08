"""The compiler, phase by phase: this file is its table of contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.runtime import Executable
from tvm.target import Target

from sbnn_tvm.schedules.isa import Isa

from .families.choose import LEAST_COST, Decisions, check_forced
from .lowering.lower import Lowered, lower
from .lowering.machine_code import MACHINE_CODE
from .lowering.reuse_residuals import reuse_residuals
from .phases.canonicalize import canonicalize
from .phases.fold_window_sums import fold_window_sums
from .phases.fuse_layers import fuse_layers
from .phases.keep_bits import keep_bits
from .phases.normalize_quantisers import normalize_quantisers
from .phases.rearrange_channels import rearrange_channels
from .phases.recognise import recognise
from .phases.resolve_signs import SignZero, resolve_signs
from .phases.shift_pixels import shift_pixels


@dataclass(frozen=True)
class Phase:
    """One step from Relax to Relax.

    Attributes:
        name: The name of the file that describes it, where there is one.
        apply: Takes a module and the value of a plain Sign at 0.
    """

    name: str
    apply: Callable[[IRModule, SignZero], IRModule]


PHASES: tuple[Phase, ...] = (
    # TVM's importer computes some indices from shapes that are known.
    Phase("fold_constants", lambda mod, sign_zero: relax.transform.FoldConstant()(mod)),
    # What the user allows: Sign gives +1 or -1 at 0.
    Phase("resolve_signs", lambda mod, sign_zero: resolve_signs(mod, sign_zero)),
    # One way to write a binariser, a padded convolution, a dense layer behind a feature map.
    Phase("canonicalize", lambda mod, sign_zero: canonicalize(mod)),
    # One way to write activations of a few bits: how many thresholds x exceeds.
    Phase("normalize_quantisers", lambda mod, sign_zero: normalize_quantisers(mod)),
    # Splits, slices, shuffles and concatenations of channels are selections of channels.
    Phase("rearrange_channels", lambda mod, sign_zero: rearrange_channels(mod)),
    # Two-valued activations meet two-valued weights: conv(x, tau * S + phi) = tau * conv(x, S) + phi * conv(x, 1).
    Phase("recognise", lambda mod, sign_zero: recognise(mod)),
    # binarize(max_pool(x)) = max_pool(binarize(x)): bits travel, not floats.
    Phase("keep_bits", lambda mod, sign_zero: keep_bits(mod)),
    # torch.roll of groups of channels of bits is one gather.
    Phase("shift_pixels", lambda mod, sign_zero: shift_pixels(mod)),
    # Each layer with its batch norm, shortcut, activation and binariser becomes one composite. Up to here the module
    # runs through TVM's default legalization: it is the oracle for what follows.
    Phase("fuse_layers", lambda mod, sign_zero: fuse_layers(mod)),
    # Weights {0, a} before one binariser: the sum over set weights decides, and the sum over the window goes.
    Phase("fold_window_sums", lambda mod, sign_zero: fold_window_sums(mod)),
)


def to_composites(mod: IRModule, sign_zero: SignZero = "exact", dump: Path | None = None) -> IRModule:
    """Run the phases from an imported module to one whose layers are composites.

    Args:
        mod: As imported.
        sign_zero: The value of a plain Sign at 0. ``"exact"`` keeps ONNX's 0, and with it a layer in float;
            ``"positive"`` and ``"negative"`` replace it by +1 or -1, so that the layer can become binary.
        dump: A folder for the module after each phase, as TVMScript.
    """
    _dump(mod, dump, "0_imported")
    for number, phase in enumerate(PHASES, 1):
        mod = phase.apply(mod, sign_zero)
        _dump(mod, dump, f"{number}_{phase.name}")
    return mod


def _dump(mod: IRModule, folder: Path | None, name: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(mod.script(show_meta=False))


def to_kernels(composites: IRModule, isa: Isa, decisions: Decisions = LEAST_COST) -> Lowered:
    """Choose a kernel for every composite, and lower what is left to TVM's own, unscheduled loops.

    Raises:
        CompileError: If the user forces a family on a layer that is not there, or for which it is not possible.
    """
    lowered = lower(composites, isa, decisions)
    check_forced(decisions, (entry.layer for entry in lowered.layers), isa)
    with Target({"kind": "llvm"}):  # sorts and running sums want to know the kind of target
        sorts = relax.backend.DispatchSortScan()(lowered.mod)
    # A reshape stays one: the virtual machine makes it a view.
    legal = relax.transform.LegalizeOps(skip_ops=["relax.reshape"])(sorts)
    return replace(lowered, mod=legal)


def to_executable(lowered: Lowered, target: Target) -> Executable:
    """TVM's own part: plan the memory, generate machine code."""
    plan = tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            tvm.transform.module_pass(lambda mod, _: reuse_residuals(mod), opt_level=0, name="ReuseResiduals"),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    mod = lowered.mod
    if not any(isinstance(func, tirx.PrimFunc) for func in mod.functions.values()):
        # Without any machine code TVM would write C, which a bare linker cannot take.
        mod = tvm.IRModule({**mod.functions, "sbnn_no_kernels": _NO_KERNELS})
    return relax.build(mod, target, relax_pipeline=plan, tir_pipeline=MACHINE_CODE)


_NO_KERNELS = tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("global_symbol", "sbnn_no_kernels")
