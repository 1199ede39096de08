"""The options of a compilation, shared by ``compile``, ``explain``, ``tune`` and the command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from sbnn_tvm.passes.families.families import BY_NAME
from sbnn_tvm.passes.families.family import Family
from sbnn_tvm.passes.phases.step_functions import SignZero

from .errors import CompileError


@dataclass(frozen=True)
class CompileOptions:
    """How to compile a model. Every option has a default.

    Attributes:
        input_shape: Shape of the input, batch included, or a dict from input names to shapes. A PyTorch module needs
            it unless it has an ``example_input_array``. An ONNX model needs it where dimensions are open.
        sign_zero: The value of a plain ``Sign`` at 0. ``"exact"`` is 0, as in ONNX: a third value, which takes
            two bits. ``"positive"`` and ``"negative"`` replace it by +1 or -1, and the report says so.
        exact_weights: Never change a weight. Otherwise weights of a layer on bits that take two values per output
            channel within rounding (1.5e-5 of the largest) are set to two values, and the report says so. With
            ``sign_zero``, so are a few zeros between -a and +a. Of a PyTorch module, straight-through arithmetic is
            exported as its value, ``(a - b).detach() + b`` as ``a``, and the report says so.
        kernels: Kernel families to use instead of the cost model's choice: ``"popcount"``, ``"counters"``,
            ``"float"`` or ``"sparse_float"``. The keys are names of layers as in the report, or patterns such as
            ``"layers.*"``.
        tuning: A tuning database, written by ``sbnn_tvm.tune``. If it has measurements of the target's CPU, the fastest
            kernels are used. The report names them and their gain.
        tuning_cpu: The CPU whose measurements to use: its name, or a part of it. Needed if the database has several
            CPUs for a target that is not this machine.
        strict: Refuse a model if a layer with binary weights would run in float, an operator would run in TVM's
            unscheduled loops, or a value would be approximated. Only ``compile`` reads it.
        name: Name of the model in reports. The default is the name of the file or class.
        dump: A folder for the module after each phase, as TVMScript.
        compare_export: Of a PyTorch module: run the module and the ONNX file that it is exported to once on the same
            input, and refuse it if they differ. torch's exporter drops some arguments without a word.

    Raises:
        CompileError: If a value is not allowed.

    Example::

        options = CompileOptions(input_shape=(1, 3, 224, 224), kernels={"layers.*": "counters"})
        print(sbnn_tvm.compile(model, "arm", options).report)
    """

    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None
    sign_zero: SignZero = "exact"
    exact_weights: bool = False
    kernels: Mapping[str, str] | None = None
    tuning: str | os.PathLike[str] | None = None
    tuning_cpu: str | None = None
    strict: bool = False
    name: str | None = None
    dump: str | os.PathLike[str] | None = None
    compare_export: bool = True

    def __post_init__(self) -> None:
        if self.sign_zero not in ("exact", "positive", "negative"):
            raise CompileError(f"sign_zero must be 'exact', 'positive' or 'negative', but got {self.sign_zero!r}")
        if self.tuning_cpu is not None and self.tuning is None:
            raise CompileError(
                f"tuning_cpu={self.tuning_cpu!r} says whose measurements to use, but there is no tuning=..."
            )
        for layer, family in (self.kernels or {}).items():
            if family not in BY_NAME:
                raise CompileError(
                    f"kernels: {family!r} for {layer!r} is no family of kernels; the families are {', '.join(BY_NAME)}"
                )

    @property
    def forced_families(self) -> tuple[tuple[str, Family], ...]:
        """``kernels`` as pairs of a pattern and a family."""
        return tuple((layer, BY_NAME[family]) for layer, family in (self.kernels or {}).items())


class ModelKeywords(TypedDict, total=False):
    """The options that describe the model, as keywords: see :class:`CompileOptions`."""

    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None
    sign_zero: SignZero
    exact_weights: bool
    name: str | None
    compare_export: bool


class CompileKeywords(ModelKeywords, total=False):
    """All options as keywords: see :class:`CompileOptions`."""

    kernels: Mapping[str, str] | None
    tuning: str | os.PathLike[str] | None
    tuning_cpu: str | None
    strict: bool
    dump: str | os.PathLike[str] | None


def options_of(
    function: str,
    allowed: type[ModelKeywords],
    options: CompileOptions | None,
    keywords: Mapping[str, Any],
) -> CompileOptions:
    """The options of a call: an object, keywords, or an object some of whose fields the keywords replace.

    Args:
        function: Name of the function that was called, for messages.
        allowed: The keywords that it takes.
        options: The object, if the caller passed one.
        keywords: The keywords that the caller passed.

    Raises:
        TypeError: If a keyword is unknown, or ``options`` is of another type.
        CompileError: If a value is not allowed.
    """
    if options is not None and not isinstance(options, CompileOptions):
        raise TypeError(f"{function}() takes options as a CompileOptions or as keywords, but got {options!r}")
    known = [each.name for each in fields(CompileOptions) if each.name in allowed.__annotations__]
    for name in keywords:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}: {hint}the options are {', '.join(known)}"
            )
    return replace(options or CompileOptions(), **keywords)
