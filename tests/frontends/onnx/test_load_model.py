"""Files and models that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import build, relu_model
from tests.support.random_arrays import normal


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = relu_model().SerializeToString()

    def written(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert load_model(written("good.onnx", good)).graph.name == "test"
    assert load_model(str(tmp_path / "good.onnx")) == load_model(good)
    for model, match in [
        (tmp_path / "missing.onnx", r"missing\.onnx' does not exist"),
        (tmp_path, "is a directory"),
        (written("empty.onnx", b""), r"empty\.onnx' is empty"),
        (written("cut.onnx", good[: len(good) // 2]), r"cut\.onnx' is damaged, truncated"),
        (written("text.onnx", b"import torch\n" * 9), r"text\.onnx' (is damaged|holds no ONNX graph)"),
        (b"\x08\x0a", "holds no ONNX graph"),
        (3, "but got int"),
    ]:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(model)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_models_that_violate_the_specification() -> None:
    model = relu_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="not valid ONNX"):
        load_model(model)


def test_missing_external_data(tmp_path: Path, rng: np.random.Generator) -> None:
    model = build("y = MatMul(x, w)", {"x": normal(rng, 2, 300)}, {"w": normal(rng, 300, 4)})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert import_onnx(load_model(path)).outputs[0].shape == (2, 4)
    with pytest.raises(ModelError, match="cannot be found from memory"):
        load_model(path.read_bytes())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx' keeps the initializer 'w' in 'weights\.bin', which cannot"):
        load_model(path)


def test_damaged_weights_are_named(rng: np.random.Generator) -> None:
    model = build("y = MatMul(x, w)", {"x": normal(rng, 2, 3)}, {"w": normal(rng, 3, 4)})
    model.graph.initializer[0].dims[0] = 5
    with pytest.raises(ModelError, match=r"the initializer 'w' of shape \[5, 4\] is damaged"):
        import_onnx(model)
