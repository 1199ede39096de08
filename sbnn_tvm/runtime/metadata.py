"""The metadata of a compiled library: its inputs and outputs, the CPU that it needs, and the compiler's report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..printable import printable
from .cpu import FLAGS, normalize_machine

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""The dtypes of inputs and outputs, by numpy's names."""

RUNTIMES = ("c", "tvm")
"""What runs a library: its own C code, or TVM's runtime."""

_LATER: dict[str, object] = {"runtime": "tvm", "parallel": True, "symbol": "", "builds": []}
"""Fields that records of format 2 lack, and what they mean there."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_DIMENSIONS = 32  # numpy's limit before version 2
_LARGEST_TENSOR = 1 << 40  # bytes


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a compiled model.

    Attributes:
        name: Name in the ONNX graph.
        shape: The static shape, batch included.
        dtype: numpy's name of the dtype, for example ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.dtype}{list(self.shape)}")


@dataclass(frozen=True)
class BuildRecord:
    """A build of a C library: the model for one kind of CPU.

    Attributes:
        name: Name of its target.
        features: The features that its machine code uses, sorted.
        code: Bytes of its machine code.
        constants: Bytes of its constants.
        own_constants: Bytes of those constants that the builds before it do not have.
    """

    name: str
    features: tuple[str, ...]
    code: int
    constants: int
    own_constants: int


@dataclass(frozen=True)
class Metadata:
    """The metadata of a library.

    Attributes:
        name: Name of the model.
        inputs: Inputs, in the order in which ``run`` takes them.
        outputs: Outputs, in the order in which ``run`` returns them.
        target: Name of the target that it was compiled for.
        triple: LLVM's target triple, for example ``"aarch64-unknown-linux-gnu"``.
        features: The features that the CPU must have (sbnn_tvm.runtime.cpu), by LLVM's names, sorted.
        report: The compiler's report, as JSON text.
        sbnn_version: The version of the compiler.
        tvm_version: The version of TVM that compiled it, and whose runtime a library for that runtime needs.
        runtime: What runs it: ``"c"`` for a library that stands alone, ``"tvm"`` for one that needs TVM's runtime.
        symbol: With which its C functions begin, for example ``"digits"`` for ``digits_run``; empty for TVM's runtime.
        parallel: Whether it has enough work in parallel loops for several threads.
        prepares: Whether it has a function ``prepare`` that decodes constants; ``main`` takes them after the inputs. A
            C library decodes them itself.
        builds: The builds of a C library, best first. It runs the first one that the CPU can run; ``features`` are
            those of the last one.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: str
    triple: str
    features: tuple[str, ...]
    report: str
    sbnn_version: str
    tvm_version: str
    runtime: str = "tvm"
    symbol: str = ""
    parallel: bool = True
    prepares: bool = False
    builds: tuple[BuildRecord, ...] = ()

    @property
    def machine(self) -> str:
        """The architecture that the library is for, as in sbnn_tvm.runtime.cpu."""
        return normalize_machine(self.triple.split("-")[0])

    def to_json(self) -> str:
        """The metadata as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read what ``to_json`` wrote. Every field is checked, so that nothing later has to.

        Raises:
            ValueError: If the text is anything else; the message says which field, and what it holds.
        """
        record = _json(text, "the record")
        names = [field.name for field in fields(cls)]
        if isinstance(record, dict) and not record.keys() & _LATER.keys():
            record |= _LATER
        _check(isinstance(record, dict) and sorted(record) == sorted(names), "the record", "an object of its fields")
        for name in ("name", "target", "triple", "report", "sbnn_version", "tvm_version", "symbol"):
            _check(isinstance(record[name], str), name, "text", record[name])
        for name in ("prepares", "parallel"):
            _check(isinstance(record[name], bool), name, "true or false", record[name])
        runtime, symbol = record["runtime"], record["symbol"]
        _check(runtime in RUNTIMES, "runtime", f"one of {', '.join(RUNTIMES)}", runtime)
        valid = bool(_IDENTIFIER.fullmatch(symbol)) if runtime == "c" else not symbol
        _check(valid, "symbol", "a C identifier for the runtime c, otherwise empty", symbol)
        for name in ("inputs", "outputs", "features", "builds"):
            _check(isinstance(record[name], list), name, "a list", record[name])
        for name in ("inputs", "outputs"):
            record[name] = tuple(_tensor(spec, f"{name}[{index}]") for index, spec in enumerate(record[name]))
        record["features"] = tuple(record["features"])
        record["builds"] = tuple(_build(each, f"builds[{index}]") for index, each in enumerate(record["builds"]))
        metadata = cls(**record)
        _check(metadata.machine in FLAGS, "triple", f"one for {', '.join(FLAGS)}", metadata.triple)
        known = FLAGS[metadata.machine]
        lists = {"features": metadata.features}
        lists |= {f"builds[{index}].features": build.features for index, build in enumerate(metadata.builds)}
        for name, features in lists.items():
            for index, feature in enumerate(features):
                valid = isinstance(feature, str) and feature in known
                _check(valid, f"{name}[{index}]", f"a feature of {metadata.machine} that this version knows", feature)
        _json(metadata.report, "report")
        return metadata


def _tensor(spec: object, where: str) -> TensorSpec:
    names = {"name", "shape", "dtype"}
    _check(isinstance(spec, Mapping) and spec.keys() == names, where, "an object of name, shape and dtype", spec)
    assert isinstance(spec, Mapping)
    name, shape, dtype = spec["name"], spec["shape"], spec["dtype"]
    _check(isinstance(name, str), f"{where}.name", "text", name)
    _check(isinstance(dtype, str) and dtype in DTYPES, f"{where}.dtype", f"one of {', '.join(DTYPES)}", dtype)
    sizes = isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS and all(map(_is_size, shape))
    _check(sizes, f"{where}.shape", f"a list of at most {_MOST_DIMENSIONS} sizes", shape)
    tensor = TensorSpec(name, tuple(shape), dtype)
    _check(tensor.bytes <= _LARGEST_TENSOR, f"{where}.shape", f"one of at most {_LARGEST_TENSOR} bytes", shape)
    return tensor


def _build(build: object, where: str) -> BuildRecord:
    names = {field.name for field in fields(BuildRecord)}
    _check(isinstance(build, Mapping) and build.keys() == names, where, "an object of the fields of a build", build)
    assert isinstance(build, Mapping)
    _check(isinstance(build["name"], str), f"{where}.name", "text", build["name"])
    _check(isinstance(build["features"], list), f"{where}.features", "a list", build["features"])
    for name in ("code", "constants", "own_constants"):
        _check(_is_size(build[name]), f"{where}.{name}", "a size", build[name])
    return BuildRecord(**{**build, "features": tuple(build["features"])})


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _json(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested too deep
        raise ValueError(f"{what} is not JSON") from None


def _check(valid: bool, what: str, expected: str, found: object = None) -> None:
    if not valid:
        shown = repr(found)
        but = "" if found is None else f", but is {shown if len(shown) <= 60 else shown[:60] + '...'}"
        raise ValueError(f"{what} must be {expected}{but}")
