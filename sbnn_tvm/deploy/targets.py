"""Targets: check names, TVM target dicts and TVM targets, and find the instruction set for the schedules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvm.target import Target, codegen

from sbnn_tvm.schedules import isa
from sbnn_tvm.schedules.isa import CoreClass, Isa

from ..errors import TargetError
from ..runtime.cpu import FLAGS, needed_features, normalize_machine, this_cpu
from .platforms import LINUX, Platform, Runtime, platform_of


@dataclass(frozen=True)
class CpuTarget:
    """A CPU to compile for.

    Attributes:
        name: The name that the user gave, or the CPU of a target dict.
        isa: The instruction set that the schedules may use.
        triple: LLVM's target triple, for example ``"aarch64-unknown-linux-gnu"``.
        platform: The operating system, its C library and the format of its files.
        features: The features that the CPU must have at run time (sbnn_tvm.runtime.cpu), by LLVM's names.
        target: The target for ``tvm.compile``.
        builds: The targets of all builds of a library that holds several, best first; empty for one build. The other
            attributes are those of the build for this machine, or of the best one.
    """

    name: str
    isa: Isa
    triple: str
    platform: Platform
    features: frozenset[str]
    target: Target = field(compare=False, repr=False)
    builds: tuple[CpuTarget, ...] = ()

    @property
    def machine(self) -> str:
        """The architecture: ``"x86_64"``, ``"aarch64"``, ``"arm"``, ``"cortex-m"``, ``"riscv64"`` or ``"wasm32"``."""
        return normalize_machine(self.triple.split("-")[0])

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes that can run a model there."""
        return self.platform.runtimes(self.machine)

    @property
    def single(self) -> CpuTarget:
        """The target of one build: this one, or the build that the attributes describe."""
        return next((build for build in self.builds if build.features == self.features), self)

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


def _llvm(triple: str, **options: Any) -> dict[str, Any]:
    return {"kind": "llvm", "mtriple": triple, **options}


def _cortex_m(triple: str, cpu: str, **options: Any) -> dict[str, Any]:
    return _llvm(triple, mcpu=cpu, **{"mfloat-abi": "hard", "vector-width": 128}, **options)


_X86 = _llvm("x86_64-unknown-linux-gnu")
_AARCH64 = _llvm("aarch64-unknown-linux-gnu")
_ARMV7 = _llvm("armv7-unknown-linux-gnueabihf", **{"mfloat-abi": "hard"})
_RVA22 = ["+m", "+a", "+f", "+d", "+c", "+zba", "+zbb", "+zbs"]  # what the profile RVA22U64 has of use to us

# Cores that execute in order, and those with two vector instructions a cycle; cost models are fitted to such classes.
_IN_ORDER = {f"cortex-{name}" for name in ("a34", "a35", "a53", "a55", "a320", "a510", "a520", "r82", "r82ae")}
_LIKE_A72 = {f"cortex-{name}" for name in ("a57", "a72", "a73")}

NAMED: dict[str, dict[str, Any]] = {
    "x86-64": {**_X86, "mcpu": "x86-64"},
    "x86-64-v3": {**_X86, "mcpu": "x86-64-v3"},
    "x86-64-v4": {**_X86, "mcpu": "x86-64-v4"},
    "icelake-server": {**_X86, "mcpu": "icelake-server"},
    # Without mcpu: on an in-order core, code scheduled for a big core takes three times as long as generic code.
    "arm": {**_AARCH64, "mattr": ["+neon"]},
    "arm-dotprod": {**_AARCH64, "mattr": ["+neon", "+dotprod"]},
    "arm-i8mm": {**_AARCH64, "mattr": ["+neon", "+dotprod", "+i8mm"]},
    "cortex-a53": {**_AARCH64, "mcpu": "cortex-a53"},
    "cortex-a72": {**_AARCH64, "mcpu": "cortex-a72"},
    "neoverse-n1": {**_AARCH64, "mcpu": "neoverse-n1"},
    "neoverse-v1": {**_AARCH64, "mcpu": "neoverse-v1", "mattr": ["-sve"]},  # with i8mm; kernels have 128-bit vectors
    "armv7": {**_ARMV7, "mattr": ["+neon"]},
    "riscv64": _llvm("riscv64-unknown-linux-gnu", mcpu="generic-rv64", mattr=_RVA22),
    "riscv64-v": _llvm("riscv64-unknown-linux-gnu", mcpu="generic-rv64", mattr=[*_RVA22, "+v"]),
    "wasm": _llvm("wasm32-unknown-unknown", mattr=["+simd128"], **{"vector-width": 128}),
    # LLVM avoids the fused multiply-add of this core, which takes 3 cycles instead of 2, but gives the results of
    # other CPUs.
    "cortex-m4": _cortex_m("thumbv7em-unknown-none-eabihf", "cortex-m4", mattr=["-slowfpvfmx"]),
    "cortex-m7": _cortex_m("thumbv7em-unknown-none-eabihf", "cortex-m7"),
    # Vectors of integers alone: LLVM 22 turns 0 > x into Helium's "x less than zero", which holds if x is NaN.
    "cortex-m55": _cortex_m("thumbv8.1m.main-unknown-none-eabihf", "cortex-m55", mattr=["-mve.fp"]),
    "x86_64-linux-musl": _llvm("x86_64-unknown-linux-musl", mcpu="x86-64-v3"),
    "aarch64-linux-musl": _llvm("aarch64-unknown-linux-musl", mattr=["+neon"]),
    # Android's ABI for x86-64 has SSE4.2 and popcnt.
    "x86_64-linux-android": _llvm("x86_64-unknown-linux-android", mcpu="x86-64-v2"),
    "aarch64-linux-android": _llvm("aarch64-unknown-linux-android", mattr=["+neon"]),
    "aarch64-apple-macos": _llvm("arm64-apple-macosx11.0.0", mcpu="apple-a14"),  # the cores of the M1
    "aarch64-apple-ios": _llvm("arm64-apple-ios13.0.0", mcpu="apple-a10"),
}
"""The named targets of one build except ``"native"``, as TVM target dicts."""

SEVERAL: dict[str, tuple[str, ...]] = {
    "x86": ("icelake-server", "x86-64-v3", "x86-64"),
    "arm-several": ("arm-i8mm", "arm-dotprod", "arm"),
}
"""The named targets of several builds, best first."""

ONE_OF_SEVERAL = {"x86": "x86-64-v3", "arm-several": "arm"}
"""The build of such a target for TVM's runtime, whose libraries hold one."""

KNOWN = ("native", *SEVERAL, *NAMED)
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
        if target in SEVERAL:
            return of_builds(target, [resolve(name) for name in SEVERAL[target]])
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


def of_builds(name: str, builds: Sequence[CpuTarget]) -> CpuTarget:
    """A target whose libraries hold several builds.

    Args:
        name: Its name.
        builds: The targets of the builds, for one platform, best first.
    """
    described = next((build for build in builds if build.native), builds[0])
    return replace(described, name=name, builds=tuple(builds))


def can_run_here(target: CpuTarget) -> bool:
    """Whether code for ``target`` runs on this machine: it has the same architecture and every feature."""
    cpu = this_cpu()
    return target.platform == LINUX and target.machine == cpu.machine and not cpu.missing(target.features)


def _from_dict(name: str | None, config: Mapping[str, Any]) -> CpuTarget:
    config = {key: value for key, value in config.items() if key != "tag" and not key.startswith("feature.")}
    if config.get("kind") != "llvm":
        raise TargetError(f'a target dict must have "kind": "llvm", since only CPUs are supported, but got {config}')
    triple = _triple(config.get("mtriple", f"{this_cpu().machine}-linux-gnu"))
    # LLVM crashes on an unknown architecture: check it first.
    machine = normalize_machine(triple.split("-")[0])
    if machine not in FLAGS:
        raise TargetError(f"unknown target triple {triple!r}: it must begin with one of {_ARCHITECTURES}")
    platform = platform_of(triple)
    if platform is None:
        raise TargetError(
            f"unsupported target triple {triple!r}: the system must be linux, apple-macos, apple-ios, or none for a "
            f"microcontroller, as in {triple.split('-')[0]}-linux-gnu"
        )

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
    needed = needed_features(machine, features)
    return CpuTarget(name, _isa(name, machine, features, mcpu), triple, platform, needed, tvm_target)


_ARCHITECTURES = "x86_64, aarch64, armv7, riscv64, wasm32, thumbv7em, thumbv8.1m.main"


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
    return "-".join([parts[0], "unknown", *parts[1:]] if len(parts) == 3 and parts[1] in ("linux", "none") else parts)


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
            if "avx512vnni" not in features:
                return isa.AVX512
            return isa.AVX512_VPOPCNTDQ if {"avx512vpopcntdq", "avx512ifma"} <= features else isa.AVX512_VNNI
        if not {"avx2", "fma"} <= features:
            return isa.X86_BASELINE
        return isa.AVX2_VNNI if "avxvnni" in features else isa.AVX2
    if machine == "riscv64":
        if "zbb" not in features:
            raise TargetError(f'the target {name!r} has no popcount (zbb), which the kernels need: add "+zbb"')
        return isa.RISCV64_V if "v" in features else isa.RISCV64
    if machine == "wasm32":
        if "simd128" not in features:
            raise TargetError(f'the target {name!r} has no vectors, which the kernels need: add "+simd128"')
        return isa.WASM
    if machine == "cortex-m":
        if not {"dsp", "fpregs"} <= features:
            raise TargetError(f"the target {name!r} has no floating-point unit or no DSP instructions (cortex-m4 has)")
        if "mve.fp" in features:
            raise TargetError(f'the target {name!r} needs "-mve.fp" in its mattr: LLVM compares float vectors wrongly')
        return isa.HELIUM if "mve" in features else isa.THUMB
    if "neon" not in features:
        raise TargetError(f'the target {name!r} has no NEON, which the kernels need: add "+neon" to its mattr')
    if machine != "aarch64":
        return isa.ARMV7_NEON
    neon = isa.NEON_DOTPROD if "dotprod" in features else isa.NEON
    if {"dotprod", "i8mm"} <= features:
        neon = isa.NEON_I8MM
    return replace(neon, core=_core_class(mcpu))


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
