"""Write every elementwise function of few values as a comparison with thresholds, whatever the graph looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import MOST_BITS

from ..relax.comparisons import emit_comparison
from ..relax.domains import binariser_domain
from ..relax.elementwise_regions import Region, is_elementwise, program_of, regions
from ..relax.facts import Note, with_notes, with_values_taken
from ..relax.graph import Graph, Writer, channel_axis, constant, drop_dead, op_name, operands, shape
from ..relax.quantisers import arithmetic_with_number, emit_quantiser
from ..relax.ranges import ANYTHING, Range, ranges
from ..relax.snapped_weights import snapped
from ..relax.weight_planes import WeightPlanes
from ..relax.weights import BinaryWeight
from ..step_functions.ordinals import INFINITY, numbers
from ..step_functions.pieces import Pieces, find_pieces
from ..step_functions.program import BOOL, Node, Program
from ..step_functions.steps import Grid, Steps

SignZero = Literal["exact", "positive", "negative"]
_PASSING = {
    "reshape", "permute_dims", "nn.max_pool2d", "squeeze", "expand_dims", "take", "strided_slice", "nn.pad", "concat",
}  # fmt: skip
_SWAPPED = {"greater": "less", "greater_equal": "less_equal", "less": "greater", "less_equal": "greater_equal"}
_NEGATED = {"greater": "less_equal", "greater_equal": "less", "less": "greater_equal", "less_equal": "greater"}


def step_functions(mod: IRModule, sign_zero: SignZero) -> IRModule:
    """Replace elementwise operations whose result takes few values by a binariser or a quantiser of their input.

    1. A region is a value as a function of one variable, through any elementwise operations with constants
       (relax/elementwise_regions.py). The nearest variable counts of which the value takes few values.
    2. Which values it takes, and the last float32 number before each change, is proved with the reference's own
       operations (step_functions/pieces.py). So ties to even, straight-through terms that cancel and thresholds that
       are hidden in arithmetic are right to the last bit.
    3. Two values become ``where(greater(x, t), hi, lo)`` or its like (relax/comparisons.py), with the result for NaN
       that the model has. A falling function reads ``-x``. Evenly spaced values become a quantiser
       (relax/quantisers.py) if a layer with binary weights reads them; its lowest level stands for NaN.
    4. A comparison of two computed tensors, for example with the mean of a sample, stays a comparison.

    Args:
        mod: The module.
        sign_zero: The result of Sign at 0: ``"positive"`` is +1, ``"negative"`` is -1. It is used where the result has
            two values then, more without it, and where 0 is not common, as it is behind a Relu.

    Returns:
        The module, with notes for the report, and the values of tensors that take few which are of no use.
    """
    graph = Graph(mod["main"])
    finder = _Finder(graph, sign_zero)
    finder.find()
    writer = Writer(graph)
    for var, value in graph.bindings:
        if (written := finder.found.get(var)) is not None:
            writer.bind(var, written.emit(writer, var))
        else:
            writer.keep(var, value)
    new = with_notes(drop_dead(writer.module(mod)), finder.notes[::-1])
    return with_values_taken(new, finder.values)


@dataclass(frozen=True, eq=False)
class _Binariser:
    """A value that is ``hi`` where ``x`` exceeds a threshold, else ``lo``."""

    x: Var
    steps: Steps
    lanes: tuple[int, ...]

    def emit(self, writer: Writer, var: Var) -> Expr:
        steps, x = self.steps, writer[self.x]
        lo, hi = (relax.const(level) for level in steps.levels)
        x = _turned(writer, x, steps, self.lanes, var)
        inclusive = steps.prefers_inclusive
        threshold = _by_lane((steps.inclusive() if inclusive else steps.exclusive())[0], self.lanes)
        of_nan = bool((steps.of_nan == steps.levels[1]).all())
        condition = emit_comparison(writer, x, relax.const(threshold), inclusive, of_nan, f"{var.name}_condition")
        return op.where(condition, hi, lo)


@dataclass(frozen=True, eq=False)
class _Quantiser:
    """A value of a few bits: arithmetic on the number of thresholds that ``x`` exceeds."""

    x: Var
    steps: Steps
    lanes: tuple[int, ...]
    grid: Grid

    def emit(self, writer: Writer, var: Var) -> Expr:
        grid, steps = self.grid, self.steps
        x = _turned(writer, writer[self.x], steps, self.lanes, var)
        reached = steps.exclusive()
        count = (1 << grid.codes[-1].bit_length()) - 1
        thresholds = np.full((count, reached.shape[1]), np.inf, np.float32)
        for code in range(1, grid.codes[-1] + 1):  # a code that is left out is passed over at once
            thresholds[code - 1] = reached[np.searchsorted(grid.codes, code) - 1]
        value: Expr = emit_quantiser(writer, x, thresholds, var.name)
        stages = [(op.add, grid.before, 0.0), (op.divide if grid.divides else op.multiply, grid.by, 1.0)]
        for apply, number, idle in [*stages, (op.add, grid.after, 0.0)]:
            if number != idle:
                value = apply(writer.emit(value, f"{var.name}_code"), relax.const(np.float32(number)))
        return value


@dataclass(frozen=True, eq=False)
class _Choice:
    """One of two numbers, as a comparison of computed tensors holds or not."""

    comparison: Call
    yes: float
    no: float

    def emit(self, writer: Writer, var: Var) -> Expr:
        a, b = self.comparison.args
        name, hi, lo = op_name(self.comparison), self.yes, self.no
        if shape(b) != shape(a) and shape(b) == shape(var):
            a, b, name = b, a, _SWAPPED[name]
        x, threshold = writer[a], writer[b]
        of_nan = lo > hi
        if of_nan:  # not (x > t) equals x <= t, but for NaN, for which it is true
            hi, lo, name = lo, hi, _NEGATED[name]
        if name.startswith("less") and shape(a) == shape(b):
            x, threshold, name = threshold, x, _SWAPPED[name]
        elif name.startswith("less"):
            # Emit the threshold first. The negated x comes last, so that it can join the layer of the comparison.
            minus = relax.const(np.float32(-1))
            threshold = writer.emit(op.multiply(threshold, minus), f"{var.name}_limit")
            x = writer.emit(op.multiply(x, minus), f"{var.name}_negated")
            name = name.replace("less", "greater")
        condition = emit_comparison(writer, x, threshold, name == "greater_equal", of_nan, f"{var.name}_condition")
        return op.where(condition, relax.const(np.float32(hi)), relax.const(np.float32(lo)))


_Written = _Binariser | _Quantiser | _Choice


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A way to see a value.

    Attributes:
        written: How to write it; None if its values are of no use.
        notes: What the report should say.
        values: The values that it takes.
    """

    written: _Written | None
    notes: tuple[Note, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def rank(self) -> int:
        """Which way is best: a comparison with thresholds, a quantiser, a comparison of tensors, or none."""
        return {_Binariser: 0, _Quantiser: 1, _Choice: 2}.get(type(self.written), 3)


_THREE_VALUES = (
    "Sign has the values -1, 0 and 1, which take two bits; sign_zero='positive' or 'negative' makes it one bit, "
    "if 0 cannot occur there or may count as +1 or -1"
)
_ZERO_IS_COMMON = "sign_zero changes nothing here, since 0 is a common argument of Sign"


def _turned(writer: Writer, x: Expr, steps: Steps, lanes: tuple[int, ...], var: Var) -> Expr:
    """The input, negated in the lanes in which the function falls."""
    if not steps.falls.any():
        return x
    signs = _by_lane(np.where(steps.falls, np.float32(-1), np.float32(1)), lanes)
    return writer.emit(op.multiply(x, relax.const(signs)), f"{var.name}_negated")


def _by_lane(values: np.ndarray, lanes: tuple[int, ...]) -> np.ndarray:
    """One number per lane, in the shape of the lanes; one number if all are equal."""
    if (values == values[0]).all():
        return values[0].reshape(())
    return np.ascontiguousarray(values.reshape(lanes))


class _Finder:
    """Decides how each value of a function is written."""

    def __init__(self, graph: Graph, sign_zero: SignZero) -> None:
        self.graph, self.sign_zero = graph, sign_zero
        variables = [*reversed(graph.params), *graph.values]
        self.order = {var: place - len(graph.params) for place, var in enumerate(variables)}
        self.ranges = ranges(graph)
        self.found: dict[Var, _Written] = {}
        self.notes: list[Note] = []
        self.values: dict[str, tuple[float, ...]] = {}
        self._known: dict[object, Pieces | None] = {}

    def find(self) -> None:
        """Go from the results to the inputs, so that operations inside a region count only if others read them."""
        needed = {result for result in self.graph.results if isinstance(result, Var)}
        for var, value in reversed(self.graph.bindings):
            if var not in needed:
                continue
            written = self._written(var, value)
            if written is None:
                needed.update(operands(value))
                continue
            self.found[var] = written
            needed.update(operands(written.comparison) if isinstance(written, _Choice) else [written.x])

    def _written(self, var: Var, value: Expr) -> _Written | None:
        if str(getattr(var.ty, "dtype", "")) != "float32" or not is_elementwise(value, var):
            return None
        if op_name(value) == "where" and self._canonical(var, value):
            return None
        best: _Candidate | None = None
        behind_a_bound = False
        for region in regions(self.graph, self.order, var):
            computed = str(region.source.ty.dtype) == BOOL
            candidate = self._choice(region) if computed else self._steps(region)
            if candidate is not None and (best is None or candidate.rank < best.rank + behind_a_bound):
                best = candidate
            behind_a_bound = self._is_bound(region.source)  # it may go too: a threshold of relu(x) is one of x
            if best is not None and best.rank == 0 and not behind_a_bound:
                break
        if best is None:
            return None
        self.notes += best.notes
        if best.written is None:
            self.values[var.name] = best.values
        return best.written

    def _is_bound(self, var: Var) -> bool:
        value = self.graph.values.get(var)
        if value is None:
            return False
        if op_name(value) in ("maximum", "minimum"):
            return any(constant(arg) is not None for arg in value.args)
        return op_name(value) in ("nn.relu", "clip")

    def _canonical(self, var: Var, where: Call) -> bool:
        """Whether a value is a binariser in the form that is written here, with a condition that it shares with no one.

        A shared condition would be in no layer. Each binariser gets its own.
        """
        condition = where.args[0]
        if binariser_domain(self.graph, where) is None or not isinstance(condition, Var) or self._is_shared(condition):
            return False
        while (negated := self.graph.producer(condition, "logical_not")) is not None:
            condition = negated.args[0]
            if self._is_shared(condition):
                return False
        compared = self.graph.values[condition]
        first = compared.args[0]
        return constant(first) is None and shape(first) == shape(var)

    def _is_shared(self, var: Var) -> bool:
        return len(self.graph.users[var]) > 1 or var in self.graph.results

    def _choice(self, region: Region) -> _Candidate | None:
        read = program_of(self.graph, region)
        if read is None or read[1]:
            return None
        yes, no = (read[0].run(np.array([each]), np.zeros(1, np.int64))[-1].item() for each in (1.0, 0.0))
        if yes == no or not np.isfinite([yes, no]).all():
            return None
        return _Candidate(_Choice(self.graph.values[region.source], yes, no))

    def _steps(self, region: Region) -> _Candidate | None:
        read = program_of(self.graph, region)
        if read is None:
            return None
        whole, lanes = read
        program, lane_of = whole.one_lane_each()
        bounds = self.ranges.get(region.source, ANYTHING)
        name = region.result.name
        pieces = self._pieces(program, bounds)
        written = None if pieces is None else self._usable(region, pieces, lane_of, lanes)
        notes: list[Note] = []
        if any(node.op == "sign" for node in program.nodes) and not isinstance(written, _Binariser):
            allowed = self.sign_zero if self.sign_zero != "exact" else "positive"
            relaxed = None if self._zero_is_common(region.result) else _with_chosen_signs(program, allowed)
            other = None if relaxed is None else self._pieces(relaxed, bounds)
            better = None if other is None else self._usable(region, other, lane_of, lanes)
            if self.sign_zero == "exact":
                if isinstance(better, _Binariser) and written is not None:
                    notes.append(Note(name, _THREE_VALUES, False))
            elif isinstance(better, _Binariser):
                value = "+1" if self.sign_zero == "positive" else "-1"
                sentence = f"Sign gives {value} instead of 0 at 0, as sign_zero={self.sign_zero!r} allows"
                notes.append(Note(name, sentence, True))
                pieces, written = other, better
            elif relaxed is None and _feeds_binary_weights(self.graph, region.result):
                notes.append(Note(name, _ZERO_IS_COMMON, False))
        if pieces is None:
            return None
        if written is not None and (pieces.exact_within[0] > bounds[0] or pieces.exact_within[1] < bounds[1]):
            within = " and ".join(f"{bound:.6g}" for bound in pieces.exact_within)
            sentence = f"the bits are those of the model where the input of the activation is between {within}"
            notes.append(Note(name, sentence, not pieces.nan_outside))
        return _Candidate(written, tuple(notes), tuple(pieces.levels.tolist()))

    def _pieces(self, program: Program, bounds: Range) -> Pieces | None:
        key = (program.key, bounds)
        if key not in self._known:
            self._known[key] = find_pieces(program, *bounds)
        return self._known[key]

    def _usable(
        self, region: Region, pieces: Pieces, lane_of: np.ndarray, lanes: tuple[int, ...]
    ) -> _Binariser | _Quantiser | None:
        steps = Steps.of(pieces)
        if steps is None or len(steps.levels) < 2:
            return None
        steps = steps.spread(lane_of)
        if len(steps.levels) == 2:
            return _Binariser(region.source, steps, lanes)
        extent = shape(region.result)
        per_channel = all(size == 1 or axis == channel_axis(extent) for axis, size in enumerate(lanes))
        if not per_channel or len(extent) < 2 or not _feeds_binary_weights(self.graph, region.result):
            return None
        grid = Grid.of(steps.levels)
        if grid is None or grid.codes[-1].bit_length() > MOST_BITS:
            return None
        return _Quantiser(region.source, steps, lanes, grid)

    def _zero_is_common(self, result: Var) -> bool:
        """Whether the argument of a Sign is often 0, as seen from any variable behind it. Example: after a Relu."""
        for region in regions(self.graph, self.order, result):
            read = program_of(self.graph, region)
            if read is None or str(region.source.ty.dtype) == BOOL:
                continue
            program, _ = read[0].one_lane_each()
            bounds = self.ranges.get(region.source, ANYTHING)
            for number, node in enumerate(program.nodes):
                if node.op != "sign":
                    continue
                (argument,) = node.args
                test = Program(program.nodes[:number], list(program.constants))
                zero = test.constant(np.zeros(1), program.nodes[argument].dtype)
                test.nodes.append(Node("equal", (argument, zero), BOOL))
                pieces = self._pieces(test, bounds)
                if pieces is not None and not _by_chance(pieces, *bounds):
                    return True
        return False


def _with_chosen_signs(program: Program, at_zero: SignZero) -> Program:
    """The program with another result of Sign at 0."""
    op = {"positive": "sign_positive", "negative": "sign_negative"}[at_zero]
    nodes = [Node(op, node.args, node.dtype) if node.op == "sign" else node for node in program.nodes]
    return Program(nodes, program.constants)


def _by_chance(pieces: Pieces, low: float, high: float) -> bool:
    """Whether a condition holds at single numbers only, inside of the range of the input."""
    for starts, values in zip(pieces.starts, pieces.values, strict=True):
        ends = np.concatenate([starts[1:] - 1, [INFINITY]])
        for first, last in zip(numbers(starts[values == 1]), numbers(ends[values == 1]), strict=True):
            if last - first > 1e-30 or first <= low or last >= high:
                return False
    return True


def _seems_binary(call: Call) -> bool:
    """Whether two output channels of a layer are binary, become so (phases/snap_weights.py), or are two planes."""
    weight = constant(call.args[1])
    if weight is None or (op_name(call) == "matmul" and weight.ndim != 2):
        return False
    few = weight[:2] if op_name(call) == "nn.conv2d" else np.ascontiguousarray(weight[:, :2].T)
    if few[0].size <= 2:
        return False
    return BinaryWeight.of(few) is not None or snapped(few, 1) is not None or WeightPlanes.of(few) is not None


def _feeds_binary_weights(graph: Graph, var: Var) -> bool:
    """Whether a layer with binary weights reads a tensor, perhaps after operations that keep, shift or scale values."""
    seen, waiting = {var}, [var]
    while waiting:
        read = waiting.pop()
        for user in graph.users[read]:
            value = graph.values[user]
            if op_name(value) in ("nn.conv2d", "matmul") and value.args[0].same_as(read) and _seems_binary(value):
                return True
            passes = op_name(value) in _PASSING or arithmetic_with_number(value) is not None
            if passes and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False
