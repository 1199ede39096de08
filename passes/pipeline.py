"""The order of the compiler: phases from Relax to Relax, then the choice of kernels, then machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.runtime import Executable
from tvm.target import Target

from sbnn_tvm.deploy.c_library.program import Program, Tensor
from sbnn_tvm.errors import defects_named
from sbnn_tvm.schedules.isa import Isa

from .families.choose import LEAST_COST, Decisions, check_forced
from .lowering.lower import Lowered, lower
from .lowering.machine_code import MACHINE_CODE
from .lowering.nan_rules import NAN_RULES
from .lowering.powers import use_powers_of_c_library
from .lowering.raw_kernels import RawKernels, raw_kernels
from .lowering.reuse_residuals import reuse_residuals
from .lowering.to_program import to_program as read_program
from .lowering.unknown_pragmas import remove_unknown_pragmas
from .phases.canonicalize import canonicalize
from .phases.choices_to_extrema import choices_to_extrema
from .phases.delay_interleaving import delay_interleaving
from .phases.fold_window_sums import fold_window_sums
from .phases.fuse_layers import fuse_layers
from .phases.integer_layers import integer_layers
from .phases.integer_values import integer_values
from .phases.keep_bits import keep_bits
from .phases.merge_leading_axes import merge_leading_axes
from .phases.move_permutations import move_permutations
from .phases.rearrange_channels import rearrange_channels
from .phases.recognise import recognise
from .phases.shift_pixels import shift_pixels
from .phases.shrink_constants import shrink_constants
from .phases.snap_weights import snap_weights
from .phases.step_functions import SignZero, step_functions

use_powers_of_c_library()


@dataclass(frozen=True)
class Phase:
    """One step from Relax to Relax.

    Attributes:
        name: Name of the phase, and of its file in phases/ if it has one.
        apply: The pass. Its arguments are the module and the result of the operator Sign at 0.
        changes_weights: Whether it may give weights other values than the model's.
    """

    name: str
    apply: Callable[[IRModule, SignZero], IRModule]
    changes_weights: bool = False


PHASES: tuple[Phase, ...] = (
    # Compute indices that TVM's importer derives from static shapes.
    Phase("fold_constants", lambda mod, sign_zero: relax.transform.FoldConstant()(mod)),
    # One element along each axis where a constant of an elementwise operation repeats.
    Phase("shrink_constants", lambda mod, sign_zero: shrink_constants(mod)),
    # A clamp written as choices between x and a constant becomes minimum and maximum.
    Phase("choices_to_extrema", lambda mod, sign_zero: choices_to_extrema(mod)),
    # Channels first everywhere: no transpose between layers, as few as possible at the edges of the model.
    Phase("move_permutations", lambda mod, sign_zero: move_permutations(mod)),
    # One form for elementwise functions of few values: a comparison, or the number of thresholds that x exceeds.
    Phase("step_functions", lambda mod, sign_zero: step_functions(mod, sign_zero)),
    # One form for quantised values: integers in memory, a subtraction and a multiplication where they are read.
    Phase("integer_values", lambda mod, sign_zero: integer_values(mod)),
    # One form for padded convolutions and dense layers after a feature map.
    Phase("canonicalize", lambda mod, sign_zero: canonicalize(mod)),
    # Splits, slices, shuffles, paddings and concatenations become selections of channels, rows and columns.
    Phase("rearrange_channels", lambda mod, sign_zero: rearrange_channels(mod)),
    # Phases of transposed convolutions and pixel shuffles are interleaved after what follows them: as bits or codes.
    Phase("delay_interleaving", lambda mod, sign_zero: delay_interleaving(mod)),
    # Convolutions and dense layers of quantised values with weights that are integers times a scale sum integers.
    Phase("integer_layers", lambda mod, sign_zero: integer_layers(mod)),
    # Weights that are two values but for rounding, or but for a few zeros, get two values; a note says so.
    Phase("snap_weights", lambda mod, sign_zero: snap_weights(mod, sign_zero), changes_weights=True),
    # Binary layers get weights -1 and +1: conv(x, tau * S + phi) = tau * conv(x, S) + phi * conv(x, 1).
    Phase("recognise", lambda mod, sign_zero: recognise(mod)),
    # binarize(max_pool(x)) = max_pool(binarize(x)): layers exchange bits, not floats.
    Phase("keep_bits", lambda mod, sign_zero: keep_bits(mod)),
    # torch.roll of groups of two-valued channels becomes one gather.
    Phase("shift_pixels", lambda mod, sign_zero: shift_pixels(mod)),
    # Softmax, layer norm and products of activations work on rows, with at most three axes.
    Phase("merge_leading_axes", lambda mod, sign_zero: merge_leading_axes(mod)),
    # Each layer with its batch norm, shortcut, activation and binariser becomes one composite. Up to here, the default
    # legalization of TVM can run the module. Tests compare the kernels with that.
    Phase("fuse_layers", lambda mod, sign_zero: fuse_layers(mod)),
    # Weights {0, a} before one binariser: compare the sum over the set weights, and drop the window sum.
    Phase("fold_window_sums", lambda mod, sign_zero: fold_window_sums(mod)),
)


def to_composites(
    mod: IRModule, sign_zero: SignZero = "exact", dump: Path | None = None, exact_weights: bool = False
) -> IRModule:
    """Run all phases on an imported module.

    Args:
        mod: The imported module.
        sign_zero: The result of the operator Sign at 0. ``"exact"`` keeps ONNX's 0, so the layer after it reads two
            bits. ``"positive"`` and ``"negative"`` replace it by +1 or -1, so that it reads one.
        dump: A folder to which the module is written after each phase, as TVMScript; None writes nothing.
        exact_weights: Leave out the phase that changes weights.

    Returns:
        ``main``, which calls composite functions, and these functions.
    """
    _dump(mod, dump, "0_imported")
    for number, phase in enumerate(PHASES, 1):
        if not (exact_weights and phase.changes_weights):
            with defects_named(f"the phase {phase.name}"):
                mod = phase.apply(mod, sign_zero)
        _dump(mod, dump, f"{number}_{phase.name}")
    return mod


def _dump(mod: IRModule, folder: Path | None, name: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(mod.script(show_meta=False), "utf-8")


def to_kernels(composites: IRModule, isa: Isa, decisions: Decisions = LEAST_COST) -> Lowered:
    """Choose a kernel for every composite, and lower all other operators to TVM's default loops, without a schedule.

    Args:
        composites: The result of ``to_composites``.
        isa: The instruction set.
        decisions: Choices of kernels that overrule the cost model.

    Raises:
        CompileError: If the user forces a family on a layer that does not exist, or that the family cannot compute.
    """
    lowered = lower(composites, isa, decisions)
    check_forced(decisions, (entry.layer for entry in lowered.layers), isa)
    with Target({"kind": "llvm"}):  # the lowering of sorts and running sums depends on the target kind
        sorts = relax.backend.DispatchSortScan()(lowered.mod)
    # Keep reshapes: the virtual machine runs them as views, without a copy.
    legal = relax.transform.LegalizeOps(dict(NAN_RULES), skip_ops=["relax.reshape"])(sorts)
    return replace(lowered, mod=remove_unknown_pragmas(legal))


_CALLS = tvm.transform.Sequential(
    [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        tvm.transform.module_pass(lambda mod, _: reuse_residuals(mod), opt_level=0, name="ReuseResiduals"),
    ],
    name="calls",
)
"""Every kernel is called with the memory of its outputs."""


def to_raw_kernels(lowered: Lowered, target: Target, prefix: str) -> RawKernels:
    """Generate machine code for a C library.

    Args:
        lowered: The module of kernels.
        target: What to generate code for.
        prefix: What the symbols of the kernels begin with.
    """
    return raw_kernels(_CALLS(lowered.mod), target, prefix)


def to_program(lowered: Lowered, kernels: RawKernels, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Program:
    """The calls of the kernels that a C library makes.

    Args:
        lowered: The module of kernels.
        kernels: Their machine code.
        inputs: The inputs of the model.
        outputs: The outputs of the model.

    Raises:
        NeedsTvmError: If a value is not computed by a kernel.
    """
    return read_program(_CALLS(lowered.mod), kernels, inputs, outputs)


def to_executable(lowered: Lowered, target: Target) -> Executable:
    """Plan the memory and generate machine code, with TVM's passes."""
    plan = tvm.transform.Sequential(
        [
            _CALLS,
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
        # A module without machine code would make TVM emit C source, which cannot be linked without a compiler.
        mod = tvm.IRModule({**mod.functions, "sbnn_no_kernels": _NO_KERNELS})
    return relax.build(mod, target, relax_pipeline=plan, tir_pipeline=MACHINE_CODE)


_NO_KERNELS = tirx.PrimFunc([], tirx.Evaluate(0)).with_attr("global_symbol", "sbnn_no_kernels")
