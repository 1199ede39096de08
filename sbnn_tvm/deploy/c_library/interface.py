"""Write the header of a model, and the C source that joins its drivers with the fixed runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from math import prod

from .cpu_needs import Need
from .driver import aligned
from .memory_plan import ALIGNMENT, MemoryPlan
from .program import Program, Tensor

RUNTIME = files(__package__) / "runtime"

CONTEXT_BYTES = 320
"""SBNN_CONTEXT_BYTES in runtime/sbnn_runtime.h."""

_C_TYPES = {
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"bool": "uint8_t", "float16": "uint16_t", "float32": "float", "float64": "double"},
}


@dataclass(frozen=True, eq=False)
class Build:
    """A model for one kind of CPU.

    Attributes:
        name: Its name, for example ``"avx2"``; a C identifier.
        program: The program.
        plan: Where its values are.
        driver: The C source of its calls.
        needs: What it needs of the CPU.
    """

    name: str
    program: Program
    plan: MemoryPlan
    driver: str
    needs: tuple[Need, ...] = ()


def hook_names(name: str) -> dict[bytes, bytes]:
    """Names of the hooks of the machine code for a model; each is as long as TVM's.

    The machine code of every model has variables of the same names. In a program of several models they must differ.
    """
    digest = sha256(name.encode()).hexdigest()
    names = {}
    for number, hook in enumerate(
        (b"__TVMBackendParallelLaunch", b"__TVMBackendAllocWorkspace", b"__TVMBackendFreeWorkspace")
    ):
        unique = f"sbnn{number}_{digest}".encode()
        names[hook] = unique[: len(hook)]
    return names


def write_header(name: str, description: str, builds: Sequence[Build]) -> str:
    """The header ``NAME.h``, documented like a manual page."""
    program = builds[0].program
    tensors = [*(("input", *each) for each in enumerate(program.inputs))]
    tensors += [("output", *each) for each in enumerate(program.outputs)]
    macro = name.upper()
    values = {
        "@NAME@": name,
        "@MACRO@": macro,
        "@GUARD@": f"{macro}_H",
        "@CONTEXT_BYTES@": str(max(_context_bytes(build) for build in builds)),
        "@TENSORS@": "\n".join(_documented(*each) for each in tensors) or " *     none",
        "@EXAMPLE@": "\n".join(
            f" *     static {_C_TYPES[tensor.dtype]} {kind}{index}[{max(1, prod(tensor.shape))}];"
            for kind, index, tensor in tensors
        ),
        "@ARRAYS@": "\n".join(
            [_array("input", len(program.inputs), "const "), _array("output", len(program.outputs), "const ")]
        ),
        "@EXTENTS@": "\n".join(
            f"#define {macro}_{kind.upper()}{index}_BYTES {tensor.bytes}" for kind, index, tensor in tensors
        ),
        "@DESCRIPTION@": _comment(description),
    }
    text = (RUNTIME / "model.h.in").read_text("utf-8").replace("@TYPES@", (RUNTIME / "sbnn.h").read_text("utf-8"))
    return re.sub("|".join(values), lambda found: values[found[0]], text)


def _array(kind: str, count: int, const: str) -> str:
    items = ", ".join(f"{{{kind}{i}, sizeof {kind}{i}}}" for i in range(count))
    value = f"{{{items}}}" if count else "NULL"
    return f" *         {const}sbnn_{kind} {'' if count else '*'}{kind}s{'[]' if count else ''} = {value};"


def _sizes(build: Build) -> tuple[int, int, int]:
    """Bytes of the arena, of the decoded constants, and of the workspace of a task."""
    arena = max(build.plan.size, aligned(build.program.workspaces.prepare))
    return arena, sum(map(aligned, build.program.decoded)), build.program.workspaces.task


def _context_bytes(build: Build) -> int:
    """Bytes of a context of one thread, as sbnn_bytes in runtime/sbnn_runtime.h counts them."""
    return ALIGNMENT - 1 + CONTEXT_BYTES + sum(map(aligned, _sizes(build)))


def write_source(name: str, version: str, builds: Sequence[Build]) -> str:
    """The source ``NAME.c``: tables and drivers, then the interface on the fixed runtime."""
    first = builds[0].program
    parallel, alloc, free = (new.decode() for new in hook_names(name).values())
    rows = []
    for build in builds:
        arena, decoded, task = _sizes(build)
        symbols = f"{name}_{build.name}_prepare, {name}_{build.name}_run"
        loops = int(build.program.parallel)
        needs = f"{name}_{build.name}_needs, {len(build.needs)}"
        rows.append(f'    {{"{build.name}", {needs}, {arena}, {decoded}, {task}, {loops}, {symbols}}},')
    counts = f"{len(first.inputs)}, {name}_output_tensors, {len(first.outputs)}"
    return "\n".join(
        [
            "#ifndef _POSIX_C_SOURCE",
            "#define _POSIX_C_SOURCE 200809L /* for threads */",
            "#endif",
            f'#include "{name}.h"',
            '#include "sbnn_runtime.h"',
            "",
            "/* The constants of the model. */",
            f"extern const unsigned char {name}_constants[];",
            "",
            *(build.driver for build in builds),
            *(_needs(f"{name}_{build.name}_needs", build.needs) for build in builds),
            "",
            *_tensors(f"{name}_input", first.inputs),
            *_tensors(f"{name}_output", first.outputs),
            f"static const struct sbnn_build {name}_builds[] = {{",
            *rows,
            "};",
            "",
            "static const struct sbnn_model sbnn_this_model = {",
            f"    {_literal(version)}, {name}_input_tensors, {counts}, {name}_builds, {len(builds)}}};",
            "",
            "/* Functions that the machine code of kernels calls. */",
            f"int (*const {parallel})(sbnn_task, void *, int) = sbnn_parallel_launch;",
            f"void *(*const {alloc})(int, int, uint64_t, int, int) = sbnn_alloc_workspace;",
            f"int (*const {free})(int, int, void *) = sbnn_free_workspace;",
            "",
            (RUNTIME / "model.c.in").read_text("utf-8").replace("@NAME@", name),
        ]
    )


def _needs(name: str, needs: Sequence[Need]) -> str:
    rows = [f"{{0x{need.leaf:x}, {need.subleaf}, {need.word}, 0x{need.bits:x}}}" for need in needs] or ["{0}"]
    return f"static const struct sbnn_need {name}[] = {{{', '.join(rows)}}};"


def _tensors(prefix: str, tensors: Sequence[Tensor]) -> list[str]:
    lines = []
    for index, tensor in enumerate(tensors):
        shape = ", ".join(map(str, tensor.shape)) or "0"
        lines.append(f"static const int64_t {prefix}{index}_shape[] = {{{shape}}};")
    rows = [
        f"    {{{_literal(tensor.name)}, SBNN_{tensor.dtype.upper()}, {len(tensor.shape)}, {prefix}{index}_shape, "
        f"{tensor.bytes}}},"
        for index, tensor in enumerate(tensors)
    ] or ["    {0}"]
    return [*lines, f"static const sbnn_tensor {prefix}_tensors[] = {{", *rows, "};", ""]


def _literal(text: str) -> str:
    """A C string literal of any text."""
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{quoted}"'


def _documented(kind: str, index: int, tensor: Tensor) -> str:
    name = _comment(tensor.name)
    return f" *     {kind}s[{index}]  {name}: {tensor.dtype} {list(tensor.shape)}, {tensor.bytes} bytes"


def _comment(text: str) -> str:
    """Text for a comment in C: ASCII, and not its end."""
    shown = "".join(character if " " <= character <= "~" else "?" for character in text)
    return shown.replace("*/", "* /").replace("/*", "/ *")
