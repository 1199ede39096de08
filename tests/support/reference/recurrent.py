"""Recurrent layers in numpy, in float64, by the formulas of ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbnn_tvm.schedules.recurrent.sequence import Recurrence


def recurrence(layer: Recurrence, projected: np.ndarray, states: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """All results of a recurrent layer: ``"sequence"``, ``"hidden"``, and ``"cell"`` for an LSTM."""
    steps, batch, _ = projected.shape
    zero = np.zeros((batch, layer.hidden))
    h, c = (states[0], states[-1]) if states is not None else (zero, zero)
    sequence = np.zeros((steps, batch, layer.hidden))
    for step in range(steps)[::-1] if layer.reverse else range(steps):
        x = np.split(projected[step].astype(np.float64), projected.shape[-1] // layer.hidden, -1)
        if layer.cell == "GRU, reset first":
            h = _reset_first(layer, x, h)
        else:
            of_state = np.split(h @ layer.weight + layer.bias, len(x), -1)
            h, c = _cell(layer, x, of_state, h, c)
        sequence[step] = h
    return {"sequence": sequence, "hidden": h, "cell": c}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _cell(
    layer: Recurrence, x: Sequence[np.ndarray], of_state: Sequence[np.ndarray], h: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    sums = [a + b for a, b in zip(x, of_state, strict=True)]
    if layer.cell == "LSTM":
        entry, leave, forget = (_sigmoid(each) for each in sums[:3])
        c = forget * c + entry * np.tanh(sums[3])
        return leave * np.tanh(c), c
    if layer.cell == "GRU":
        update, reset = _sigmoid(sums[0]), _sigmoid(sums[1])
        return (1 - update) * np.tanh(x[2] + reset * of_state[2]) + update * h, c
    return (np.tanh(sums[0]) if layer.cell == "RNN" else np.maximum(sums[0], 0)), c


def _reset_first(layer: Recurrence, x: Sequence[np.ndarray], h: np.ndarray) -> np.ndarray:
    weights, biases = np.split(layer.weight.astype(np.float64), 3, -1), np.split(layer.bias, 3)
    update, reset = (_sigmoid(x[i] + h @ weights[i] + biases[i]) for i in (0, 1))
    return (1 - update) * np.tanh(x[2] + (reset * h) @ weights[2] + biases[2]) + update * h
