"""Random networks in batches: a batch becomes one program, which is built and run with each sanitizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings

import sbnn_tvm
from sbnn_tvm.errors import LibraryError, ModelError
from sbnn_tvm.schedules.tir import loops
from tests.end_to_end.test_random_networks import networks
from tests.support import c_programs
from tests.support.small_models import grid_inputs

BATCH = 10
SANITIZERS = ("address,undefined", "thread")

# As in a large layer: most loops are parallel.
_GRAIN = 64


@dataclass(frozen=True)
class Batch:
    """What became of a batch.

    Attributes:
        models: Number of models that were compared.
        parallel: Number of them with parallel loops.
        refused: Number of models that are not valid, or need TVM's runtime.
    """

    models: int
    parallel: int
    refused: int


def random_models(batch: int) -> list[onnx.ModelProto]:
    """The networks of a batch."""
    models: list[onnx.ModelProto] = []

    @seed(batch)
    @settings(
        max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(networks())
    def collect(model: onnx.ModelProto) -> None:
        models.append(model)

    collect()
    return models[:BATCH]


def check_batch(batch: int, folder: Path, number: int = BATCH) -> Batch:
    """Compile the networks of a batch, or the first ``number`` of them, and compare them.

    Raises:
        AssertionError: If an output differs, a sanitizer finds something, or memory beside the caller's was written.
    """
    names, parallel, refused = [], 0, 0
    for index, model in enumerate(random_models(batch)[:number]):
        name = f"m{batch * BATCH + index}"
        feeds = grid_inputs(model)
        with patch.multiple(loops, GRAIN=_GRAIN if index % 4 else loops.GRAIN, MODEL_GRAINS=1):
            try:
                module = sbnn_tvm.compile(model, name=name)
            except ModelError:  # a random network may be no valid ONNX
                refused += 1
                continue
            try:
                module.export(folder / name, "c")
            except LibraryError as error:
                assert "needs TVM's runtime" in str(error), error
                refused += 1
                continue
            expected = sbnn_tvm.load(module.export(folder / f"{name}.so", "tvm"), 1).run(feeds)
        outputs = expected if isinstance(expected, tuple) else (expected,)
        (folder / f"{name}.in").write_bytes(b"".join(feeds[spec.name].tobytes() for spec in module.inputs))
        (folder / f"{name}.out").write_bytes(b"".join(np.ascontiguousarray(each).tobytes() for each in outputs))
        names.append(name)
        parallel += bool(re.search(rf", 1, {name}_\w+_prepare", (folder / name / f"{name}.c").read_text()))
    for sanitizer in SANITIZERS if names else ():
        run_models(folder, names, c_programs.sanitizer(sanitizer))
    return Batch(len(names), parallel, refused)


def run_models(folder: Path, names: list[str], options: tuple[str, ...] = ()) -> None:
    """Build one program of the models in ``folder``, and compare their outputs."""
    source = folder / "models.c"
    source.write_text(c_programs.models_source(names))
    includes = [f"-I{folder / name}" for name in names]
    (folder / "sbnn.h").write_text(f'#include "{names[0]}.h"\n')
    files: list[Path] = [source, c_programs.HERE / "compare.c"]
    for name in names:
        objects = sorted(path for path in (folder / name).glob("*.o") if path.name != f"{name}.o")
        files += [folder / name / f"{name}.c", *objects]
    options = (*options, *includes, f"-I{c_programs.HERE}", f"-I{folder}")
    program = c_programs.build(folder / "compare", files, *options)
    c_programs.run(program, folder)
