"""What a compiled library says about itself: its inputs and outputs, the CPU it needs, and the compiler's report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

FORMAT = 1
"""The version of this record; a runtime reads its own and nothing else."""

OWNER = "sbnn_tvm"
"""The owner of the ELF note (sbnn_tvm.runtime.elf) that holds the record."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a compiled model.

    Attributes:
        name: As in the ONNX graph.
        shape: Fixed, batch included.
        dtype: numpy's name, for example ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Metadata:
    """The record in a library.

    Attributes:
        name: Of the model.
        inputs: In the order of ``run``.
        outputs: In the order of ``run``.
        target: The name of the target it was compiled for.
        triple: LLVM's, for example ``"aarch64-unknown-linux-gnu"``.
        features: What the CPU must have (sbnn_tvm.runtime.cpu), by LLVM's names, sorted.
        report: The compiler's report, as JSON text.
        sbnn_version: The version of the compiler.
        tvm_version: The version of TVM, whose runtime the library needs.
        prepares: Whether its function ``prepare`` makes constants that ``main`` takes behind the inputs.
        format: The version of this record.
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
        """The record as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If the text is of another format, or damaged.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"its record is of format {found}, this runtime reads format {FORMAT}")
        try:
            for key in ("inputs", "outputs"):
                record[key] = tuple(
                    TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in record[key]
                )
            record["features"] = tuple(record["features"])
            return cls(**record)
        except (KeyError, TypeError) as error:
            raise ValueError(f"its record is damaged ({error})") from None
