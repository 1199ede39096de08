"""Random nodes of any of the operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from . import elementwise, shapes, sums
from .case import Case, Draw

DRAWS: dict[str, Callable[[Draw], Case]] = {**elementwise.DRAWS, **shapes.DRAWS, **sums.DRAWS}
OPSETS = range(7, 24)


def draw(seed: int, operators: Sequence[str] = tuple(DRAWS)) -> Case:
    """A node of an operator set that has its operator."""
    rng = np.random.default_rng([seed, 7])
    operator = operators[seed % len(operators)]
    known = [version for version in OPSETS if _has(operator, version)] or [26]
    return DRAWS[operator](Draw(rng, int(rng.choice(known))))


def _has(operator: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(operator, version, "").deprecated
    except onnx.defs.SchemaError:
        return False
