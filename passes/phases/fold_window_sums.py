"""Let a layer whose bits depend on its set weights alone count these, and the sum over its window go.

A layer with weights ``scale * S + offset`` computes ``(D * scale) + (T * offset)`` of ``D = sum(S * x)`` and the sum T
over its window. With the sum E over the set weights (those with S = +1), ``D = 2 * E - T``: where scale equals offset,
so that a weight is 0 or twice the scale, that is ``2 * scale * E``, but for roundings that depend on T. Where all that
follows is one binariser, they matter only if they move the point at which the bit flips. That is not argued but tried:
the reference's own operations are evaluated at the flip, for every T.

Other weights have bits that depend on T too: they compare ``2 * scale * E + (offset - scale) * T`` with a number. Where
an integer ``2^shift * E + factor * T`` provably answers the same for all E and T, counters, which have E and T anyway,
need no floats: the layer is marked with it, and popcount kernels go on as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
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

from ..layers.fit_epilogue import behind
from ..layers.fold_thresholds import AT_ONCE
from ..layers.layer import Layer, WindowTest, read_layer
from ..relax.graph import Graph, Writer, make_function, op_name, shape
from .canonicalize import drop_dead

BEYOND = 2**52
"""A threshold that no sum reaches; float64 holds it."""

_SHIFTS = range(1, 21)  # a line over n sums T is told from all others by a slope of about 2 * log2(n) bits
_COUNTED = 0.35  # of more weights than this no kernel makes lists


def fold_window_sums(mod: IRModule) -> IRModule:
    """Replace the composites of such layers by a comparison of the sum over the set weights with an integer.

    The composites of other layers that read the sum over their own window are marked with the attribute
    ``sbnn.window_sum``, the index of that operand, and with a WindowTest (layer.py) if there is one. A sum that nobody
    reads any more goes.
    """
    graph = Graph(mod["main"])
    composites = {
        var: mod[value.op]
        for var, value in graph.bindings
        if isinstance(value, Call) and isinstance(value.op, tvm.ir.GlobalVar) and "Composite" in mod[value.op].attrs
    }
    layers = {var: read_layer(func) for var, func in composites.items() if _is_binary(func)}
    writer = Writer(graph, mod)
    functions: dict[tvm.ir.GlobalVar, relax.Function] = {}
    for var, value in graph.bindings:
        layer = layers.get(var)
        found = _window_sum(graph, layers, layer, value) if layer is not None and layer.binary else None
        if found is None:
            writer.keep(var, value)
            continue
        assert layer is not None
        window, operand = found
        folded = fold_window_sum(
            layer.program, _set_weights(layer), _taps(layer), operand, _fixed_parity(layer), window.program
        )
        if folded is None:
            func = composites[var] if window.program.steps else composites[var].with_attr("sbnn.window_sum", operand)
            test = _window_test(layer, operand, window)
            for name, numbers in ({} if test is None else test.attributes).items():
                func = func.with_attr(name, numbers)
            functions[value.op] = func
            writer.keep(var, value)
            continue
        func = _counting(composites[var], layer, folded, _factors(layer, operand, window))
        gvar = tvm.ir.GlobalVar(value.op.name_hint)
        relax.expr._update_type(gvar, func.ty)
        functions[gvar] = func
        writer.bind(var, Call(gvar, [writer[value.args[0]]]))
    main = drop_dead(writer.module(IRModule({})))
    called = {value.op for _, value in Graph(main["main"]).bindings if isinstance(value, Call)}
    for gvar, func in mod.functions.items():
        if gvar.name_hint != "main" and ("Composite" not in (func.attrs or {}) or gvar in called):
            main[gvar] = func
    for gvar, func in functions.items():
        main[gvar] = func
    return main


def _is_binary(func: relax.Function) -> bool:
    return str(func.attrs["Composite"]) in ("sbnn.binary_conv2d", "sbnn.binary_dense", "sbnn.window_sum")


def _window_sum(graph: Graph, layers: dict[Var, Layer], layer: Layer, call: Call) -> tuple[Layer, int] | None:
    """The layer that sums over the window of another one, and which operand of that one it is.

    With several groups the sum is a convolution, which has its multiplication with the offset as an epilogue.
    """
    if layer.input_domain != SIGN:
        return None
    for index, operand in enumerate(call.args[1:]):
        of = layers.get(operand)
        if of is None or not of.sums_windows or graph.values[operand].args[0] != call.args[0]:
            continue
        stored = of.program.outputs
        if len(stored) != 1 or not isinstance(stored[0], FloatOutput) or of.input_domain not in (None, SIGN):
            continue
        own = all(isinstance(each, Ref | Channel | Scalar) for step in of.program.steps for each in (step.a, step.b))
        if own and _window(of) == _window(layer) and of.pad_value == layer.pad_value:
            return of, index
    return None


def _window(layer: Layer) -> tuple[object, ...] | None:
    conv = layer.shape
    return None if conv is None else (conv.kernel, conv.strides, conv.padding, conv.dilation)


def _taps(layer: Layer) -> int:
    assert layer.weight is not None
    return int(layer.weight[0].size)


def _set_weights(layer: Layer) -> np.ndarray:
    """Set weights of each output channel."""
    assert layer.weight is not None
    return np.count_nonzero(layer.weight > 0, axis=tuple(range(1, layer.weight.ndim)))


def _fixed_parity(layer: Layer) -> bool:
    """Whether no tap of a window is ever missing."""
    return layer.shape is None or not any(layer.shape.padding) or layer.pad_value != 0


@dataclass(frozen=True, eq=False)
class SetThreshold:
    """``E >= least``, or ``E < least`` in the channels that are inverted.

    Attributes:
        least: int64 [C]; +-BEYOND where the bit is constant.
        inverted: bool [C].
    """

    least: np.ndarray
    inverted: np.ndarray


def fold_window_sum(
    program: Program, counts: np.ndarray, taps: int, operand: int, fixed_parity: bool, window: Program = STORE
) -> SetThreshold | None:
    """The comparison of the sum E over the set weights that a program makes, if it makes no more than one.

    Args:
        program: Its Ref(0) is D as float32, one of its operands comes from T.
        counts: int64 [C], set weights of each channel.
        taps: Weights of a channel, set or not.
        operand: Index of that operand.
        fixed_parity: Whether every window has all its taps.
        window: What is done to T before it is that operand.

    Returns:
        None where the program does more, is not monotone in E, or where the point at which a bit flips depends on T.
    """
    found = compare_two_sums(program, counts, taps, operand, fixed_parity, window, [(0, 0)])
    return None if found is None else SetThreshold(found.least, found.inverted)


def _window_test(layer: Layer, operand: int, window: Layer) -> WindowTest | None:
    """The comparison of two sums that a layer's program makes, if it makes no more than one."""
    counts, taps, program = _set_weights(layer), _taps(layer), layer.program
    of_set = 2 * int(counts.sum()) <= taps * len(counts)
    scale, offset = _factors(layer, operand, window)
    if not of_set:  # of the other weights: D = T - 2 * E
        counts, scale = taps - counts, -scale
        program = behind((Step("multiply", Ref(0), Scalar(-1.0)),), program)
    if counts.sum() > _COUNTED * taps * len(counts) or not scale.all():
        return None
    slope = float(np.median((offset.astype(np.float64) / scale - 1) / 2))
    factors = [(shift, round(slope * 2**shift)) for shift in _SHIFTS]
    tried = [(shift, factor) for shift, factor in factors if factor % 2 or (shift == 1 and factor)]
    found = compare_two_sums(program, counts, taps, operand, _fixed_parity(layer), window.program, tried)
    return None if found is None else WindowTest(operand, of_set, found)


def compare_two_sums(
    program: Program,
    counts: np.ndarray,
    taps: int,
    operand: int,
    fixed_parity: bool,
    window: Program,
    tried: Sequence[tuple[int, int]],
) -> WindowThreshold | None:
    """The first of some comparisons of ``2^shift * E + factor * T`` that agrees with a program for all E and T.

    Args:
        tried: Shifts and factors; the others as of ``fold_window_sum``.
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
        flips = _flips(program, output, sums, taps, block, operand, window, rises[block] < 0)
        first, last = _neighbours(flips, counts[block], taps, sums, fixed_parity)
        for each in tuple(left):
            found = _common(first, last, sums, *each)
            if found is None:
                left.remove(each)
            else:
                least[each][block] = found
    return WindowThreshold(*left[0], least[left[0]], rises < 0) if left else None


def _directions(program: Program, result: Operand, channels: int, operand: int) -> np.ndarray | None:
    """Whether a value rises (+1), falls (-1) or stays (0) as E does while T stands, by channel; None if none of it."""
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
    taps: int,
    block: slice,
    operand: int,
    window: Program,
    inverted: np.ndarray,
) -> np.ndarray:
    """int64 [len(sums), channels]: for every T the least E from -taps to taps whose bit is set, or taps + 1."""

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
        bit = (value >= threshold if output.inclusive else value > threshold) ^ inverted
        above, below = np.where(bit, middle, above), np.where(bit, below, middle)
    return above


def _neighbours(
    flips: np.ndarray, counts: np.ndarray, taps: int, sums: np.ndarray, fixed_parity: bool
) -> tuple[np.ndarray, np.ndarray]:
    """For every T the least E above the flip and the largest below, of those that can meet T, or +-BEYOND."""
    # |E| <= n for n set weights, and |T - E| <= taps - n for the others.
    low = np.maximum(-counts, sums[:, None] - (taps - counts))
    high = np.minimum(counts, sums[:, None] + (taps - counts))
    first, last = np.maximum(flips, low), np.minimum(flips - 1, high)
    if fixed_parity:  # of an even number of signs the sum is even
        first, last = first + (first - counts) % 2, last - (last - counts) % 2
    return np.where(first <= high, first, BEYOND), np.where(last >= low, last, -BEYOND)


def _common(first: np.ndarray, last: np.ndarray, sums: np.ndarray, shift: int, factor: int) -> np.ndarray | None:
    """The threshold of ``2^shift * E + factor * T`` that agrees with the flips at every T: int64 [channels]."""

    def tested(sum_of_set: np.ndarray) -> np.ndarray:
        reached = (sum_of_set << shift) + factor * sums[:, None]
        return np.where(abs(sum_of_set) == BEYOND, sum_of_set, reached)

    above, below = tested(first).min(axis=0), tested(last).max(axis=0)
    if (below >= above).any():
        return None
    return np.where(below == -BEYOND, -BEYOND, above)


def _counting(
    func: relax.Function, layer: Layer, folded: SetThreshold, factors: tuple[np.ndarray, np.ndarray]
) -> relax.Function:
    """The composite that compares the sum over the set weights."""
    graph = Graph(func)
    data = graph.params[0]
    anchor = next(value for _, value in graph.bindings if op_name(value) in ("nn.conv2d", "matmul"))
    (result,) = graph.results
    domain = layer.outputs[0]
    assert layer.weight is not None and isinstance(domain, BinaryDomain) and isinstance(result, Var)
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
    constant = relax.const(weight if layer.shape is not None else np.ascontiguousarray(weight.T))
    counted = bind(names[id(anchor)], Call(anchor.op, [x, constant], anchor.attrs))
    if shape(counted) != shape(result):
        counted = bind(f"{counted.name}_reshaped", op.reshape(counted, shape(result)))
    rank = (1, -1, 1, 1) if len(shape(result)) == 4 else (-1,)
    least = folded.least
    if folded.inverted.any():  # E < least is -E >= 1 - least
        signs = np.where(folded.inverted, np.float32(-1), np.float32(1))
        counted = bind(f"{counted.name}_flipped", op.multiply(counted, relax.const(signs.reshape(rank))))
        least = np.where(folded.inverted, 1 - least, least)
    threshold = relax.const(least.astype(np.float32).reshape(rank))
    condition = bind(f"{result.name}_condition", op.greater_equal(counted, threshold))
    bits = bind(
        result.name, op.where(condition, relax.const(np.float32(domain.hi)), relax.const(np.float32(domain.lo)))
    )
    attrs = {str(key): value for key, value in func.attrs.items()}
    attrs |= {
        "sbnn.members": list(layer.members),
        "sbnn.scale": [float(value) for value in factors[0]],
        "sbnn.offset": [float(value) for value in factors[1]],
    }
    return make_function([data], bindings, bits, attrs)


def _factors(layer: Layer, operand: int, window: Layer) -> tuple[np.ndarray, np.ndarray]:
    """What D and T are multiplied with, float32 [OC]: the scale and the offset of the weights, for the report."""
    assert layer.weight is not None
    channels = len(layer.weight)

    def factor(program: Program, of: Operand) -> np.ndarray | None:
        for step in program.steps:
            if step.op == "multiply" and of in (step.a, step.b):
                return _numbers(step.b if of == step.a else step.a, channels)
        return None

    scale = factor(layer.program, Ref(0))
    offsets = [factor(layer.program, kind(operand)) for kind in (Tensor, Pixel)] + [factor(window.program, Ref(0))]
    ones = np.ones(channels, np.float32)
    return ones if scale is None else scale, next((each for each in offsets if each is not None), ones)
