"""Small models as C libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.schedules.tir import loops
from tests.support.small_models import small_model


@dataclass(frozen=True)
class Exported:
    """A model and its folder.

    Attributes:
        name: Its C name.
        module: The compiled model.
        folder: Where its files are.
    """

    name: str
    module: CompiledModule
    folder: Path

    @property
    def objects(self) -> list[Path]:
        """All object files."""
        return sorted(self.folder.glob("*.o"))


def two_outputs() -> onnx.ModelProto:
    """Two inputs, a convolution of signs, an output that other kernels read, and one that is an input."""
    rng = np.random.default_rng(0)
    return small_model(
        """
        z = Add(x, bias)
        p = Greater(z, zero)
        s = Where(p, one, minus)
        c = Conv<pads = [1, 1, 1, 1]>(s, w)
        y = Add(c, x)
        k = Identity(b)
        """,
        {"x": (1, 16, 12, 12), "b": ((3,), "int64")},
        {
            "bias": rng.standard_normal((1, 16, 1, 1)).round(1),
            "zero": 0.0,
            "one": 1.0,
            "minus": -1.0,
            "w": np.where(rng.random((16, 16, 3, 3)) < 0.5, 1.0, -1.0),
        },
        ["z", "y", "k"],
    )


def _write(folder: Path, model: onnx.ModelProto, name: str) -> Exported:
    with patch.multiple(loops, GRAIN=64, MODEL_GRAINS=1):  # loops of small layers are parallel, too
        module = sbnn_tvm.compile(model, name=name)
        exported = Exported(name, module, module.export(folder / name, "c"))
    rng = np.random.default_rng(1)
    inputs = [(rng.standard_normal(spec.shape) * 4).astype(spec.dtype) for spec in module.inputs]
    outputs = module.run(*inputs)
    arrays = outputs if isinstance(outputs, tuple) else (outputs,)
    (folder / f"{name}.in").write_bytes(b"".join(each.tobytes() for each in inputs))
    (folder / f"{name}.out").write_bytes(b"".join(each.tobytes() for each in arrays))
    return exported


@pytest.fixture(scope="package")
def c_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, ...]:
    """A model, the same one under another name, and a smaller one; in one folder, with inputs and outputs in files."""
    folder = tmp_path_factory.mktemp("models")
    small = small_model(
        "p = Greater(x, t)\ny = Cast<to = 1>(p)\nq = MatMul(y, w)",
        {"x": (2, 40)},
        {"t": 0.25, "w": np.where(np.random.default_rng(2).random((40, 6)) < 0.5, 1.0, -1.0)},
        ["q"],
    )
    models = {"first": two_outputs(), "again": two_outputs(), "small": small}
    return tuple(_write(folder, model, name) for name, model in models.items())
