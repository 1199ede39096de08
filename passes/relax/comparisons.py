"""The comparisons that binarisers make, with the result that each gives for NaN.

Four comparisons rise with x. Two are false for NaN: ``greater(x, t)`` and ``greater_equal(x, t)``. Two are true for
NaN: ``logical_not(less_equal(x, t))``, which is ``x > t`` for numbers, and ``logical_not(less(x, t))``, ``x >= t``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, op

from .graph import Graph, Writer, op_name

_RISING = {"greater": (False, False), "greater_equal": (True, False), "less_equal": (False, True), "less": (True, True)}
COMPARISONS = frozenset(_RISING)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison that rises with x.

    Attributes:
        x: The compared value.
        threshold: What it is compared with.
        inclusive: Whether it holds at the threshold.
        of_nan: Whether it holds where x or the threshold is NaN.
    """

    x: Expr
    threshold: Expr
    inclusive: bool
    of_nan: bool


def comparison(graph: Graph, condition: Expr) -> Comparison | None:
    """Match the comparison that computes a condition; None for any other value, and for a falling comparison."""
    value = graph.values.get(condition) if isinstance(condition, relax.Var) else None
    negated = value is not None and op_name(value) == "logical_not"
    if value is not None and negated:
        value = graph.values.get(value.args[0]) if isinstance(value.args[0], relax.Var) else None
    if not isinstance(value, Call) or op_name(value) not in _RISING:
        return None
    inclusive, of_nan = _RISING[op_name(value)]
    x, threshold = value.args
    return Comparison(x, threshold, inclusive, of_nan) if negated == of_nan else None


def emit_comparison(writer: Writer, x: Expr, threshold: Expr, inclusive: bool, of_nan: bool, name: str) -> Expr:
    """Write a comparison that rises with x, bound to a variable of this name."""
    if not of_nan:
        return writer.emit((op.greater_equal if inclusive else op.greater)(x, threshold), name)
    below = writer.emit((op.less if inclusive else op.less_equal)(x, threshold), f"{name}_below")
    return writer.emit(op.logical_not(below), name)
