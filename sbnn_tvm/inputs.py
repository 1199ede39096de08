"""The arrays of a call, matched with what the model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sbnn_tvm.errors import InputError
from sbnn_tvm.metadata import TensorSpec


def match_inputs(specs: Sequence[TensorSpec], values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Check and order the arguments of ``run``.

    Args:
        specs: The inputs of the model.
        values: Either one array for each, in their order, or a single mapping from their names to arrays. An array
            is anything that numpy takes; nothing is cast.

    Returns:
        One array for each input, of its shape and dtype.

    Raises:
        InputError: If one is missing, superfluous, or of another shape or dtype.
    """
    if len(values) == 1 and isinstance(values[0], Mapping):
        values = _by_name(specs, values[0])
    if len(values) != len(specs):
        expected = ", ".join(map(str, specs))
        raise InputError(f"the model takes {_count(len(specs))} ({expected}), but got {len(values)}")
    return tuple(_check(spec, value) for spec, value in zip(specs, values, strict=True))


def _by_name(specs: Sequence[TensorSpec], values: Mapping[Any, Any]) -> list[Any]:
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in values:
            raise InputError(f"input {spec} is missing: the model takes {', '.join(names)}, but got {_names(values)}")
    for name in values:
        if name not in names:
            raise InputError(f"unknown input {name!r}: the model takes {', '.join(names)}")
    return [values[name] for name in names]


def _check(spec: TensorSpec, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"input {spec} is not an array: {error}") from None
    if array.shape != spec.shape:
        raise InputError(f"input {spec.name!r} must have shape {list(spec.shape)}, but got {list(array.shape)}")
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype}, but got {array.dtype}: "
            f"convert it with array.astype({spec.dtype!r})"
        )
    return array


def _count(inputs: int) -> str:
    return f"{inputs} input" + ("s" if inputs != 1 else "")


def _names(values: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, values)) or "none"
