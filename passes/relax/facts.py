"""Facts about values that one phase finds and a later phase needs, stored as attributes of the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm.ir import IRModule

_INTEGER_SUMS = "sbnn.integer_sums"
_NOTES = "sbnn.notes"
_VALUES = "sbnn.values_taken"


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
