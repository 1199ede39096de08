"""Programs in C and C++ that run models: outputs, wrong calls, threads, several models in one program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.random_c_libraries.batches import run_models
from tests.support import c_programs

from .conftest import Exported

HERE = c_programs.HERE


def sources(models: Sequence[Exported]) -> list[Path]:
    """The sources and kernels of models, to be compiled with other options."""
    files = []
    for model in models:
        files += [model.folder / f"{model.name}.c"]
        files += [each for each in model.objects if each.name != f"{model.name}.o"]
    return files


def includes(models: Sequence[Exported]) -> list[str]:
    return [f"-I{model.folder}" for model in models]


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_outputs(c_models: Sequence[Exported], kind: str) -> None:
    """Three models in one program, two of them the same, with 1 to 3 threads, and in two threads at once."""
    folder = c_models[0].folder.parent
    run_models(folder, [model.name for model in c_models], c_programs.sanitizer(kind))


def test_wrong_calls(c_models: Sequence[Exported], tmp_path: Path) -> None:
    options = (*c_programs.sanitizer("address,undefined"), *c_programs.WARNINGS, *includes(c_models))
    used = [model for model in c_models if model.name != "again"]
    program = c_programs.build(tmp_path / "misuse", [HERE / "misuse.c", *sources(used)], *options)
    assert c_programs.run(program) == "0 failures\n"


def test_threads(c_models: Sequence[Exported], tmp_path: Path) -> None:
    files = [HERE / "threads.c", *sources(c_models[:1])]
    options = (*c_programs.WARNINGS, *includes(c_models))
    c_programs.run(c_programs.build(tmp_path / "threads", files, *options))
    races = c_programs.build(tmp_path / "races", files, *options, *c_programs.sanitizer("thread"))
    c_programs.run(races, "races")


def test_program_without_threads(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """A build without threads, and a static program, which has only the functions that somebody needs."""
    source = tmp_path / "main.c"
    source.write_text(
        '#include <stdio.h>\n#include <stdlib.h>\n#include "first.h"\n'
        "int main(void)\n{\n    sbnn_options options = {2};\n    size_t bytes = first_context_bytes(&options);\n"
        "    void *context = malloc(bytes);\n    int code = first_init(context, bytes, &options);\n"
        '    printf("%d %s\\n", code, first_last_error(context));\n    first_close(context);\n    free(context);\n'
        "    return 0;\n}\n"
    )
    options = (*c_programs.WARNINGS, *includes(c_models))
    files = [source, *sources(c_models[:1])]
    without = c_programs.build(tmp_path / "without", files, *options, "-DSBNN_THREADS=0")
    assert "7 threads are not available here" in c_programs.run(without)
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc, whose libc.a this is about")
    static = c_programs.build(tmp_path / "static", files, *options, "-static", "-DSBNN_WEAK")
    assert "7 the system refuses more threads, or the program has none" in c_programs.run(static)
    static = c_programs.build(tmp_path / "asks", files, *options, "-static")
    assert c_programs.run(static) == "0 no error\n"


def test_nothing_is_allocated(c_models: Sequence[Exported], tmp_path: Path) -> None:
    source = tmp_path / "main.c"
    source.write_text(
        '#include <stdlib.h>\n#include "first.h"\n'
        "static int calls, counting;\n"
        "extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);\n"
        "void *malloc(size_t n) { calls += counting; return __libc_malloc(n); }\n"
        "void *calloc(size_t n, size_t m) { calls += counting; return __libc_calloc(n, m); }\n"
        "void *realloc(void *p, size_t n) { calls += counting; return __libc_realloc(p, n); }\n"
        "static unsigned char context[FIRST_CONTEXT_BYTES + 65536];\nstatic float x[2304], z[2304], y[2304];\n"
        "static int64_t b[3], k[3];\n"
        "int main(void)\n{\n    sbnn_options options = {0};\n    int failures = 0;\n"
        "    const sbnn_input inputs[] = {{x, sizeof x}, {b, sizeof b}};\n"
        "    const sbnn_output outputs[] = {{z, sizeof z}, {y, sizeof y}, {k, sizeof k}};\n"
        "    for (options.threads = 1; options.threads < 4; options.threads++) {\n"
        "        failures += first_init(context, sizeof context, &options);\n        counting = 1;\n"
        "        failures += first_run(context, inputs, outputs) + first_run(context, inputs, outputs);\n"
        "        counting = 0;\n        first_close(context);\n    }\n"
        "    return failures != 0 || calls != 0;\n}\n"
    )
    c_programs.run(c_programs.build(tmp_path / "main", [source, *c_models[0].objects], *includes(c_models)))


def test_example_of_the_header(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """The example compiles, without warnings, and runs."""
    for model in c_models:
        lines = (model.folder / f"{model.name}.h").read_text().splitlines()
        begin, end = lines.index(" * EXAMPLE") + 1, lines.index(" * THREADS")
        source = tmp_path / f"{model.name}.c"
        source.write_text("\n".join(line[2:] for line in lines[begin:end]))
        files = [source, *model.objects]
        c_programs.run(c_programs.build(tmp_path / model.name, files, *c_programs.WARNINGS, f"-I{model.folder}"))


def test_shared_libraries_in_one_process(c_models: Sequence[Exported], tmp_path: Path) -> None:
    """Two .so files, one of them linked and both opened; only the interface is visible."""
    names = [model.name for model in c_models[:2]]
    libraries = [model.module.export(tmp_path / f"lib{model.name}.so", "c") for model in c_models[:2]]
    for name, library in zip(names, libraries, strict=True):
        shown = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        symbols = {line.split()[-1] for line in shown.stdout.splitlines()}
        declared = (c_models[0].folder.parent / name / f"{name}.h").read_text()
        assert symbols == set(re.findall(rf"^[a-z][^*#].*?({name}_\w+)\(", declared, re.MULTILINE))
    source = tmp_path / "models.c"
    source.write_text(c_programs.models_source(names))
    (tmp_path / "sbnn.h").write_text('#include "first.h"\n')
    options = (*includes(c_models), f"-I{HERE}", f"-I{tmp_path}", "-Wl,-rpath," + str(tmp_path))
    program = c_programs.build(tmp_path / "compare", [source, HERE / "compare.c", *libraries], *options)
    c_programs.run(program, c_models[0].folder.parent)


CPLUSPLUS = r"""
#include <array>
#include <cstdio>
#include <string>
#include <vector>
#include "first.h"
#include "sbnn.hpp"

int main()
{
    sbnn::model first(SBNN_MODEL(first), 2);
    std::vector<float> x(2304, 1.5f), z(2304), y(2304);
    const std::array<std::int64_t, 3> b = {1, 2, 3};
    std::int64_t k[3] = {};
    first.run({x, b}, {z, y, k});
    int failures = k[2] != 3;
    sbnn::model moved = std::move(first);
    moved.run({{x.data(), x.size()}, b}, {z, y, {k, 3}});
    x.pop_back();
    try {
        moved.run({x, b}, {z, y, k});
        failures++;
    } catch (const sbnn::error &error) {
        failures += error.code() != SBNN_ERROR_SIZE;
        failures += std::string(error.what()).find("input 0 'x'") == std::string::npos;
    }
    std::vector<std::int32_t> wrong(2304);
    failures += moved.try_run({wrong, b}, {z, y, k}) != SBNN_ERROR_SIZE;
    failures += std::string(moved.last_error()).find("another type") == std::string::npos;
    failures += moved.try_run({b}, {z, y, k}) != SBNN_ERROR_SIZE;
    x.push_back(0);
    failures += moved.try_run({sbnn::input::bytes(x.data(), 9216), b}, {z, y, k}) != SBNN_OK;
    int code = SBNN_OK;
    failures += sbnn::model::create(SBNN_MODEL(first), 1000, code).has_value() || code != SBNN_ERROR_OPTIONS;
    auto other = sbnn::model::create(SBNN_MODEL(first), 1, code);
    failures += !other || other->try_run({x, b}, {z, y, k}) != SBNN_OK;
    moved = std::move(*other);
    failures += moved.try_run({x, b}, {z, y, k}) != SBNN_OK;
    std::printf("%d\n", failures);
    return failures != 0;
}
"""


def test_cplusplus(c_models: Sequence[Exported], tmp_path: Path) -> None:
    source = tmp_path / "main.cpp"
    source.write_text(CPLUSPLUS)
    options = (*c_programs.WARNINGS, *includes(c_models))
    program = c_programs.build(tmp_path / "main", [source, *c_models[0].objects], *options, language="c++")
    c_programs.run(program)
