"""External data come from the folder of the model, and from nowhere else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.frontends.onnx.model_parts import parts, tensors
from tests.support.imports import constants_of

WEIGHTS = np.arange(6, dtype=np.float32)


def external(name: str = "", **entries: object) -> TensorProto:
    """A constant [6] whose data are in ``weights.bin``, or where the entries say."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "weights.bin", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def constant_model(tensor: TensorProto) -> onnx.ModelProto:
    """``y = x * c``, c a Constant."""
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Mul", ["x", "c"], ["y"])]
    return model_of(nodes)


def model_of(nodes: list[onnx.NodeProto], *initializers: TensorProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights; the current directory has others."""
    for name, values in (("model", WEIGHTS), ("here", WEIGHTS + 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_bytes(values.tobytes())
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "model"


def test_constants_come_from_the_folder_of_the_model(folder: Path) -> None:
    (weights,) = constants_of(import_onnx(load_model(saved(constant_model(external()), folder))))
    np.testing.assert_array_equal(weights.reshape(-1), WEIGHTS)


def test_data_anywhere_in_a_model(folder: Path) -> None:
    inner = helper.make_node("Constant", [], ["t"], value=external())
    result = helper.make_tensor_value_info("t", TensorProto.FLOAT, [6])
    branch = helper.make_graph([inner], "branch", [], [result], [external("unused")])
    nodes = [
        helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Twice", ["c"], ["d"], domain="local"),
        helper.make_node("Mul", ["x", "d"], ["y"]),
    ]
    model = model_of(nodes, numpy_helper.from_array(np.array(True), "yes"))
    body = [helper.make_node("Constant", [], ["k"], value=external()), helper.make_node("Add", ["a", "k"], ["b"])]
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    loaded = load_model(saved(model, folder))
    found = [tensor for part in parts(loaded) for _, tensor in tensors(part) if tensor.data_type == TensorProto.FLOAT]
    assert len(found) == 5
    for tensor in found:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHTS)
    (weights,) = constants_of(import_onnx(loaded))
    np.testing.assert_array_equal(weights.reshape(-1), 2 * WEIGHTS)


def test_offset_length_checksum_and_links_inside(folder: Path) -> None:
    data = bytes(8) + WEIGHTS.tobytes() + bytes(8)
    (folder / "sub").mkdir()
    (folder / "sub" / "all.bin").write_bytes(data)
    (folder / "link.bin").symlink_to("sub/all.bin")
    checksum = hashlib.sha1(data).hexdigest()
    for location in ("sub/all.bin", "./sub/all.bin", "link.bin"):
        tensor = external(location=location, offset=8, length=24, checksum=checksum)
        (weights,) = constants_of(import_onnx(load_model(saved(constant_model(tensor), folder))))
        np.testing.assert_array_equal(weights.reshape(-1), WEIGHTS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../here/weights.bin"}, "expected a path relative to the folder"),
        ({"location": "..\\here\\weights.bin"}, "expected a path relative to the folder"),
        ({"location": "/dev/zero"}, "'/dev/zero'; expected a path relative to the folder"),
        ({"location": "C:\\weights.bin"}, "expected a path relative to the folder"),
        ({"location": ""}, "expected a path relative to the folder"),
        ({"location": "a\0b"}, "expected a path relative to the folder"),
        ({"location": "."}, "no ordinary file"),
        ({"location": "pipe"}, "no ordinary file"),
        ({"location": "out.bin"}, "a link out of the folder of the model"),
        ({"location": "folder/weights.bin"}, "a link out of the folder of the model"),
        ({"location": "circle"}, "cannot be read"),
        ({"location": "missing.bin"}, r"cannot be read from .*No such file.*put the file into that folder"),
        ({"location": "x" * 300}, "cannot be read from .*name too long"),
        ({"offset": 4}, "24 bytes from byte 4 on, but that file has 24 bytes; it is cut short"),
        ({"offset": 2**62}, "cut short"),
        ({"offset": -1}, "gives the offset '-1'.*expected a number of bytes"),
        ({"offset": "9" * 40}, "expected a number of bytes"),
        ({"length": 20}, "20 bytes, but its shape and type need 24"),
        ({"length": "all"}, "gives the length 'all'"),
        ({"checksum": "0" * 40}, "whose checksum differs"),
    ],
)
def test_other_places_are_refused(entries: dict[str, object], message: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "out.bin").symlink_to("../here/weights.bin")
    (folder / "folder").symlink_to("../here")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(ModelError, match=message) as caught:
        load_model(saved(constant_model(external(**entries)), folder))
    assert "'value' of Constant node" in str(caught.value) or "computes 'c'" in str(caught.value)


def test_ambiguous_entries_and_huge_shapes(folder: Path) -> None:
    twice = external()
    twice.external_data.add(key="location", value="other.bin")
    with pytest.raises(ModelError, match="says twice where"):
        load_model(saved(constant_model(twice), folder))
    data = (
        constant_model(external(location="weights.bix")).SerializeToString().replace(b"weights.bix", b"weights.bi\xff")
    )
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="says in no text where"):
        load_model(folder / "model.onnx")
    huge = external()
    huge.dims[:] = [2**40]
    with pytest.raises(ModelError, match=r"has the shape \[1099511627776\], but at most"):
        load_model(saved(constant_model(huge), folder))


def test_more_than_the_memory_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 100 if name == "SC_PHYS_PAGES" else 1)
    nodes = [helper.make_node("Sum", ["x", *"abcde"], ["y"])]
    with pytest.raises(ModelError, match="more external data than this machine has memory"):
        load_model(saved(model_of(nodes, *map(external, "abcde")), folder))


def test_models_from_memory_stay_as_they_are(folder: Path) -> None:
    model = constant_model(external())
    before = model.SerializeToString()
    for source in (model, before):
        with pytest.raises(ModelError, match="cannot be found from memory; pass the path"):
            load_model(source)
    assert model.SerializeToString() == before
