"""The input arrays of a call: check them against the model's inputs, or draw them at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .metadata import TensorSpec


def match_inputs(specs: Sequence[TensorSpec], values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Check and order the arguments of ``run``.

    Args:
        specs: The inputs of the model.
        values: Either one array per input, in their order, or a single mapping from their names to arrays. An array
            is anything that ``np.asarray`` takes; dtypes are not converted.

    Returns:
        One array per input, with its shape and dtype.

    Raises:
        InputError: If an array is missing or superfluous, or has a different shape or dtype.
    """
    if len(values) == 1 and isinstance(values[0], Mapping):
        values = _by_name(specs, values[0])
    if len(values) != len(specs):
        raise InputError(_wrong_count(specs, len(values)))
    return tuple(_check(spec, value) for spec, value in zip(specs, values, strict=True))


def split_batches(
    specs: Sequence[TensorSpec], values: np.ndarray | Sequence[Any] | Mapping[str, Any]
) -> tuple[tuple[np.ndarray, ...], ...]:
    """Split arrays that hold several inputs along the first dimension into the arguments of several calls.

    Args:
        specs: The inputs of the model.
        values: One array per input, in their order or by name; for a model with one input also the array itself.

    Returns:
        The arrays of each call, checked by ``match_inputs``.

    Raises:
        InputError: If they do not match the model, or hold different numbers of inputs.
    """
    if isinstance(values, Mapping):
        arrays = _by_name(specs, values)
    else:
        arrays = [values] if isinstance(values, np.ndarray) else list(values)
    if len(arrays) != len(specs):
        raise InputError(_wrong_count(specs, len(arrays)))
    calls = [_split(spec, value) for spec, value in zip(specs, arrays, strict=True)]
    counts = {spec.name: len(call) for spec, call in zip(specs, calls, strict=True)}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"every input of the model must be given equally often, but there are {found}")
    return tuple(match_inputs(specs, arrays) for arrays in zip(*calls, strict=True))


def random_inputs(
    specs: Sequence[TensorSpec], rng: np.random.Generator, ranges: Mapping[str, tuple[int, int]] | None = None
) -> tuple[np.ndarray, ...]:
    """Random arrays for a model.

    Floats come from the standard normal distribution, booleans and integers of 8 and 16 bits from the whole range of
    their type. Integers of 32 and 64 bits may be indices or lengths, of which only the model knows the range: they are
    0 and 1, unless ``ranges`` has the first and last value for the input's name.
    """
    return tuple(_random(spec, rng, (ranges or {}).get(spec.name)) for spec in specs)


def _random(spec: TensorSpec, rng: np.random.Generator, known: tuple[int, int] | None) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(spec.shape), dtype)
    if known is None and dtype.kind in "iu" and dtype.itemsize <= 2:
        known = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    first, last = known or (0, 1)
    drawn_as = dtype if dtype.kind in "iu" else np.dtype(np.int64)
    return np.asarray(rng.integers(first, last, spec.shape, drawn_as, endpoint=True), dtype)


def _by_name(specs: Sequence[TensorSpec], values: Mapping[Any, Any]) -> list[Any]:
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in values:
            raise InputError(f"input {spec} is missing: the model takes {', '.join(names)}, but got {_names(values)}")
    for name in values:
        if name not in names:
            raise InputError(f"unknown input {name!r}: the model takes {', '.join(names)}")
    return [values[name] for name in names]


def _split(spec: TensorSpec, value: Any) -> list[np.ndarray]:
    array = _array(spec, value)
    if array.shape == spec.shape:
        return [array]
    calls, rest = divmod(len(array), spec.shape[0]) if array.ndim and spec.shape else (0, 0)
    if not calls or rest or array.shape[1:] != spec.shape[1:]:
        several = ", or several of them along the first dimension" if spec.shape else ""
        raise InputError(
            f"input {spec.name!r} must have shape {list(spec.shape)}{several}, but got {list(array.shape)}"
        )
    return np.split(array, calls)


def _check(spec: TensorSpec, value: Any) -> np.ndarray:
    array = _array(spec, value)
    if array.shape != spec.shape:
        raise InputError(f"input {spec.name!r} must have shape {list(spec.shape)}, but got {list(array.shape)}")
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype}, but got {array.dtype}: "
            f"convert it with array.astype({spec.dtype!r})"
        )
    return array


def _array(spec: TensorSpec, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"input {spec} is not an array: {error}") from None


def _wrong_count(specs: Sequence[TensorSpec], count: int) -> str:
    inputs = f"{len(specs)} input" + ("s" if len(specs) != 1 else "")
    expected = f" ({', '.join(map(str, specs))})" if specs else ""
    return f"the model takes {inputs}{expected}, but got {count}"


def _names(values: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, values)) or "none"
