"""Command-line flags that several commands share, and the options of the compiler that they stand for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import InputError
from ..runtime.hide_torch import hide_torch

if TYPE_CHECKING:
    from ..options import CompileOptions


class SignZeroChoice(str, Enum):
    """The value of a plain Sign at 0."""

    exact = "exact"
    positive = "positive"
    negative = "negative"


@dataclass(frozen=True)
class ModelFlags:
    """The flags that describe the model and its target."""

    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="NAME",
            help="The target: a name that `sbnn-tvm targets` lists, or a TVM target as JSON.",
        ),
    ] = "native"
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape",
            metavar="[NAME=]N,C,H,W",
            help="Shape of an input with open dimensions; repeat it for each such input.",
        ),
    ] = None
    sign_zero: Annotated[
        SignZeroChoice,
        typer.Option(
            help="Value of a plain Sign at 0: exact is 0 and takes two bits; positive is +1, negative is -1.",
            show_choices=True,
        ),
    ] = SignZeroChoice.exact
    exact_weights: Annotated[
        bool,
        typer.Option(
            "--exact-weights", help="Never change a weight, not even where two values differ by rounding alone."
        ),
    ] = False

    def tvm_target(self) -> str | dict[str, Any]:
        """The name of the target, or the TVM target dict."""
        if not self.target.lstrip().startswith("{"):
            return self.target
        try:
            return json.loads(self.target)
        except ValueError as error:
            raise InputError(f"--target {self.target} is neither a name nor JSON: {error}") from None

    def options(self) -> CompileOptions:
        """The flags as options of the compiler; imports the compiler."""
        shapes = _shapes(self.input_shape or [])
        with hide_torch():
            from ..options import CompileOptions
        return CompileOptions(input_shape=shapes, sign_zero=self.sign_zero.value, exact_weights=self.exact_weights)


@dataclass(frozen=True)
class CompileFlags(ModelFlags):
    """``ModelFlags``, and the flags that choose kernels."""

    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            metavar="LAYER=FAMILY",
            help="Kernel family of a layer: popcount, counters, float or sparse_float. LAYER is a name as in the "
            "report, where * matches any letters; repeatable.",
        ),
    ] = None
    tuning: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use the fastest kernels that `sbnn-tvm tune` measured."),
    ] = None
    tuning_cpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The CPU whose measurements to use, if FILE has several for the target."),
    ] = None

    def options(self) -> CompileOptions:
        """The flags as options of the compiler; imports the compiler."""
        kernels = _kernels(self.kernel or [])
        return replace(super().options(), kernels=kernels, tuning=self.tuning, tuning_cpu=self.tuning_cpu)


def expand_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one parameter per field of its parameter ``flags``, so that typer sees each flag.

    Example::

        @expand_flags
        def verify(model: Path, *, flags: CompileFlags) -> None: ...

    The command that typer sees has the parameters ``model``, ``target``, ``input_shape`` and so on.
    """
    hints = get_type_hints(command, include_extras=True)
    flags = hints["flags"]
    flag_hints, names = get_type_hints(flags, include_extras=True), [each.name for each in fields(flags)]
    defaults: Mapping[str, Any] = {each.name: each.default for each in fields(flags)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "flags":
            parameters += [
                parameter.replace(name=name, default=defaults[name], annotation=flag_hints[name]) for name in names
            ]
        else:
            annotation = hints[parameter.name]
            parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def expanded(**arguments: Any) -> None:
        command(flags=flags(**{name: arguments.pop(name) for name in names}), **arguments)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def dimensions(text: str) -> tuple[int, ...]:
    """Read a shape, for example ``"1,3,224,224"``."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InputError(f"a shape is written as in 1,3,224,224, but got {text!r}") from None


def _shapes(texts: list[str]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    if len(pairs) == 1 and not pairs[0][1]:
        return dimensions(texts[0])
    for text, (_, equals, _) in zip(texts, pairs, strict=True):
        if not equals:
            raise InputError(
                f"with several inputs each --input-shape needs a name, as in image=1,3,224,224, not {text}"
            )
    return {name: dimensions(shape) for name, _, shape in pairs}


def _kernels(texts: list[str]) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in texts]
    for text, (layer, _, family) in zip(texts, pairs, strict=True):
        if not layer or not family:
            raise InputError(f"a kernel is chosen as in layers.0.conv=counters, but got {text!r}")
    return {layer: family for layer, _, family in pairs}
