"""Targets: check names, TVM target dicts and TVM targets, and find the instruction set for the schedules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tvm.target import Target, codegen

from sbnn_tvm.schedules import isa
from sbnn_tvm.schedules.isa import CoreClass, Isa

from ..errors import TargetError
from ..runtime.cpu import FLAGS, needed_features, normalize_machine, this_cpu


@dataclass(frozen=True)
class CpuTarget:
    """A CPU to compile for.

    Attributes:
        name: The name that the user gave, or the CPU of a target dict.
        isa: The instruction set that the schedules may use.
        triple: LLVM's target triple, for example ``"aarch64-unknown-linux-gnu"``.
        features: The features that the CPU must have at run time (sbnn_tvm.runtime.cpu), by LLVM's names.
        target: The target for ``tvm.compile``.
    """

    name: str
    isa: Isa
    triple: str
    features: frozenset[str]
    target: Target = field(compare=False, repr=False)

    @property
    def machine(self) -> str:
        """The architecture: ``"x86_64"``, ``"aarch64"`` or ``"arm"``."""
        return normalize_machine(self.triple.split("-")[0])

    @property
    def native(self) -> bool:
        """Whether code for this target runs on this machine."""
        return can_run_here(self)

    @property
    def tvm(self) -> dict[str, Any]:
        """The TVM target dict; ``resolve`` turns it into the same target again."""
        config = self.target.export()
        return {
            key: list(config[key]) if key == "mattr" else config[key]
            for key in config
            if config[key] and key not in ("tag", "keys") and not key.startswith("feature.")
        }

    def __str__(self) -> str:
        return self.name


_X86 = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu"}
_AARCH64 = {"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu"}
_ARMV7 = {"kind": "llvm", "mtriple": "armv7-unknown-linux-gnueabihf", "mfloat-abi": "hard"}

_IN_ORDER = {f"cortex-{name}" for name in ("a34", "a35", "a53", "a55", "a320", "a510", "a520", "r82", "r82ae")}
_LIKE_A72 = {f"cortex-{name}" for name in ("a57", "a72", "a73")}

NAMED: dict[str, dict[str, Any]] = {
    "x86": {**_X86, "mcpu": "x86-64-v3"},
    "x86-64": {**_X86, "mcpu": "x86-64"},
    "x86-64-v3": {**_X86, "mcpu": "x86-64-v3"},
    "x86-64-v4": {**_X86, "mcpu": "x86-64-v4"},
    # Without mcpu: on an in-order core, code scheduled for a big core takes three times as long as generic code.
    "arm": {**_AARCH64, "mattr": ["+neon"]},
    "cortex-a53": {**_AARCH64, "mcpu": "cortex-a53"},
    "cortex-a72": {**_AARCH64, "mcpu": "cortex-a72"},
    "neoverse-n1": {**_AARCH64, "mcpu": "neoverse-n1"},
    "armv7": {**_ARMV7, "mattr": ["+neon"]},
}
"""The named targets except ``"native"``, as TVM target dicts."""

KNOWN = ("native", *NAMED)
"""The names that ``resolve`` takes."""


def resolve(target: str | Mapping[str, Any] | Target | CpuTarget | None = None) -> CpuTarget:
    """Check a target, and find its instruction set and features.

    Args:
        target: One of KNOWN; a TVM target dict such as ``{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu":
            "cortex-a76"}``, whose ``mtriple`` is this machine's by default; a ``tvm.target.Target``; or None for this
            machine.

    Returns:
        The target; LLVM knows its CPU and features.

    Raises:
        TargetError: If the name, the architecture, the CPU or a feature is unknown.
    """
    if isinstance(target, CpuTarget):
        return target
    if target is None:
        target = "native"
    if isinstance(target, str):
        if target == "native":
            return _from_dict("native", _native())
        if target not in NAMED:
            raise TargetError(f"unknown target {target!r}: {_suggest(target, KNOWN)}, or a TVM target dict")
        return _from_dict(target, NAMED[target])
    if isinstance(target, Target):
        target = target.export()
    if not isinstance(target, Mapping):
        raise TargetError(
            f"a target is a name ({', '.join(KNOWN)}), a TVM target dict or a tvm.target.Target, "
            f"but got a {type(target).__name__}"
        )
    return _from_dict(None, target)


def can_run_here(target: CpuTarget) -> bool:
    """Whether code for ``target`` runs on this machine: it has the same architecture and every feature."""
    cpu = this_cpu()
    return target.machine == cpu.machine and not cpu.missing(target.features)


def _from_dict(name: str | None, config: Mapping[str, Any]) -> CpuTarget:
    config = {key: value for key, value in config.items() if key != "tag" and not key.startswith("feature.")}
    if config.get("kind") != "llvm":
        raise TargetError(f'a target dict must have "kind": "llvm", since only CPUs are supported, but got {config}')
    triple = _triple(config.get("mtriple", f"{this_cpu().machine}-linux-gnu"))
    # LLVM crashes on an unknown architecture: check it first.
    machine = normalize_machine(triple.split("-")[0])
    if machine not in FLAGS:
        raise TargetError(f"unknown target triple {triple!r}: it must begin with one of x86_64, aarch64, armv7")
    if "linux" not in triple:
        raise TargetError(f"unsupported target triple {triple!r}: only Linux is supported, as in {machine}-linux-gnu")

    config["mtriple"] = triple
    mcpu = config.get("mcpu")
    if mcpu is not None:
        known = [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))]
        if mcpu not in known:
            raise TargetError(f"LLVM knows no CPU (mcpu) {mcpu!r} for {triple}: {_suggest(str(mcpu), known)}")
    mattr = config.get("mattr", ())
    for attribute in [mattr] if isinstance(mattr, str) else mattr:
        _check_attribute(attribute, triple)

    try:
        tvm_target = Target(config)
    except (ValueError, TypeError) as error:
        raise TargetError(f"TVM does not accept the target {config}: {_first_sentence(error)}") from None
    features = frozenset(str(feature) for feature in codegen.llvm_get_cpu_features(tvm_target))
    name = name or mcpu or triple
    return CpuTarget(
        name, _isa(name, machine, features, config.get("mcpu")), triple, needed_features(machine, features), tvm_target
    )


def _native() -> dict[str, Any]:
    """The target dict of this machine: LLVM's CPU model, without the features that a virtual machine hides."""
    cpu = this_cpu()
    if cpu.machine not in FLAGS:
        raise TargetError(f"this machine is {cpu.machine}, for which there are no kernels: name another target")
    base = {"x86_64": _X86, "aarch64": _AARCH64, "arm": _ARMV7}[cpu.machine]
    mcpu = str(codegen.llvm_get_system_cpu())
    config: dict[str, Any] = {**base, "mcpu": mcpu if codegen.llvm_is_valid_cpu(mcpu, base["mtriple"]) else "generic"}
    implied = {str(feature) for feature in codegen.llvm_get_cpu_features(Target(config))} & FLAGS[cpu.machine].keys()
    hidden = [f"-{feature}" for feature in sorted(implied - cpu.features)]
    # SVE is not added: with it, TVM generates different code. CPU models that imply SVE keep it.
    extra = [f"+{feature}" for feature in sorted(cpu.features - implied) if not feature.startswith("sve")]
    return {**config, "mattr": [*extra, *hidden]} if extra or hidden else config


def _triple(triple: object) -> str:
    """Add the vendor to a triple without one: LLVM would read ``linux`` in armv7-linux-gnueabihf as the vendor."""
    parts = str(triple).split("-")
    return "-".join([parts[0], "unknown", *parts[1:]] if len(parts) == 3 and parts[1] == "linux" else parts)


def _check_attribute(attribute: object, triple: str) -> None:
    if not isinstance(attribute, str) or not re.fullmatch(r"[+-][\w.-]+", attribute):
        raise TargetError(f'mattr is a list of features, each written "+name" or "-name", but holds {attribute!r}')
    alone = Target({"kind": "llvm", "mtriple": triple, "mattr": [f"+{attribute[1:]}"]})
    if attribute[1:] not in {str(feature) for feature in codegen.llvm_get_cpu_features(alone)}:
        machine = normalize_machine(triple.split("-")[0])
        hint = _suggest(attribute[1:], FLAGS[machine])
        raise TargetError(f"LLVM knows no feature (mattr) {attribute!r} for {triple}: {hint}")


def _isa(name: str, machine: str, features: frozenset[str], mcpu: str | None) -> Isa:
    if machine == "x86_64":
        # The schedules use byte and word masks, and 256-bit vectors next to 512-bit ones.
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
            return isa.AVX512_VPOPCNTDQ if {"avx512vpopcntdq", "avx512ifma"} <= features else isa.AVX512
        return isa.AVX2 if "avx2" in features else isa.X86_BASELINE
    if "neon" not in features:
        raise TargetError(f'the target {name!r} has no NEON, which the kernels need: add "+neon" to its mattr')
    if machine != "aarch64":
        return isa.ARMV7_NEON
    return replace(isa.NEON_DOTPROD if "dotprod" in features else isa.NEON, core=_core_class(mcpu))


def _core_class(mcpu: str | None) -> CoreClass | None:
    """The class of an AArch64 core by LLVM's name; None if the target names none."""
    if mcpu in (None, "generic"):
        return None
    if mcpu in _IN_ORDER:
        return "in-order"
    return "a72" if mcpu in _LIKE_A72 else "wide"


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return hint + ("the known ones are " if len(names) < 100 else "known are for example ") + ", ".join(names[:40])


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0]
