"""The decoder operators: their bodies in stock onnxruntime, the importer, and what both refuse."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.algebra.coding import Codebook, Coding, Gaps, Rice, SparseArray
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.decoder_operators import Decoder, coding_of, decoder_of
from sbnn_tvm.frontends.onnx.importer import import_onnx


def bits_of(rows: int, columns: int, density: float) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, columns)) < density


def codings() -> list[Coding | SparseArray]:
    mixed = bits_of(6, 900, 0.02) ^ (np.arange(6) % 3 == 0)[:, None]
    table = bits_of(5, 9, 0.5)
    kernels = table[np.random.default_rng(0).integers(0, 5, (4, 7))].reshape(4, -1)
    weights = np.where(bits_of(6, 90, 0.03).reshape(6, 10, 3, 3), np.float32(1.5), np.float32(0))
    found: list[Coding | SparseArray] = [Codebook.encode(kernels, 9), Codebook.encode(np.ones((2, 8), bool), 4)]
    for bits in (mixed, bits_of(3, 8, 0.9), bits_of(5, 13, 0.3), np.zeros((3, 9), bool), np.ones((3, 9), bool)):
        found += [Gaps.encode(bits), Rice.encode(bits)]
    return [*found, SparseArray.encode(weights), SparseArray.encode(np.zeros((3, 3), np.float32))]


def model_of(decoder: Decoder) -> onnx.ModelProto:
    """A model that returns what a decoder gives, beside its input."""
    rank = len(decoder.attributes.get("shape", [0, 0]))
    element = TensorProto.FLOAT if decoder.operator == "DecodeSparse" else TensorProto.UINT8
    node = helper.make_node(
        decoder.operator, list(decoder.inputs), ["y"], "weights", domain=opset.DOMAIN, **decoder.attributes
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"]), node],
        "decoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor_value_info("same", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("y", element, ["y0", "y1", "y2", "y3"][:rank]),
        ],
        [numpy_helper.from_array(array, name) for name, array in decoder.inputs.items()],
    )
    return opset.add_functions(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset.ONNX_OPSET)]))


def in_onnxruntime(model: onnx.ModelProto, level: ort.GraphOptimizationLevel) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": np.zeros(1, np.float32)})[0]


@pytest.mark.parametrize(
    "level", [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
)
@pytest.mark.parametrize("coding", codings(), ids=lambda coding: f"{coding.name}-{list(coding.shape)}")
def test_bodies_in_onnxruntime(coding, level) -> None:
    decoded = coding.decode()
    expected = decoded if isinstance(coding, SparseArray) else opset.pack_bits(decoded)
    result = in_onnxruntime(model_of(decoder_of(coding)), level)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("coding", codings(), ids=lambda coding: f"{coding.name}-{list(coding.shape)}")
def test_the_importer_decodes(coding) -> None:
    decoder = decoder_of(coding)
    again = coding_of(decoder.operator, list(decoder.inputs.values()), decoder.attributes)
    np.testing.assert_array_equal(again.decode(), coding.decode())
    imported = import_onnx(model_of(decoder))
    assert imported.outputs[1].dtype == ("float32" if isinstance(coding, SparseArray) else "uint8")


def damaged(coding, **changes) -> Decoder:
    decoder = decoder_of(coding)
    inputs = {name: changes.pop(name, array) for name, array in decoder.inputs.items()}
    return Decoder(decoder.operator, inputs, {**decoder.attributes, **changes})


GAPS = Gaps.encode(bits_of(5, 40, 0.1))
RICE = Rice.encode(bits_of(5, 40, 0.1))
BOOK = Codebook.encode(np.tile(bits_of(3, 9, 0.5), (1, 2)), 9)
SPARSE = SparseArray.encode(bits_of(5, 40, 0.1).astype(np.float32))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (damaged(GAPS, gaps=np.append(GAPS.gaps, np.uint8(255))), "the gaps are truncated: they end with 255"),
        (damaged(GAPS, gaps=np.append(GAPS.gaps, np.uint8(200))), "lies beyond the 5 x 40 bits of the matrix"),
        (damaged(GAPS, inverted=np.zeros(2, np.uint8)), r"uint8 \[1\] or \[5\] of 0 and 1, but got uint8 \[2\]"),
        (damaged(RICE, remainders=RICE.remainders[:2]), "fields of 2 bits take .* bytes, but there are only 2"),
        (damaged(RICE, remainder_bits=0), "remainder_bits is 0; expected a number from 1 to 31"),
        (damaged(BOOK, patterns=BOOK.patterns[:2]), "index 2 is beyond the codebook of 2 kernels"),
        (damaged(BOOK, rows=-1), "rows is -1; expected a number from 1"),
        (damaged(SPARSE, values=SPARSE.values[:-1]), "the values of .* places are float32"),
        (damaged(SPARSE, shape=[5, 4]), r"lies beyond the 20 numbers of shape \[5, 4\]"),
    ],
)
def test_damaged_weights_are_refused_by_the_importer(decoder: Decoder, message: str) -> None:
    with pytest.raises(ModelError, match=f"ai.sbnn::{decoder.operator} node 'weights' has wrong weights: .*{message}"):
        import_onnx(model_of(decoder))


def test_a_missing_attribute_is_named() -> None:
    model = model_of(decoder_of(GAPS))
    del model.graph.node[1].attribute[:]
    with pytest.raises(ModelError, match="DecodeGaps node 'weights' lacks the attribute 'rows'"):
        import_onnx(model)


def test_weights_must_be_constants() -> None:
    model = model_of(decoder_of(GAPS))
    model.graph.node[1].input[0] = "x"
    with pytest.raises(ModelError, match="DecodeGaps node 'weights' needs a constant as input 0"):
        import_onnx(model)
