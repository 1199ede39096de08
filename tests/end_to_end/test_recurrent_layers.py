"""Networks with recurrent layers: each direction is one kernel, whose weights are stored once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import sbnn_tvm
from sbnn_tvm.compiler import explain
from tests.support.binarised_models import kinds
from tests.support.grids import every


class Recurrent(nn.Module):
    """A recurrent layer over a sequence, and a classifier of its last state."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, _ = self.layer(x)
        return self.head(states), states


@pytest.mark.parametrize("kind", every(2, ["GRU", "LSTM"]))
def test_each_direction_is_one_kernel(kind: str) -> None:
    layer = getattr(nn, kind)(7, 20, num_layers=1, bidirectional=kind == "LSTM")
    width = 40 if kind == "LSTM" else 20
    module = sbnn_tvm.compile(Recurrent(layer, width).eval(), input_shape=(12, 2, 7), compare_export=False)
    assert module.verify().passed
    found = [each for each in kinds(module) if each.startswith("recurrent")]
    expected = f"recurrent: {kind}, 12 steps"
    assert found == ([expected, f"{expected}, reversed"] if kind == "LSTM" else [expected])


def test_arm() -> None:
    module = sbnn_tvm.compile(Recurrent(nn.GRU(7, 20), 20).eval(), "arm", input_shape=(6, 1, 7), compare_export=False)
    assert module.verify().passed


def test_weights_are_stored_once_whatever_the_length() -> None:
    layer = nn.GRU(8, 32)
    sizes = []
    for steps in (2, 9):
        report = explain(Recurrent(layer, 32).eval(), input_shape=(steps, 1, 8), compare_export=False)
        sizes.append(sum(entry.bytes for entry in report.layers if entry.kind.startswith("recurrent")))
    assert sizes == [4 * (32 + 1) * 96] * 2


@pytest.mark.parametrize("zero_cell", [False, True])
def test_a_first_state_of_the_caller(zero_cell: bool, rng: np.random.Generator) -> None:
    weights = {"w": (1, 48, 4), "r": (1, 48, 12), "b": (1, 96)} | ({"c": (1, 2, 12)} if zero_cell else {})
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    if zero_cell:
        arrays["c"][:] = 0
    inputs = {"x": (5, 2, 4), "h": (1, 2, 12)} | ({} if zero_cell else {"c": (1, 2, 12)})
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "last", "cell"], hidden_size=12)
    graph = helper.make_graph(
        [node],
        "states",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, None) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    module = sbnn_tvm.compile(onnx.shape_inference.infer_shapes(model))
    assert module.verify().passed and "recurrent: LSTM, 5 steps" in kinds(module)
