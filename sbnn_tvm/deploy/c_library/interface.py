"""Write the header of a model, and the C source that joins its drivers with the fixed runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from .driver import aligned
from .memory_plan import MemoryPlan
from .program import Program, Tensor

RUNTIME = files(__package__) / "runtime"


@dataclass(frozen=True, eq=False)
class Build:
    """A model for one kind of CPU.

    Attributes:
        name: Its name, for example ``"avx2"``; a C identifier.
        program: The program.
        plan: Where its values are.
        driver: The C source of its calls.
    """

    name: str
    program: Program
    plan: MemoryPlan
    driver: str


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


def write_header(name: str, description: str, program: Program) -> str:
    """The header ``NAME.h``."""
    text = (RUNTIME / "model.h.in").read_text("utf-8")
    tensors = [
        *(_documented("input", i, tensor) for i, tensor in enumerate(program.inputs)),
        *(_documented("output", i, tensor) for i, tensor in enumerate(program.outputs)),
    ]
    values = {
        "@NAME@": name,
        "@GUARD@": f"{name.upper()}_H",
        "@DESCRIPTION@": description,
        "@TENSORS@": "\n".join(tensors),
    }
    for key, value in values.items():
        text = text.replace(key, value)
    return text.replace("@TYPES@", (RUNTIME / "sbnn.h").read_text("utf-8"))


def write_source(name: str, version: str, builds: Sequence[Build]) -> str:
    """The source ``NAME.c``: tables and drivers, then the interface on the fixed runtime."""
    first = builds[0].program
    parallel, alloc, free = (new.decode() for new in hook_names(name).values())
    rows = []
    for build in builds:
        sizes = (build.plan.size, sum(map(aligned, build.program.decoded)), build.program.workspaces.task)
        arena = max(sizes[0], aligned(build.program.workspaces.prepare))
        symbols = f"{name}_{build.name}_prepare, {name}_{build.name}_run"
        rows.append(f'    {{"{build.name}", {arena}, {sizes[1]}, {sizes[2]}, {symbols}}},')
    counts = f"{len(first.inputs)}, {name}_output_tensors, {len(first.outputs)}"
    return "\n".join(
        [
            f'#include "{name}.h"',
            '#include "sbnn_runtime.h"',
            "",
            "/* The constants of the model. */",
            f"extern const unsigned char {name}_constants[];",
            "",
            *(build.driver for build in builds),
            *_tensors(f"{name}_input", first.inputs),
            *_tensors(f"{name}_output", first.outputs),
            f"static const struct sbnn_build {name}_builds[] = {{",
            *rows,
            "};",
            "",
            "static const struct sbnn_model sbnn_this_model = {",
            f"    {json.dumps(version)}, {name}_input_tensors, {counts}, {name}_builds, {len(builds)}}};",
            "",
            "/* Functions that the machine code of kernels calls. */",
            f"int (*const {parallel})(sbnn_task, void *, int) = sbnn_parallel_launch;",
            f"void *(*const {alloc})(int, int, uint64_t, int, int) = sbnn_alloc_workspace;",
            f"int (*const {free})(int, int, void *) = sbnn_free_workspace;",
            "",
            (RUNTIME / "model.c.in").read_text("utf-8").replace("@NAME@", name),
        ]
    )


_TYPES = {"bool": "SBNN_BOOL"}


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
    name = tensor.name.encode("ascii", "replace").decode().replace("*/", "* /")
    return f" *     {kind}s[{index}]  {name}: {tensor.dtype} {list(tensor.shape)}, {tensor.bytes} bytes"
