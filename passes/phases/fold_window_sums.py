"""Replace a float epilogue by an integer comparison of the sum over the set weights; drop unread window sums.

A layer with weights ``scale * S + offset`` computes ``(D * scale) + (T * offset)``, with

1. ``D = sum(S * x)``, the sum of sign products, and ``T = sum(x)``, the sum over the window.
2. ``E``, the sum of x over the set weights (S = +1). Then ``D = 2 * E - T``.
3. If scale equals offset, a weight is 0 or ``2 * scale``. Then the layer computes ``2 * scale * E``, except for
   roundings that depend on T.

Example: S = [1, -1, 1] and x = [1, 1, -1] give D = -1, T = 1 and E = 0.

If the epilogue is one binariser, these roundings matter only where they move the sum at which the bit flips. The pass
tests this: it evaluates the reference's float32 operations around the flip, for every T.

With other weights, the bits depend on T as well: ``2 * scale * E + (offset - scale) * T`` is compared with a number. If
an integer ``2^shift * E + factor * T`` provably gives the same bits for all E and T, the layer's facts record it
(layers/facts.py). Counters compute E and T anyway, and then need no floats. Popcount kernels ignore the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.epilogue.interpreter import evaluate, exceeds
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    FloatOutput,
    Operand,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
    WindowThreshold,
)

from ..layers.epilogues import after
from ..layers.facts import LayerFacts, WindowTest
from ..layers.kinds import BinaryConvolution, BinaryDense, BinaryLinearLayer, Layer, WindowSum
from ..layers.read import read_layer
from ..layers.thresholds import AT_ONCE
from ..relax.graph import Graph, Writer, drop_dead, make_function, op_name, shape

BEYOND = 2**52
"""A threshold that no sum reaches; float64 holds it."""

_SHIFTS = range(1, 21)  # a slope of about 2 * log2(n) bits distinguishes the lines over n values of T
_COUNTED = 0.35  # no kernel lists the set weights if their share is larger


def fold_window_sums(mod: IRModule) -> IRModule:
    """Rewrite each binary layer that reads the sum over its own window, where an integer comparison gives its bits.

    1. If the bits depend on E alone, the composite becomes ``E >= integer``, without the window sum as an operand.
    2. Otherwise the composite stays. Its facts record a WindowTest, if there is one, and the index of the operand that
       is the window sum, unless that sum has an epilogue of its own.
    3. Window sums that nobody reads any more are removed.
    """
    graph = Graph(mod["main"])
    composites = {
        var: mod[value.op]
        for var, value in graph.bindings
        if isinstance(value, Call) and isinstance(value.op, tvm.ir.GlobalVar) and _is_binary(mod[value.op])
    }
    layers = {var: read_layer(func) for var, func in composites.items()}
    writer = Writer(graph, mod)
    functions: dict[tvm.ir.GlobalVar, relax.Function] = {}
    for var, value in graph.bindings:
        layer = layers.get(var)
        found = _window_sum(graph, layers, layer, value) if isinstance(layer, BinaryLinearLayer) else None
        if found is None or not isinstance(layer, BinaryLinearLayer):
            writer.keep(var, value)
            continue
        window, operand = found
        folded = fold_window_sum(
            layer.program,
            _set_weights(layer),
            taps=layer.taps,
            operand=operand,
            fixed_parity=_fixed_parity(layer),
            window=window.program,
        )
        if folded is None:
            facts = replace(LayerFacts.of(composites[var]), window_test=_window_test(layer, operand, window))
            if not window.program.steps:
                facts = replace(facts, window_sum=operand)
            functions[value.op] = facts.attach(composites[var])
            writer.keep(var, value)
            continue
        func = _counting(composites[var], layer, folded, _factors(layer, operand, window))
        gvar = tvm.ir.GlobalVar(value.op.name_hint)
        relax.expr._update_type(gvar, func.ty)
        functions[gvar] = func
        writer.bind(var, Call(gvar, [writer[value.args[0]]]))
    main = drop_dead(writer.module(IRModule({}, attrs=mod.attrs)))
    called = {value.op for _, value in Graph(main["main"]).bindings if isinstance(value, Call)}
    for gvar, func in mod.functions.items():
        if gvar.name_hint != "main" and ("Composite" not in (func.attrs or {}) or gvar in called):
            main[gvar] = func
    for gvar, func in functions.items():
        main[gvar] = func
    return main


def _is_binary(func: relax.Function) -> bool:
    return str(func.attrs.get("Composite", "")) in _BINARY


_BINARY = {f"sbnn.{kind.kind}" for kind in (BinaryConvolution, BinaryDense, WindowSum)}

WindowSumLayer: TypeAlias = WindowSum | BinaryLinearLayer
"""A layer that sums its windows: a layer without weights, or one whose weights are all +1."""


def _window_sum(
    graph: Graph, layers: dict[Var, Layer], layer: BinaryLinearLayer, call: Call
) -> tuple[WindowSumLayer, int] | None:
    """Find the operand of a layer that is the sum over the layer's own window.

    With several groups this sum is a convolution whose weights are all +1 and whose epilogue multiplies by the offset.

    Returns:
        The layer that computes the sum, and the index of the operand; None if there is no such operand.
    """
    if layer.input_domain != SIGN:
        return None
    for index, operand in enumerate(call.args[1:]):
        of = layers.get(operand)
        if not isinstance(of, WindowSum | BinaryLinearLayer) or not of.sums_windows:
            continue
        stored = of.program.outputs
        if graph.values[operand].args[0] != call.args[0] or of.input_domain not in (None, SIGN):
            continue
        if len(stored) != 1 or not isinstance(stored[0], FloatOutput):
            continue
        own = all(isinstance(each, Ref | Channel | Scalar) for step in of.program.steps for each in (step.a, step.b))
        if own and _window(of) == _window(layer):
            return of, index
    return None


def _window(layer: WindowSumLayer) -> tuple[object, ...]:
    conv, pad_value = layer.shape, layer.pad_value if isinstance(layer, WindowSum | BinaryConvolution) else 0.0
    return conv.kernel, conv.strides, conv.padding, conv.dilation, pad_value


def _set_weights(layer: BinaryLinearLayer) -> np.ndarray:
    """Number of set weights of each output channel, integers [OC]."""
    return np.count_nonzero(layer.weight > 0, axis=tuple(range(1, layer.weight.ndim)))


def _fixed_parity(layer: BinaryLinearLayer) -> bool:
    """Whether every window has all its taps, so that E and T have a known parity."""
    return not isinstance(layer, BinaryConvolution) or not any(layer.shape.padding) or layer.pad_value != 0


@dataclass(frozen=True, eq=False)
class SetThreshold:
    """The comparison ``E >= least``, or ``E < least`` in the channels that are inverted.

    Attributes:
        least: int64 [C]; +BEYOND or -BEYOND where the bit is constant.
        inverted: bool [C].
    """

    least: np.ndarray
    inverted: np.ndarray


def fold_window_sum(
    program: Program, counts: np.ndarray, *, taps: int, operand: int, fixed_parity: bool, window: Program = STORE
) -> SetThreshold | None:
    """Fold a program into one comparison of E, the sum over the set weights.

    Args:
        program: The epilogue. Its Ref(0) is D as float32; one of its operands is computed from T.
        counts: int64 [C], number of set weights of each channel.
        taps: Number of weights of a channel.
        operand: Index of the operand that is computed from T.
        fixed_parity: Whether every window has all its taps.
        window: The program that computes this operand from T.

    Returns:
        The comparison. None if the program stores anything but one bit per channel, is not monotone in E, or flips the
        bit at an E that depends on T.
    """
    found = compare_two_sums(
        program, counts, taps=taps, operand=operand, fixed_parity=fixed_parity, window=window, tried=[(0, 0)]
    )
    return None if found is None else SetThreshold(found.least, found.inverted)


def _window_test(layer: BinaryLinearLayer, operand: int, window: WindowSumLayer) -> WindowTest | None:
    """Fold the epilogue of a layer into one comparison of E and T; None if no comparison is found."""
    counts, taps, program = _set_weights(layer), layer.taps, layer.program
    of_set = 2 * int(counts.sum()) <= taps * len(counts)
    scale, offset = _factors(layer, operand, window)
    if not of_set:  # E is the sum over the other weights: D = T - 2 * E
        counts, scale = taps - counts, -scale
        program = after((Step("multiply", Ref(0), Scalar(-1.0)),), program)
    if counts.sum() > _COUNTED * taps * len(counts) or not scale.all():
        return None
    slope = float(np.median((offset.astype(np.float64) / scale - 1) / 2))
    factors = [(shift, round(slope * 2**shift)) for shift in _SHIFTS]
    tried = [(shift, factor) for shift, factor in factors if factor % 2 or (shift == 1 and factor)]
    found = compare_two_sums(
        program,
        counts,
        taps=taps,
        operand=operand,
        fixed_parity=_fixed_parity(layer),
        window=window.program,
        tried=tried,
    )
    return None if found is None else WindowTest(operand, of_set, found)


def compare_two_sums(
    program: Program,
    counts: np.ndarray,
    *,
    taps: int,
    operand: int,
    fixed_parity: bool,
    window: Program,
    tried: Sequence[tuple[int, int]],
) -> WindowThreshold | None:
    """Find a comparison of ``2^shift * E + factor * T`` that gives the bits of a program for all E and T.

    1. Determine for each channel whether the program rises or falls with E (``_directions``).
    2. For every T, find the E at which the bit flips, by bisection (``_flips``), and the possible E on both sides of it
       (``_neighbours``).
    3. Keep each shift and factor for which one threshold separates both sides at every T (``_common``).

    Args:
        program, counts, taps, operand, fixed_parity, window: Same as in ``fold_window_sum``.
        tried: The candidates (shift, factor), in order of preference.

    Returns:
        The first candidate that agrees, with its thresholds; None if there is none.
    """
    if len(program.outputs) != 1 or not isinstance(output := program.outputs[0], BitsOutput) or taps >= 2**20:
        return None
    channels, left = len(counts), list(tried)
    rises = _directions(program, output.value, channels, operand)
    if rises is None or not isinstance(output.threshold, Channel | Scalar):
        return None
    sums = np.arange(-taps, taps + 1, 2 if fixed_parity else 1)
    least = {each: np.zeros(channels, np.int64) for each in tried}
    size = max(1, AT_ONCE // len(sums))
    for start in range(0, channels, size):
        block = slice(start, min(start + size, channels))
        flips = _flips(
            program,
            output,
            sums,
            taps=taps,
            block=block,
            operand=operand,
            window=window,
            inverted=rises[block] < 0,
        )
        first, last = _neighbours(flips, counts[block], taps, sums, fixed_parity)
        for each in tuple(left):
            found = _common(first, last, sums, *each)
            if found is None:
                left.remove(each)
            else:
                least[each][block] = found
    return WindowThreshold(*left[0], least[left[0]], rises < 0) if left else None


def _directions(program: Program, result: Operand, channels: int, operand: int) -> np.ndarray | None:
    """Direction of a value as E rises and T is fixed: +1 rises, -1 falls, 0 constant, float [C]; None if unknown."""
    still = np.zeros(channels)
    found: list[np.ndarray] = [np.ones(channels)]

    def of(value: Operand) -> np.ndarray | None:
        match value:
            case Ref(index):
                return found[index]
            case Channel() | Scalar():
                return still
            case Tensor(index) | Pixel(index):
                return still if index == operand else None
        return None

    for step in program.steps:
        a, b = of(step.a), of(step.b)
        if a is None or b is None:
            return None
        numbers = [_numbers(each, channels) for each in (step.a, step.b)]
        if not all(each is None or np.isfinite(each).all() for each in numbers):
            return None
        x, y = numbers
        if step.op in ("add", "subtract", "maximum", "minimum"):
            b = -b if step.op == "subtract" else b
            if (a * b < 0).any():
                return None
            direction = np.where(a != 0, a, b)
        elif step.op == "multiply" and y is not None:
            direction = a * np.sign(y)
        elif step.op == "multiply" and x is not None:
            direction = b * np.sign(x)
        elif step.op == "divide" and y is not None and y.all():
            direction = a * np.sign(y)
        elif step.op == "prelu" and y is not None and (y >= 0).all():
            direction = a
        elif not a.any() and not b.any():
            direction = still
        else:
            return None
        found.append(direction)
    return of(result)


def _numbers(operand: Operand, channels: int) -> np.ndarray | None:
    match operand:
        case Channel(values):
            return values
        case Scalar(value):
            return np.full(channels, value, np.float32)
    return None


def _flips(
    program: Program,
    output: BitsOutput,
    sums: np.ndarray,
    *,
    taps: int,
    block: slice,
    operand: int,
    window: Program,
    inverted: np.ndarray,
) -> np.ndarray:
    """For every T the least E in -taps..taps whose bit, inverted if it falls, is set; else taps + 1; [len(sums), C]."""

    def cut(value: Operand) -> Operand:
        return Channel(value.values[block]) if isinstance(value, Channel) else value

    def cut_steps(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(Step(step.op, cut(step.a), cut(step.b)) for step in steps)

    values = Program(cut_steps(program.steps), (FloatOutput(cut(output.value)), FloatOutput(cut(output.threshold))))
    below = np.full((len(sums), block.stop - block.start), -taps - 1)
    of_window = np.broadcast_to(sums.astype(np.float32)[:, None], below.shape)
    tensors = evaluate(Program(cut_steps(window.steps), window.outputs), of_window, ()) * (operand + 1)
    above = np.full_like(below, taps + 1)
    while (above - below).max() > 1:
        middle = (below + above) // 2
        value, threshold = evaluate(values, (2 * middle - sums[:, None]).astype(np.float32), tensors)
        bit = exceeds(output, value, threshold) ^ inverted
        above, below = np.where(bit, middle, above), np.where(bit, below, middle)
    return above


def _neighbours(
    flips: np.ndarray, counts: np.ndarray, taps: int, sums: np.ndarray, fixed_parity: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For every T the least possible E at or above the flip, and the largest below it; +BEYOND and -BEYOND if none."""
    # |E| <= n for n set weights, and |T - E| <= taps - n for the others.
    low = np.maximum(-counts, sums[:, None] - (taps - counts))
    high = np.minimum(counts, sums[:, None] + (taps - counts))
    first, last = np.maximum(flips, low), np.minimum(flips - 1, high)
    if fixed_parity:  # the sum of n signs is even if and only if n is even
        first, last = first + (first - counts) % 2, last - (last - counts) % 2
    return np.where(first <= high, first, BEYOND), np.where(last >= low, last, -BEYOND)


def _common(first: np.ndarray, last: np.ndarray, sums: np.ndarray, shift: int, factor: int) -> np.ndarray | None:
    """The threshold of ``2^shift * E + factor * T`` that separates both sides at every T, int64 [C], or None."""

    def tested(sum_of_set: np.ndarray) -> np.ndarray:
        reached = (sum_of_set << shift) + factor * sums[:, None]
        return np.where(abs(sum_of_set) == BEYOND, sum_of_set, reached)

    above, below = tested(first).min(axis=0), tested(last).max(axis=0)
    if (below >= above).any():
        return None
    return np.where(below == -BEYOND, -BEYOND, above)


def _counting(
    func: relax.Function, layer: BinaryLinearLayer, folded: SetThreshold, factors: tuple[np.ndarray, np.ndarray]
) -> relax.Function:
    """The new composite: its anchor sums over the set weights, its epilogue is the integer comparison."""
    graph = Graph(func)
    data = graph.params[0]
    anchor = next(value for _, value in graph.bindings if op_name(value) in ("nn.conv2d", "matmul"))
    (result,) = graph.results
    domain = layer.outputs[0]
    if not isinstance(domain, BinaryDomain) or not isinstance(result, Var):
        raise AssertionError(f"the folded layer '{layer.name}' does not store one bit per channel")
    bindings: list[relax.VarBinding] = []
    builder = relax.BlockBuilder()

    def bind(name: str, value: Expr) -> Var:
        value = builder.normalize(value)
        var = relax.DataflowVar(name, value.ty)
        bindings.append(relax.VarBinding(var, value))
        return var

    names = {id(value): var.name for var, value in graph.bindings}
    x: Expr = data
    for var, value in graph.bindings:
        if value is anchor:
            break
        x = bind(var.name, Call(value.op, [x, *value.args[1:]], value.attrs))
    weight = (layer.weight > 0).astype(np.float32)
    constant = relax.const(weight if isinstance(layer, BinaryConvolution) else np.ascontiguousarray(weight.T))
    counted = bind(names[id(anchor)], Call(anchor.op, [x, constant], anchor.attrs))
    if shape(counted) != shape(result):
        counted = bind(f"{counted.name}_reshaped", op.reshape(counted, shape(result)))
    rank = (1, -1, 1, 1) if len(shape(result)) == 4 else (-1,)
    least = folded.least
    if folded.inverted.any():  # E < least equals -E >= 1 - least
        signs = np.where(folded.inverted, np.float32(-1), np.float32(1))
        counted = bind(f"{counted.name}_flipped", op.multiply(counted, relax.const(signs.reshape(rank))))
        least = np.where(folded.inverted, 1 - least, least)
    threshold = relax.const(least.astype(np.float32).reshape(rank))
    condition = bind(f"{result.name}_condition", op.greater_equal(counted, threshold))
    bits = bind(
        result.name, op.where(condition, relax.const(np.float32(domain.hi)), relax.const(np.float32(domain.lo)))
    )
    attrs: dict[str, object] = {"Composite": func.attrs["Composite"]}
    facts = replace(LayerFacts.of(func), members=layer.members, factors=factors)
    return facts.attach(make_function([data], bindings, bits, attrs))


def _factors(layer: BinaryLinearLayer, operand: int, window: WindowSumLayer) -> tuple[np.ndarray, np.ndarray]:
    """The factors of D and T, float32 [OC] each: scale and offset of the weights, for the report."""
    channels = layer.out_channels

    def factor(program: Program, of: Operand) -> np.ndarray | None:
        for step in program.steps:
            if step.op == "multiply" and of in (step.a, step.b):
                return _numbers(step.b if of == step.a else step.a, channels)
        return None

    scale = factor(layer.program, Ref(0))
    offsets = [factor(layer.program, kind(operand)) for kind in (Tensor, Pixel)] + [factor(window.program, Ref(0))]
    ones = np.ones(channels, np.float32)
    return ones if scale is None else scale, next((each for each in offsets if each is not None), ones)
