"""Targets: names, dicts, what they give to the schedules, and how wrong ones are refused."""

from dataclasses import replace

import pytest
from tvm.target import Target

from sbnn_tvm.deploy import targets
from sbnn_tvm.errors import TargetError
from sbnn_tvm.runtime import cpu
from sbnn_tvm.schedules import isa

VPOPCNTDQ_FEATURES = {"avx512vpopcntdq", "avx512ifma", "avx512vnni"}
AVX512_FEATURES = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("name", "expected", "machine"),
    [
        ("icelake-server", isa.AVX512_VPOPCNTDQ, "x86_64"),
        ("x86-64", isa.X86_BASELINE, "x86_64"),
        ("x86-64-v3", isa.AVX2, "x86_64"),
        ("x86-64-v4", isa.AVX512, "x86_64"),
        ("arm", isa.NEON, "aarch64"),
        ("cortex-a53", replace(isa.NEON, core="in-order"), "aarch64"),
        ("cortex-a72", replace(isa.NEON, core="a72"), "aarch64"),
        ("neoverse-n1", replace(isa.NEON_DOTPROD, core="wide"), "aarch64"),
        ("arm-dotprod", isa.NEON_DOTPROD, "aarch64"),
        ("arm-i8mm", isa.NEON_I8MM, "aarch64"),
        ("neoverse-v1", replace(isa.NEON_I8MM, core="wide"), "aarch64"),
        ("armv7", isa.ARMV7_NEON, "arm"),
        ("riscv64", isa.RISCV64, "riscv64"),
        ("riscv64-v", isa.RISCV64_V, "riscv64"),
        ("wasm", isa.WASM, "wasm32"),
        ("cortex-m4", isa.THUMB, "cortex-m"),
        ("cortex-m7", isa.THUMB, "cortex-m"),
        ("cortex-m55", isa.HELIUM, "cortex-m"),
        ("aarch64-linux-musl", isa.NEON, "aarch64"),
        ("x86_64-linux-android", isa.X86_BASELINE, "x86_64"),
        ("aarch64-apple-macos", replace(isa.NEON_DOTPROD, core="wide"), "aarch64"),
    ],
)
def test_named(name, expected, machine):
    target = targets.resolve(name)
    assert (target.name, target.isa, target.machine) == (name, expected, machine)
    assert str(target) == name


@pytest.mark.parametrize(
    ("name", "system", "libc", "format_", "runtimes"),
    [
        ("arm", "linux", "glibc", "ELF", ("tvm", "c")),
        ("x86_64-linux-musl", "linux", "musl", "ELF", ("c",)),
        ("aarch64-linux-android", "android", "bionic", "ELF", ("c",)),
        ("aarch64-apple-macos", "macos", "libSystem", "Mach-O", ("c",)),
        ("aarch64-apple-ios", "ios", "libSystem", "Mach-O", ("c",)),
        ("riscv64", "linux", "glibc", "ELF", ("c",)),
        ("wasm", "wasm", "none", "WebAssembly", ("c",)),
        ("cortex-m4", "none", "none", "ELF", ("c",)),
    ],
)
def test_platforms(name, system, libc, format_, runtimes):
    target = targets.resolve(name)
    platform = target.platform
    assert (platform.system, platform.libc, platform.object_format, target.runtimes) == (
        *(system, libc, format_),
        runtimes,
    )
    assert platform.threads == (system in ("linux", "android", "macos", "ios"))
    assert platform.shared_libraries == (system in ("linux", "android", "macos"))
    assert platform.static_libraries == (system != "wasm")
    assert not target.native or system == "linux"


def test_a_library_for_another_c_library_does_not_run_here():
    machine = cpu.this_cpu().machine
    named = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl"}
    if machine in named:
        assert not targets.resolve(named[machine]).native


@pytest.mark.parametrize("name", ["native", *targets.NAMED])
def test_the_same_target_by_dict_and_by_tvm_target(name):
    target = targets.resolve(name)
    for other in (targets.resolve(target.tvm), targets.resolve(target.target), targets.resolve(Target(target.tvm))):
        assert replace(other, name=name) == target
    assert targets.resolve(target) is target


@pytest.mark.parametrize("name", targets.SEVERAL)
def test_several_builds(name):
    target = targets.resolve(name)
    assert tuple(build.name for build in target.builds) == targets.SEVERAL[name]
    assert target.builds == tuple(targets.resolve(build) for build in targets.SEVERAL[name])
    assert target.single in target.builds and target == replace(target.single, name=name, builds=target.builds)
    assert target.single == next((build for build in target.builds if build.native), target.builds[0])
    assert targets.ONE_OF_SEVERAL[name] in targets.SEVERAL[name]


def test_native_is_this_machine():
    target = targets.resolve()
    assert target == targets.resolve("native")
    assert target.native
    assert target.machine == cpu.this_cpu().machine
    if target.machine == "x86_64":
        assert target.features == cpu.this_cpu().features
        wide = target.features >= AVX512_FEATURES
        assert (target.isa.vector_bits == 512) == wide
        assert (target.isa == isa.AVX512_VPOPCNTDQ) == (wide and target.features >= VPOPCNTDQ_FEATURES)


def test_native_without_what_the_virtual_machine_hides(monkeypatch):
    weak = cpu.Cpu("x86_64", frozenset({"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma"}))
    monkeypatch.setattr(targets, "this_cpu", lambda: weak)
    target = targets.resolve("native")
    assert target.isa == isa.AVX2
    assert target.features == weak.features
    assert target.native
    assert not targets.resolve("x86-64-v4").native
    assert not targets.resolve("arm").native


def test_vpopcntdq_from_a_dict():
    target = targets.resolve({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server"})
    assert (target.name, target.isa) == ("icelake-server", isa.AVX512_VPOPCNTDQ)
    for feature in sorted(VPOPCNTDQ_FEATURES):
        without = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server", "mattr": [f"-{feature}"]}
        assert targets.resolve(without).isa == (isa.AVX512 if feature == "avx512vnni" else isa.AVX512_VNNI)


@pytest.mark.parametrize("mcpu, expected", [("cascadelake", isa.AVX512_VNNI), ("alderlake", isa.AVX2_VNNI)])
def test_products_of_bytes(mcpu, expected):
    assert targets.resolve({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu}).isa == expected


def test_cpu_features_are_those_the_compiled_code_needs():
    assert "avx2" in targets.resolve("x86-64-v3").features
    assert "dotprod" in targets.resolve("neoverse-n1").features
    assert "dotprod" not in targets.resolve("arm").features
    assert targets.resolve("x86-64").features == frozenset()


def test_a_triple_without_vendor_is_completed():
    # LLVM would otherwise miss the EABI and call functions that ARM's libraries do not have.
    target = targets.resolve(
        {"kind": "llvm", "mtriple": "armv7-linux-gnueabihf", "mattr": ["+neon"], "mfloat-abi": "hard"}
    )
    assert target.triple == "armv7-unknown-linux-gnueabihf"


X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("arm64", "unknown target 'arm64': did you mean arm"),
        ("gpu", "the known ones are native, x86, .*, armv7, .*, cortex-m4"),
        (7, "a target is a name .* but got a int"),
        ({"kind": "cuda"}, "only CPUs are supported"),
        ({"mcpu": "znver4"}, "only CPUs are supported"),
        ({"kind": "llvm", "mtriple": "ppc64le-linux-gnu"}, "unknown target triple 'ppc64le-unknown-linux-gnu'"),
        ({"kind": "llvm", "mtriple": "nonsense"}, "unknown target triple 'nonsense'"),
        ({"kind": "llvm", "mtriple": "x86_64-pc-windows-msvc"}, "unsupported target triple .* the system must be"),
        ({"kind": "llvm", "mtriple": "riscv64-linux-gnu"}, "has no popcount"),
        ({"kind": "llvm", "mtriple": "wasm32-unknown-unknown"}, "has no vectors"),
        ({"kind": "llvm", "mtriple": "thumbv6m-none-eabi", "mcpu": "cortex-m0"}, "has no floating-point unit"),
        ({**X86, "mcpu": "cortex-a53"}, "LLVM knows no CPU .mcpu. 'cortex-a53' for x86_64-unknown-linux-gnu"),
        ({**X86, "mcpu": "znver9"}, "did you mean znver"),
        ({**X86, "mattr": ["+avx3"]}, r"LLVM knows no feature .mattr. '\+avx3' .*did you mean avx"),
        ({**X86, "mattr": ["avx2"]}, "holds 'avx2'"),
        ({**X86, "mattr": "+avx2"}, "TVM does not accept the target"),
        ({**X86, "vectors": 3}, "Unknown config option 'vectors'"),
        ({"kind": "llvm", "mtriple": "armv7-linux-gnueabihf", "mattr": ["-neon"]}, "no NEON"),
    ],
)
def test_wrong_targets_are_one_clear_sentence(target, message):
    with pytest.raises(TargetError, match=message) as error:
        targets.resolve(target)
    assert "\n" not in str(error.value)
