"""Tracing of layers as single operators of ai.sbnn and of ONNX, which the exporter needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...onnx.opset import DOMAIN, ONNX_OPSET, VERSION

_traced_as_operators = False


@contextmanager
def traced_as_operators() -> Iterator[None]:
    """While this context is open, the layers trace as single operators; the exporter opens it.

    Elsewhere, such as in torch.compile or in a user's torch.onnx.export, they trace as the operations they consist of.
    """
    global _traced_as_operators
    _traced_as_operators = True
    try:
        yield
    finally:
        _traced_as_operators = False


def traces_operators() -> bool:
    """Whether modules should trace as single operators (``symbolic``) now."""
    return _traced_as_operators


def symbolic(operator: str, inputs: list[Tensor], attributes: dict, shape: tuple[int, ...]) -> Tensor:
    """The float32 result of an ai.sbnn operator in a trace; only while ``traces_operators()``."""
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{operator}", inputs, attributes, dtype=inputs[0].dtype, shape=shape, version=VERSION
    )


def standard_operator(
    operator: str, inputs: list[Tensor], dtype: torch.dtype, shape: torch.Size, attributes: dict | None = None
) -> Tensor:
    """The result of an operator of ONNX in a trace; only while ``traces_operators()``."""
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=shape, version=ONNX_OPSET)
