"""``RNN``, ``GRU`` and ``LSTM``: the product of all inputs with the weights is one matrix product.

All steps together are a function with the attribute ``Composite``, which one kernel computes (schedules/recurrent). Its
body is unrolled. Layers that the kernel does not know (peepholes, other activations, computed lengths or weights) are
unrolled in ``main``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from sbnn_tvm.passes.layers.facts import LayerFacts
from sbnn_tvm.passes.layers.kinds import Recurrent
from sbnn_tvm.passes.relax.graph import make_function
from sbnn_tvm.schedules.recurrent.sequence import Cell, Recurrence, Result

from ..node import Converter, Node, aligned, as_expr, dtype_of, shape_of
from .activations import elu, softplus

LARGEST_STEP_COUNT = 1000
"""Longest sequence that is unrolled."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_PARAMETERS: dict[str, tuple[float | None, ...]] = {  # defaults of alpha and beta; None without a default
    "Affine": (None, None),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "ScaledTanh": (None, None),
    "ThresholdedRelu": (None,),
}
Activation = Callable[[relax.Expr], relax.Var]


@dataclass(frozen=True, eq=False)
class _Direction:
    """One direction of a layer.

    Attributes:
        steps: Positions in the sequence, in the order in which they are read.
        projected: The inputs times the input weights, with the input bias; [sequence, batch, gates * hidden].
        recurrent: Recurrent weights, transposed; [hidden, gates * hidden].
        bias: Recurrent bias, [1, gates * hidden]; None if there is none.
        peepholes: Peephole weights of the LSTM's gates i, o and f, [1, hidden] each.
        activations: Its activation functions, f, g and h.
    """

    steps: Sequence[int]
    projected: relax.Expr
    recurrent: relax.Expr
    bias: relax.Expr | None
    peepholes: tuple[relax.Expr, ...]
    activations: tuple[Activation, ...]


def recurrent(node: Node) -> relax.Expr:
    """A recurrent layer in one or both directions, with all of its outputs."""
    kind, attributes = node.proto.op_type, node.attributes
    if attributes.get("input_forget", 0):
        raise node.error("couples its input and forget gates (input_forget=1), which is not supported")
    batch_first = bool(attributes.get("layout", 0))
    x = node.expr(0)
    if batch_first:
        x = node.emit(relax.op.permute_dims(x, [1, 0, 2]))
    length, batch, _ = shape_of(x)
    if length > LARGEST_STEP_COUNT:
        raise node.error(
            f"has {length} steps, of which at most {LARGEST_STEP_COUNT} can be unrolled; export shorter sequences"
        )
    hidden = int(attributes.get("hidden_size", shape_of(node.required(2))[-1]))
    directions = _directions(node, kind, x, hidden)
    lengths = node.value(4)
    everywhere = isinstance(lengths, np.ndarray) and bool((lengths == length).all())
    masks = None if lengths is None or everywhere else _masks(node, lengths, length, batch)
    results = []
    for index, direction in enumerate(directions):
        first = [_initial(node, 5 + i, index, batch, hidden, batch_first) for i in range(2 if kind == "LSTM" else 1)]
        recurrence = _recurrence(node, kind, direction, index, masks)
        if recurrence is None:
            results.append(_unrolled(node, kind, direction, first, masks))
        else:
            results.append(_in_one_kernel(node, kind, direction, first, recurrence))
    sequences = [node.emit(relax.op.reshape(each["sequence"], (length, 1, batch, hidden))) for each in results]
    y = sequences[0] if len(sequences) == 1 else node.emit(relax.op.concat(sequences, 1))
    y = node.emit(relax.op.permute_dims(y, [2, 0, 1, 3])) if batch_first else y
    return relax.Tuple(
        [
            y,
            *(
                _last_states(node, [each[name] for each in results], batch_first)
                for name in results[0]
                if name != "sequence"
            ),
        ]
    )


def _last_states(node: Node, states: Sequence[relax.Expr], batch_first: bool) -> relax.Expr:
    """The last states of all directions, [directions, batch, hidden], or the batch first."""
    if len(states) == 1:
        batch, hidden = shape_of(states[0])
        return node.emit(relax.op.reshape(states[0], (batch, 1, hidden) if batch_first else (1, batch, hidden)))
    return node.emit(relax.op.stack(states, 1 if batch_first else 0))


def _unrolled(
    node: Node, kind: str, direction: _Direction, first: Sequence[relax.Expr], masks: Sequence[relax.Expr] | None = None
) -> dict[Result, relax.Expr]:
    """All steps of one direction as operations.

    Returns:
        The states of all steps, [sequence, batch, hidden], the last state, and the last cell of an LSTM.
    """
    h, c = first[0], first[1] if kind == "LSTM" else None
    hidden = shape_of(h)[1]
    outputs: dict[int, relax.Expr] = {}
    for step in direction.steps:
        new_h, new_c = _STEPS[kind](node, direction, step, h, c, hidden)
        if masks is None:
            h, c, outputs[step] = new_h, new_c, new_h
            continue
        zero = aligned(np.zeros((), dtype_of(h)), 2)
        outputs[step] = node.emit(relax.op.where(masks[step], new_h, zero))
        h = node.emit(relax.op.where(masks[step], new_h, h))
        c = None if new_c is None else node.emit(relax.op.where(masks[step], new_c, c))
    sequence = node.emit(relax.op.stack([outputs[step] for step in range(len(outputs))], 0))
    return {"sequence": sequence, "hidden": h} if c is None else {"sequence": sequence, "hidden": h, "cell": c}


def _recurrence(
    node: Node, kind: str, direction: _Direction, index: int, masks: Sequence[relax.Expr] | None
) -> Recurrence | None:
    """What a kernel needs to know about one direction; None if no kernel computes it."""
    weights, biases, count = node.required(2), node.value(3), len(_DEFAULTS[kind])
    names = tuple(node.attributes.get("activations") or list(_DEFAULTS[kind]) * (index + 1))[index * count :][:count]
    names = tuple(name.decode() if isinstance(name, bytes) else name for name in names)
    plain = names == _DEFAULTS[kind] or names == ("Relu",)
    if masks is not None or direction.peepholes or node.attributes.get("clip") is not None or not plain:
        return None
    if dtype_of(direction.projected) != "float32" or not isinstance(weights, np.ndarray):
        return None
    if not (biases is None or isinstance(biases, np.ndarray)):
        return None
    cell: Cell = "LSTM" if kind == "LSTM" else "RNN" if names == ("Tanh",) else "RNN with Relu"
    if kind == "GRU":
        cell = "GRU" if node.attributes.get("linear_before_reset", 0) else "GRU, reset first"
    weight = np.ascontiguousarray(weights[index].T)
    bias = np.zeros(weight.shape[1], np.float32) if biases is None else biases[index, weight.shape[1] :]
    zeros = all(
        value is None or (isinstance(value, np.ndarray) and not value.any()) for value in map(node.value, (5, 6))
    )
    results: tuple[Result, ...] = ("sequence", "hidden", "cell") if kind == "LSTM" else ("sequence", "hidden")
    return Recurrence(cell, direction.steps[0] != 0, weight, np.ascontiguousarray(bias), not zeros, results)


def _in_one_kernel(
    node: Node, kind: str, direction: _Direction, first: Sequence[relax.Expr], recurrence: Recurrence
) -> dict[Result, relax.Expr]:
    """A call of a function that holds all steps of one direction; its results are those of ``_unrolled``."""
    arguments = [direction.projected, *(node.emit(state) for state in first if recurrence.initial)]
    params = [relax.Var(f"data_{i}", argument.ty) for i, argument in enumerate(arguments)]
    bindings: list[relax.VarBinding] = []
    builder = relax.BlockBuilder()

    def emit(expr: relax.Expr) -> relax.Var:
        value = builder.normalize(expr)
        var = relax.DataflowVar(f"step_{len(bindings)}", value.ty)
        bindings.append(relax.VarBinding(var, value))
        return var

    inside = replace(node, emit=emit)
    count = shape_of(node.required(2))[0]
    activations = _activations(inside, kind, count)
    constants = {"recurrent": as_expr(recurrence.weight), "bias": as_expr(recurrence.bias[None])}
    index = next(i for i in range(count) if np.array_equal(node.constant(2)[i].T, recurrence.weight))
    body = replace(direction, projected=params[0], activations=activations[index], **constants)
    made = _unrolled(inside, kind, body, params[1:] or first)
    name = node.proto.name or next(name for name in node.proto.output if name)
    facts = LayerFacts(name, data_inputs=len(params), members=(name,), recurrence=recurrence)
    attributes: dict[str, object] = {"Composite": f"sbnn.{Recurrent.kind}"}
    func = facts.attach(
        make_function(params, bindings, relax.Tuple([made[each] for each in recurrence.results]), attributes)
    )
    call = node.emit(relax.Call(node.define(func, "recurrent"), arguments))
    return {each: node.emit(relax.TupleGetItem(call, i)) for i, each in enumerate(recurrence.results)}


def _directions(node: Node, kind: str, x: relax.Expr, hidden: int) -> list[_Direction]:
    direction = node.attributes.get("direction", "forward")
    count = {"forward": 1, "reverse": 1, "bidirectional": 2}.get(direction)
    if count is None:
        raise node.error(f"has direction={direction!r}; expected forward, reverse or bidirectional")
    gates, (length, _, inputs) = _GATES[kind], shape_of(x)
    shapes = shape_of(node.required(1)), shape_of(node.required(2))
    if shapes != ((count, gates * hidden, inputs), (count, gates * hidden, hidden)):
        raise node.error(
            f"has weights of shape {list(shapes[0])} and {list(shapes[1])}; expected "
            f"{[count, gates * hidden, inputs]} and {[count, gates * hidden, hidden]}"
        )
    for index, name, size in ((3, "biases", 2 * gates * hidden), (7, "peepholes", 3 * hidden)):
        if node.value(index) is not None and shape_of(node.required(index)) != (count, size):
            raise node.error(f"has {name} of shape {list(shape_of(node.required(index)))}; expected {[count, size]}")
    activations = _activations(node, kind, count)
    found = []
    for index in range(count):
        weights, state_weights = (node.emit(relax.op.permute_dims(_pick(node, i, index))) for i in (1, 2))
        projected = node.emit(relax.op.matmul(x, weights))
        bias = None
        if node.value(3) is not None:
            input_bias, bias = (_rows(node, 3, index, part * gates * hidden, gates * hidden) for part in (0, 1))
            projected = node.emit(relax.op.add(projected, input_bias))
        peepholes = () if node.value(7) is None else tuple(_rows(node, 7, index, i * hidden, hidden) for i in range(3))
        backwards = direction == "reverse" or index == 1
        steps = range(length)[::-1] if backwards else range(length)
        found.append(_Direction(steps, projected, state_weights, bias, peepholes, activations[index]))
    return found


def _pick(node: Node, index: int, direction: int) -> relax.Expr:
    """The part of an input that belongs to a direction; constants are folded later."""
    return node.emit(relax.op.take(node.expr(index), relax.const(direction, "int64"), 0, mode="clip"))


def _rows(node: Node, index: int, direction: int, begin: int, size: int) -> relax.Expr:
    """A slice of a vector of parameters; [1, size]."""
    part = node.emit(
        relax.op.strided_slice(_pick(node, index, direction), [0], [begin], [begin + size], assume_inbound=True)
    )
    return node.emit(relax.op.reshape(part, (1, size)))


def _activations(node: Node, kind: str, directions: int) -> list[tuple[Activation, ...]]:
    attributes, defaults = node.attributes, _DEFAULTS[kind]
    names = attributes.get("activations") or list(defaults) * directions
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    if len(names) < len(defaults) * directions:
        raise node.error(f"has {len(names)} activations; expected {len(defaults) * directions}")
    alphas, betas = iter(attributes.get("activation_alpha", ())), iter(attributes.get("activation_beta", ()))
    limit = attributes.get("clip")
    made = []
    for index, name in enumerate(names[: len(defaults) * directions]):
        given = [next((alphas, betas)[place], default) for place, default in enumerate(_PARAMETERS.get(name, ()))]
        if None in given:
            raise node.error(f"has the activation {name!r} without its activation_alpha or activation_beta")
        alpha, beta = (*(value for value in given if value is not None), 0.0, 0.0)[:2]
        of_cell = kind == "LSTM" and index % len(defaults) == 2  # which onnxruntime does not clip
        made.append(_activation(node, name, alpha, beta, None if of_cell else limit))
    return [tuple(made[i * len(defaults) : (i + 1) * len(defaults)]) for i in range(directions)]


def _activation(node: Node, name: str, alpha: float, beta: float, limit: float | None) -> Activation:
    def constant(value: float, x: relax.Expr) -> relax.Expr:
        return aligned(np.array(value, dtype_of(x)), 2)

    def affine(x: relax.Expr) -> relax.Var:
        return node.emit(relax.op.add(node.emit(relax.op.multiply(x, constant(alpha, x))), constant(beta, x)))

    functions: dict[str, Callable[[relax.Expr], relax.Expr]] = {
        "Affine": affine,
        "Elu": lambda x: elu(node, x, alpha),
        "HardSigmoid": lambda x: relax.op.clip(affine(x), 0, 1),
        "LeakyRelu": lambda x: relax.op.nn.leakyrelu(x, alpha),
        "Relu": relax.op.nn.relu,
        "ScaledTanh": lambda x: relax.op.multiply(
            node.emit(relax.op.tanh(node.emit(relax.op.multiply(x, constant(beta, x))))), constant(alpha, x)
        ),
        "Sigmoid": relax.op.sigmoid,
        "Softplus": lambda x: softplus(node, x),
        "Softsign": lambda x: relax.op.divide(x, node.emit(relax.op.add(node.emit(relax.op.abs(x)), constant(1, x)))),
        "Tanh": relax.op.tanh,
        "ThresholdedRelu": lambda x: relax.op.where(
            node.emit(relax.op.greater(x, constant(alpha, x))), x, constant(0, x)
        ),
    }
    if name not in functions:
        raise node.error(f"has the activation {name!r}; supported are {', '.join(sorted(functions))}")

    def apply(x: relax.Expr) -> relax.Var:
        bounded = x if limit is None else node.emit(relax.op.clip(x, -limit, limit))
        return node.emit(functions[name](bounded))

    return apply


def _masks(node: Node, lengths: relax.Expr | np.ndarray, length: int, batch: int) -> list[relax.Expr]:
    """For every step, whether the sequence of each sample has it; [batch, 1]."""
    column = node.emit(relax.op.reshape(as_expr(lengths), (batch, 1)))
    dtype = dtype_of(lengths)
    return [node.emit(relax.op.greater(column, relax.const(np.array(step, dtype), dtype))) for step in range(length)]


def _initial(node: Node, index: int, direction: int, batch: int, hidden: int, batch_first: bool) -> relax.Expr:
    value = node.value(index)
    if value is None:
        return as_expr(np.zeros((batch, hidden), dtype_of(node.required(0))))
    shape, axis = shape_of(value), int(batch_first)
    if len(shape) != 3 or shape[axis] <= direction or (shape[1 - axis], shape[2]) != (batch, hidden):
        raise node.error(
            f"has an initial state of shape {list(shape)}; expected a batch of {batch}, and {hidden} numbers"
        )
    if isinstance(value, np.ndarray):
        return as_expr(value[:, direction] if batch_first else value[direction])
    return node.emit(relax.op.take(value, relax.const(direction, "int64"), axis, mode="clip"))


def _products(node: Node, direction: _Direction, step: int, h: relax.Expr, gates: int) -> tuple[relax.Expr, relax.Expr]:
    """What the input and the state contribute to all gates of a step; [batch, gates * hidden] each."""
    x = node.emit(relax.op.take(direction.projected, relax.const(step, "int64"), 0, mode="clip"))
    state = node.emit(relax.op.matmul(h, direction.recurrent))
    return x, state if direction.bias is None else node.emit(relax.op.add(state, direction.bias))


def _gate(node: Node, x: relax.Expr, index: int, hidden: int) -> relax.Expr:
    begin, end = index * hidden, (index + 1) * hidden
    return node.emit(relax.op.strided_slice(x, [1], [begin], [end], assume_inbound=True))


def _rnn_step(
    node: Node, direction: _Direction, step: int, h: relax.Expr, c: relax.Expr | None, hidden: int
) -> tuple[relax.Expr, relax.Expr | None]:
    (f,) = direction.activations
    x, state = _products(node, direction, step, h, 1)
    return f(node.emit(relax.op.add(x, state))), None


def _gru_step(
    node: Node, direction: _Direction, step: int, h: relax.Expr, c: relax.Expr | None, hidden: int
) -> tuple[relax.Expr, relax.Expr | None]:
    f, g = direction.activations
    x, state = _products(node, direction, step, h, 3)
    update, reset = (
        f(node.emit(relax.op.add(_gate(node, x, index, hidden), _gate(node, state, index, hidden)))) for index in (0, 1)
    )
    if node.attributes.get("linear_before_reset", 0):
        inner = node.emit(relax.op.multiply(reset, _gate(node, state, 2, hidden)))
    else:
        kept = node.emit(relax.op.multiply(reset, h))
        inner = node.emit(relax.op.matmul(kept, _gate(node, direction.recurrent, 2, hidden)))
        if direction.bias is not None:
            inner = node.emit(relax.op.add(inner, _gate(node, direction.bias, 2, hidden)))
    new = g(node.emit(relax.op.add(_gate(node, x, 2, hidden), inner)))
    rest = node.emit(relax.op.subtract(aligned(np.ones((), dtype_of(h)), 2), update))
    mixed = node.emit(relax.op.multiply(rest, new))
    return node.emit(relax.op.add(mixed, node.emit(relax.op.multiply(update, h)))), None


def _lstm_step(
    node: Node, direction: _Direction, step: int, h: relax.Expr, c: relax.Expr | None, hidden: int
) -> tuple[relax.Expr, relax.Expr | None]:
    f, g, last = direction.activations
    x, state = _products(node, direction, step, h, 4)
    total = node.emit(relax.op.add(x, state))

    def gate(index: int, cell: relax.Expr | None) -> relax.Expr:
        value = _gate(node, total, index, hidden)
        if cell is None or not direction.peepholes:
            return value
        seen = node.emit(relax.op.multiply(cell, direction.peepholes[index]))
        return node.emit(relax.op.add(value, seen))

    entry, forget, candidate = f(gate(0, c)), f(gate(2, c)), g(gate(3, None))
    kept = node.emit(relax.op.multiply(forget, c))
    cell = node.emit(relax.op.add(kept, node.emit(relax.op.multiply(entry, candidate))))
    leave = f(gate(1, cell))
    return node.emit(relax.op.multiply(leave, last(cell))), cell


_STEPS = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}

CONVERTERS: dict[str, Converter] = {"GRU": recurrent, "LSTM": recurrent, "RNN": recurrent}
"""Recurrent layers by operator name."""
