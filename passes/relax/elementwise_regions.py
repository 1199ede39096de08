"""Read the elementwise operations between one value and another as a program (step_functions/program.py)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.ir import Call
from tvm.relax import Expr, Var

from ..step_functions.program import BOOL, BOUNDS, DISCRETE, FLOAT, INTEGERS, OPERATIONS, Node, Program
from .comparisons import COMPARISONS
from .graph import Graph, broadcasts_to, constant, op_name, shape

MOST_NODES = 100
MOST_LANES = 1 << 14
_SAME_VALUES = {"reshape", "broadcast_to"}
_NAMES = {"nn.relu": "maximum", "clip": "minimum", "astype": "to_float"} | {
    name: name for name in OPERATIONS if name not in ("nonzero", "same", "to_float", "sign_positive", "sign_negative")
}
_TYPES = (FLOAT, BOOL, *INTEGERS)


@dataclass(frozen=True, eq=False)
class Region:
    """A value as a function of another one, of the same shape.

    Attributes:
        result: The value.
        source: The variable that the value is a function of.
    """

    result: Var
    source: Var


def regions(graph: Graph, order: dict[Var, int], result: Var) -> Iterator[Region]:
    """Every way to see a value as an elementwise function of one variable, the nearest first.

    Only variables behind at least one operation that makes few values of many are tried, and after the first one only
    those behind another such operation, or behind another bound: a float32 variable, or a comparison of two computed
    tensors.

    Args:
        graph: The function.
        order: The position of each variable.
        result: The value.
    """
    waiting = [-order[result]]
    variables = {order[result]: result}
    discrete = news = False
    for _ in range(MOST_NODES):
        if not waiting:
            return
        var = variables[-heapq.heappop(waiting)]
        alone = not waiting
        if alone and discrete and news and not var.same_as(result) and str(var.ty.dtype) == FLOAT:
            yield Region(result, var)
            news = False
        value = graph.values.get(var)
        if value is None or not is_elementwise(value, var):
            return
        if alone and compares_computed(value, shape(result)):
            yield Region(result, var)
        discrete = discrete or _operation(value) in DISCRETE
        news = news or _operation(value) in DISCRETE | BOUNDS
        for arg in value.args:
            if isinstance(arg, Var) and order[arg] not in variables:
                variables[order[arg]] = arg
                heapq.heappush(waiting, -order[arg])


def is_elementwise(value: Expr, var: Var) -> bool:
    """Whether a bound value is an operation of ``OPERATIONS`` on constants and tensors of its own shape."""
    if not isinstance(value, Call) or str(getattr(var.ty, "dtype", "")) not in _TYPES:
        return False
    name = op_name(value)
    if name in _SAME_VALUES:
        return isinstance(value.args[0], Var) and shape(value.args[0]) == shape(var)
    if name not in _NAMES:
        return False
    tensors = value.args[:1] if name == "clip" else value.args
    if any(str(arg.ty.dtype) not in _TYPES for arg in tensors):
        return False
    if name == "divide" and str(var.ty.dtype) != FLOAT:
        return False
    variables = [arg for arg in tensors if isinstance(arg, Var)]
    equal = all(shape(arg) == shape(var) for arg in variables)
    return bool(variables) and (equal or compares_computed(value, shape(var)))


def compares_computed(value: Expr, extent: tuple[int, ...]) -> bool:
    """Whether a value compares two computed float32 tensors, one of which may be broadcast."""
    if op_name(value) not in COMPARISONS or any(str(arg.ty.dtype) != FLOAT for arg in value.args):
        return False
    a, b = value.args
    if constant(a) is not None or constant(b) is not None:
        return False
    return any(shape(x) == extent and broadcasts_to(shape(y), extent) for x, y in ((a, b), (b, a)))


def _operation(value: Call) -> str:
    if op_name(value) != "astype":
        return _NAMES.get(op_name(value), "")
    before, after = str(value.args[0].ty.dtype), str(value.attrs.dtype)
    if before in (after, BOOL):
        return "same" if after != FLOAT else "to_float"
    if after == BOOL:
        return "nonzero"
    if after == FLOAT:
        return "to_float"
    return "trunc" if before == FLOAT else "same"


def program_of(graph: Graph, region: Region) -> tuple[Program, tuple[int, ...]] | None:
    """The program of a region, and the shape of its lanes, which broadcasts over the result.

    Returns:
        None if constants differ in too many places, or are not finite.
    """
    extent = shape(region.result)
    values: list[np.ndarray] = []

    def collect(var: Var, seen: set[Var]) -> None:
        if var.same_as(region.source) or var in seen:
            return
        seen.add(var)
        for arg in graph.values[var].args:
            if isinstance(arg, Var):
                collect(arg, seen)
            elif (array := constant(arg)) is not None:
                values.append(_smallest(array, len(extent)))

    collect(region.result, set())
    if any(each.ndim > len(extent) or not np.isfinite(each).all() for each in values):
        return None
    lanes = np.broadcast_shapes(*(each.shape for each in values)) if values else ()
    if int(np.prod(lanes)) > MOST_LANES:
        return None
    return _Reader(graph, region, lanes).program(), lanes


def _smallest(array: np.ndarray, rank: int) -> np.ndarray:
    """A constant without the axes along which it does not change: [1, C, 1, 1], or one number of no axes."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if array.shape[axis] > 1 and np.array_equal(array, np.broadcast_to(first, array.shape)):
            array = first
    if array.size == 1:
        return array.reshape(())
    return array.reshape((1,) * (rank - array.ndim) + array.shape) if array.ndim < rank else array


class _Reader:
    def __init__(self, graph: Graph, region: Region, lanes: tuple[int, ...]) -> None:
        self.graph, self.source, self.result, self.lanes = graph, region.source, region.result, lanes
        self.into = Program()
        self.known: dict[Var, int] = {region.source: 0}

    def program(self) -> Program:
        last = self.node(self.result)
        if last != len(self.into.nodes) - 1:  # an operation that changes nothing, as the last node
            self.into.nodes.append(Node("to_float", (last,), FLOAT))
        return self.into

    def node(self, expr: Expr) -> int:
        """The node that computes an expression."""
        if (array := constant(expr)) is not None:
            return self._constant(array, str(expr.ty.dtype))
        if expr not in self.known:
            self.known[expr] = self._call(self.graph.values[expr], str(expr.ty.dtype))
        return self.known[expr]

    def _constant(self, array: np.ndarray, dtype: str) -> int:
        array = _smallest(array, len(self.lanes))
        if array.size > 1:
            array = np.broadcast_to(array, self.lanes)
        return self.into.constant(array, dtype)

    def _call(self, call: Call, dtype: str) -> int:
        name = op_name(call)
        if name in _SAME_VALUES:
            return self.node(call.args[0])
        if name == "nn.relu":
            return self.into.add("maximum", [self.node(call.args[0]), self.into.constant(np.zeros(1), dtype)], dtype)
        if name == "clip":
            low, high = (self.into.constant(_typed(bound.value, dtype), dtype) for bound in call.args[1:])
            above = self.into.add("maximum", [self.node(call.args[0]), low], dtype)
            return self.into.add("minimum", [above, high], dtype)
        if name == "astype" and str(call.args[0].ty.dtype) == dtype:
            return self.node(call.args[0])
        return self.into.add(_operation(call), [self.node(arg) for arg in call.args], dtype)


def _typed(value: float, dtype: str) -> np.ndarray:
    return np.array([value]).astype(dtype)
