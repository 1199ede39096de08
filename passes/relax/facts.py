"""Facts about values that one phase finds and a later phase needs, stored as attributes of the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm.ir import IRModule

from .snapped_weights import WeightChange
from .views import View

_INTEGER_SUMS = "sbnn.integer_sums"
_NOTES = "sbnn.notes"
_VALUES = "sbnn.values_taken"
_VIEWS = "sbnn.views"
_WEIGHT_PLANES = "sbnn.weight_planes"
_WEIGHT_CHANGES = "sbnn.weight_changes"


def with_integer_sums(mod: IRModule, sums: Mapping[str, str]) -> IRModule:
    """Record which integer sums replace sums of float products.

    The reference rounds the float sum; the integer sum is exact. A bit computed from the integer sum may therefore
    differ from the reference if the value is within rounding of the threshold.

    Args:
        mod: The module that computes the integer sums.
        sums: For the name of each integer sum, the name of the float sum that it replaces.
    """
    return mod.with_attr(_INTEGER_SUMS, dict(sums))


def integer_sums(mod: IRModule) -> dict[str, str]:
    """Read the record of :func:`with_integer_sums`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_INTEGER_SUMS, {})
    return {str(key): str(value) for key, value in recorded.items()}


@dataclass(frozen=True)
class Note:
    """A sentence for the report.

    Attributes:
        about: Name of the value that it is about.
        sentence: The sentence.
        approximates: Whether it tells of results that differ from the model's, which ``strict`` refuses.
    """

    about: str
    sentence: str
    approximates: bool


def with_notes(mod: IRModule, notes: Sequence[Note]) -> IRModule:
    """Record sentences for the report, after those that are recorded already."""
    record = [[note.about, note.sentence, int(note.approximates)] for note in (*notes_of(mod), *notes)]
    return mod.with_attr(_NOTES, record)


def notes_of(mod: IRModule) -> tuple[Note, ...]:
    """Read the record of :func:`with_notes`; empty if there is none."""
    record = (mod.attrs or {}).get(_NOTES, ())
    return tuple(Note(str(about), str(sentence), bool(wrong)) for about, sentence, wrong in record)


def with_values_taken(mod: IRModule, values: Mapping[str, Sequence[float]]) -> IRModule:
    """Record which few values some float32 tensors take that no kernel can use, ascending, for each name."""
    return mod.with_attr(_VALUES, {name: [float(each) for each in taken] for name, taken in values.items()})


def values_taken(mod: IRModule) -> dict[str, tuple[float, ...]]:
    """Read the record of :func:`with_values_taken`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_VALUES, {})
    return {str(name): tuple(float(each) for each in taken) for name, taken in recorded.items()}


def with_views(mod: IRModule, found: Mapping[str, View]) -> IRModule:
    """Record which variables hold a value of the imported module in another layout.

    Args:
        mod: The module.
        found: For the name of each such variable, how the value of that name is read from it.
    """
    record = {name: [view.stored, view.shape, view.sizes, view.order] for name, view in found.items()}
    return mod.with_attr(_VIEWS, record)


def views(mod: IRModule) -> dict[str, View]:
    """Read the record of :func:`with_views`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_VIEWS, {})
    return {
        str(name): View(*(tuple(int(number) for number in numbers) for numbers in view))
        for name, view in recorded.items()
    }


def with_weight_changes(mod: IRModule, changes: Mapping[str, WeightChange]) -> IRModule:
    """Record how weights differ from those of the model, by the name of the value that the layer computes."""
    return mod.with_attr(_WEIGHT_CHANGES, {name: encoded_change(each) for name, each in changes.items()})


def weight_changes(mod: IRModule) -> dict[str, WeightChange]:
    """Read the record of :func:`with_weight_changes`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_WEIGHT_CHANGES, {})
    return {str(key): decoded_change(value) for key, value in recorded.items()}


def encoded_change(change: WeightChange) -> list[float]:
    """A change of weights as numbers, which an attribute can hold."""
    return [change.relative, change.zeros, change.sign_of_zero]


def decoded_change(numbers: Sequence[float]) -> WeightChange:
    """The change that ``encoded_change`` wrote."""
    relative, zeros, sign = numbers
    return WeightChange(float(relative), int(zeros), int(sign))


def with_weight_planes(mod: IRModule, planes: Mapping[str, str]) -> IRModule:
    """Record which linear calls compute a part of a layer whose weights are sums of binary weights.

    Args:
        mod: The module.
        planes: For the name of each such call what the weights of the layer are called, if it completes the layer;
            otherwise "".
    """
    return mod.with_attr(_WEIGHT_PLANES, dict(planes))


def weight_planes(mod: IRModule) -> dict[str, str]:
    """Read the record of :func:`with_weight_planes`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_WEIGHT_PLANES, {})
    return {str(key): str(value) for key, value in recorded.items()}
