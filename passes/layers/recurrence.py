"""What a recurrent layer computes, as an attribute of its composite function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm

from sbnn_tvm.schedules.recurrent.sequence import GATES, Recurrence, Result

_RESULTS: tuple[Result, ...] = ("sequence", "hidden", "cell")


def encoded_recurrence(layer: Recurrence) -> dict[str, Any]:
    """A recurrent layer as an attribute of a function."""
    return {
        "cell": layer.cell,
        "reverse": layer.reverse,
        "weight": tvm.runtime.tensor(layer.weight),
        "bias": tvm.runtime.tensor(layer.bias),
        "initial": layer.initial,
        "results": list(layer.results),
    }


def decoded_recurrence(known: Mapping[Any, Any]) -> Recurrence:
    """The recurrent layer of an attribute that ``encoded_recurrence`` made."""
    cell = next(cell for cell in GATES if cell == str(known["cell"]))
    names = [str(name) for name in known["results"]]
    return Recurrence(
        cell,
        bool(known["reverse"]),
        known["weight"].numpy(),
        known["bias"].numpy(),
        bool(known["initial"]),
        tuple(result for result in _RESULTS if result in names),
    )
