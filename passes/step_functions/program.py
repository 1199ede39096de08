"""Elementwise functions of one number, as straight-line programs that are evaluated as the reference does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .ordinals import rounded

FLOAT = "float32"
BOOL = "bool"
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "int64")


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: ``"input"``, ``"constant"``, or a key of ``OPERATIONS``.
        args: Numbers of the nodes that it reads; for a constant the number of its values.
        dtype: Type of its result.
    """

    op: str
    args: tuple[int, ...]
    dtype: str


@dataclass
class Program:
    """A program; equal operations are one node. Node 0 is the input, a float32 number; the last is the result.

    A constant may differ between lanes, for example between channels. All values are held as float64, which represents
    every float32 number and the integers exactly.

    Attributes:
        nodes: The operations; each reads earlier ones.
        constants: float64 [lanes] or [1] of each constant.
    """

    nodes: list[Node] = field(default_factory=lambda: [Node("input", (), FLOAT)])
    constants: list[np.ndarray] = field(default_factory=list)
    _known: dict[object, int] = field(default_factory=dict)

    def constant(self, values: np.ndarray, dtype: str = FLOAT) -> int:
        """Add a constant: one number, or one per lane."""
        values = np.asarray(values).astype(np.float64).reshape(-1)
        key = (values.tobytes(), dtype)
        if key not in self._known:
            self.constants.append(values)
            self._known[key] = self._append(Node("constant", (len(self.constants) - 1,), dtype))
        return self._known[key]

    def add(self, op: str, args: Sequence[int], dtype: str) -> int:
        """Add an operation."""
        node = Node(op, tuple(args), dtype)
        if node not in self._known:
            self._known[node] = self._append(node)
        return self._known[node]

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    @property
    def lanes(self) -> int:
        """Number of lanes; 1 if all constants are single numbers."""
        return max((len(each) for each in self.constants), default=1)

    @property
    def key(self) -> object:
        """Equal for programs that compute the same."""
        return (tuple(self.nodes), tuple(each.tobytes() for each in self.constants))

    def one_lane_each(self) -> tuple[Program, np.ndarray]:
        """The program with equal lanes merged, and the new lane of each lane, int [lanes]."""
        lanes = self.lanes
        if lanes == 1:
            return self, np.zeros(1, np.int64)
        spread = [np.broadcast_to(each, lanes) for each in self.constants]
        distinct, lane_of = np.unique(np.stack(spread), axis=1, return_inverse=True)
        return Program(self.nodes, list(distinct)), lane_of.reshape(-1)

    def constant_at(self, node: int, lane: np.ndarray) -> np.ndarray:
        """The values of a constant node in rows of these lanes."""
        values = self.constants[self.nodes[node].args[0]]
        return np.broadcast_to(values, lane.shape) if len(values) == 1 else values[lane]

    def run(self, x: np.ndarray, lane: np.ndarray) -> list[np.ndarray]:
        """The values of all nodes, float64; an integer out of the range of its type is NaN.

        Args:
            x: float32 numbers as float64 [rows].
            lane: The lane of each, int [rows].
        """
        values: list[np.ndarray] = []
        with np.errstate(all="ignore"):
            for number, node in enumerate(self.nodes):
                if node.op == "input":
                    values.append(x)
                elif node.op == "constant":
                    values.append(self.constant_at(number, lane))
                else:
                    values.append(apply(node, [values[arg] for arg in node.args]))
        return values


def apply(node: Node, args: Sequence[np.ndarray]) -> np.ndarray:
    """The result of one operation, rounded or limited as its type wants."""
    result = OPERATIONS[node.op](*args)
    if node.dtype == FLOAT:
        return rounded(result) if node.op in ROUNDED else result
    if node.dtype == BOOL:
        return result if result.dtype == np.float64 else result.astype(np.float64)
    limits = np.iinfo(node.dtype)
    return np.where((result >= limits.min) & (result <= limits.max), result, np.nan)


def _of_nan(compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda a, b: compare(a, b).astype(np.float64)


def _where(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(c != 0, a, b)


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "negative": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "round": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": _of_nan(np.greater),
    "greater_equal": _of_nan(np.greater_equal),
    "less": _of_nan(np.less),
    "less_equal": _of_nan(np.less_equal),
    "equal": _of_nan(np.equal),
    "not_equal": _of_nan(np.not_equal),
    "logical_and": np.minimum,
    "logical_or": np.maximum,
    "logical_xor": _of_nan(np.not_equal),
    "logical_not": lambda a: 1.0 - a,
    "where": _where,
    "nonzero": lambda a: (a != 0).astype(np.float64),
    "same": lambda a: a,
    "to_float": lambda a: a,
    "sign_positive": lambda a: np.where(a >= 0, 1.0, -1.0),
    "sign_negative": lambda a: np.where(a > 0, 1.0, -1.0),
}
"""Each operation on float64. ``nonzero`` casts to bool, ``trunc`` and ``same`` cast to integers, ``to_float`` casts to
float32; ``sign_positive`` and ``sign_negative`` are signs whose result at 0 the user chose."""
ROUNDED = frozenset({"add", "subtract", "multiply", "divide", "to_float"})
DISCRETE = frozenset(
    {"sign", "sign_positive", "sign_negative", "round", "floor", "ceil", "trunc", "nonzero", "greater",
     "greater_equal", "less", "less_equal", "equal", "not_equal"}
)  # fmt: skip
"""Operations that make few values of many."""
BOUNDS = frozenset({"maximum", "minimum", "abs", "where"})
"""Operations that limit the range of a value."""
