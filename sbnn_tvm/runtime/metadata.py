"""The metadata of a compiled library: its inputs and outputs, the CPU that it needs, and the compiler's report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..printable import printable

FORMAT = 1
"""The version of the metadata; a runtime reads only its own version."""

OWNER = "sbnn_tvm"
"""The owner of the ELF note (sbnn_tvm.runtime.elf) that holds the metadata."""


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

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.dtype}{list(self.shape)}")


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
        tvm_version: The version of TVM, whose runtime the library needs.
        prepares: Whether it has a function ``prepare`` that decodes constants; ``main`` takes them after the inputs.
        format: The version of this metadata.
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
    prepares: bool = False
    format: int = FORMAT

    def to_json(self) -> str:
        """The metadata as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If the text has another format version, or is damaged.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"its metadata has format {found}, but this runtime reads format {FORMAT}")
        try:
            for key in ("inputs", "outputs"):
                record[key] = tuple(
                    TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in record[key]
                )
            record["features"] = tuple(record["features"])
            return cls(**record)
        except (KeyError, TypeError) as error:
            raise ValueError(f"its metadata is damaged ({error})") from None
