"""Operators that are imported by ONNX's definition of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import build
from tests.support.random_arrays import normal
from tests.support.random_operators.compare import compare
from tests.support.random_operators.draws import draw
from tests.support.small_models import run_reference

DEFINED = ("Attention", "NegativeLogLikelihoodLoss", "RotaryEmbedding", "SoftmaxCrossEntropyLoss")


def test_attention_losses_and_embeddings() -> None:
    found = compare([draw(seed, DEFINED) for seed in range(12)])
    assert not found.failures, "\n".join(f"{case}: {problem}" for case, problem in found.failures)
    assert len(found.right) > 9 and not found.refused


def test_a_definition_that_needs_data_at_import_names_its_node() -> None:
    inputs = {"start": np.float32(0)}
    model = build("y = Range(start, limit, delta)", inputs, {"limit": np.float32(3), "delta": np.float32(1)})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]))
    with pytest.raises(ModelError, match="its trip count is computed at run time"):
        import_onnx(model)


@pytest.mark.parametrize("hidden", [-np.inf, -1e4])
def test_attention_to_nothing(hidden: float, rng: np.random.Generator) -> None:
    """A mask that hides a whole row by -inf gives 0, as in onnxruntime."""
    feeds = {name: normal(rng, 1, 2, 3, 4) for name in "qkv"}
    feeds["m"] = np.float32([[hidden] * 3, [0, hidden, 0], [0, 0, 0]])
    model = build("y = Attention(q, k, v, m)", feeds, version=23)
    (wanted,) = run_reference(model, feeds).values()
    got = sbnn_tvm.compile(model).library.run(*feeds.values())
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert (got[:, :, 0] == 0).all() == np.isinf(hidden)
