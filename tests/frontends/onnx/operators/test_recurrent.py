"""RNN, GRU and LSTM: grids against onnxruntime, what that lacks against itself, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.operators import recurrent
from tests.support.grids import every
from tests.support.imports import build
from tests.support.random_arrays import normal
from tests.support.random_operators.compare import compare
from tests.support.random_operators.draws import draw

KINDS = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 24), marks=pytest.mark.slow)])
def test_random_layers(seeds: range) -> None:
    """Directions, lengths of sequences, initial states, peepholes, clips, activations, both forms of the GRU."""
    found = compare([draw(seed, tuple(KINDS)) for seed in seeds])
    assert not found.failures, "\n".join(f"{case}: {problem}" for case, problem in found.failures)
    assert len(found.right) > len(seeds) // 2


@pytest.mark.parametrize("kind", every(3, ["LSTM", "GRU", "RNN"]))
def test_layout(kind: str, rng: np.random.Generator) -> None:
    """Batches first are the same numbers in another order; onnxruntime does not have them."""
    steps, batch, inputs, hidden, gates = 3, 2, 4, 3, KINDS[kind]
    x, h = normal(rng, steps, batch, inputs), normal(rng, 2, batch, hidden)
    constants = {"w": normal(rng, 2, gates * hidden, inputs), "r": normal(rng, 2, gates * hidden, hidden)}
    results = []
    for layout, feeds in ((0, {"x": x, "h": h}), (1, {"x": x.swapaxes(0, 1), "h": h.swapaxes(0, 1)})):
        feeds = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        node = f'y, last = {kind}<direction = "bidirectional", hidden_size = 3, layout = {layout}>(x, w, r, , , h)'
        results.append(sbnn_tvm.compile(build(node, feeds, constants)).library.run(*feeds.values()))
    (y, last), (y_swapped, last_swapped) = results
    np.testing.assert_array_equal(y_swapped, y.transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(last_swapped, last.swapaxes(0, 1))


def _refused(kind: str, attributes: str, sentence: str, **other: Any) -> None:
    gates = KINDS[kind]
    attributes += ", " if attributes else ""
    constants = {"w": np.ones((1, gates * 2, 4)), "r": np.ones((1, gates * 2, 2)), **other}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    extra = ", b" if "b" in constants else ""
    node = f"y = {kind}<{attributes}hidden_size = 2>(x, w, r{extra})"
    with pytest.raises(ModelError, match=sentence):
        import_onnx(build(node, {"x": np.ones((3, 2, 4), np.float32)}, constants))


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    _refused("LSTM", "input_forget = 1", "couples its input and forget gates")
    _refused("GRU", 'direction = "backward"', "expected forward, reverse or bidirectional")
    _refused("RNN", "", "has weights of shape", w=np.ones((1, 3, 4)))
    _refused("RNN", 'direction = "bidirectional"', "has weights of shape")
    _refused("LSTM", "", "has biases of shape", b=np.ones((1, 4)))
    _refused("LSTM", 'activations = ["Tanh"]', "has 1 activations; expected 3")
    _refused("RNN", 'activations = ["Swish"]', "has the activation 'Swish'; supported are Affine")
    _refused("RNN", 'activations = ["Affine"], activation_alpha = [0.5]', "'Affine' without its activation_alpha or")
    monkeypatch.setattr(recurrent, "LARGEST_STEP_COUNT", 2)
    _refused("GRU", "", "has 3 steps, of which at most 2 can be unrolled")
