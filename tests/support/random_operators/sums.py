"""Random nodes of operators that combine elements: reductions, normalizations, products, recurrent layers, losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .case import Case, Draw, Frozen

REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)


def _longs(values: object) -> Frozen:
    return Frozen(np.asarray(values, np.int64))


def _reduction(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        keeps_nan = operator not in ("ReduceMax", "ReduceMin")  # onnxruntime loses it there, depending on the type
        x = d.values(d.shape(0, 4, 4), d.dtype(operator), nan=np.nan if keeps_nan else 0.0)
        axes = d.axes(x.ndim) if x.ndim and d.chance(0.8) else None
        keep = d.pick([None, 0, 1])
        if d.opset < (13 if operator == "ReduceSum" else 18):
            return d.case(operator, [x], axes=axes, keepdims=keep)
        noop = d.pick([None, 0, 1])
        if axes is None and d.chance():
            axes = []
        given = None if axes is None else _longs(axes)
        return d.case(operator, [x, given], keepdims=keep, noop_with_empty_axes=noop)

    return draw


def _arg(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        x = d.values(d.shape(1, 4, 6), d.dtype(operator), special=0)
        axis = d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)
        last = d.pick([None, 0, 1]) if d.opset >= 12 else None
        return d.case(operator, [x], axis=d.pick([None, axis]), keepdims=d.pick([None, 0, 1]), select_last_index=last)

    return draw


def _cumulative(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        x = d.values(d.shape(1), d.dtype(operator))
        axis = np.asarray(d.axis(x.ndim), d.pick(["int32", "int64"]))
        return d.case(operator, [x, Frozen(axis)], exclusive=d.pick([None, 0, 1]), reverse=d.pick([None, 0, 1]))

    return draw


def top_k(d: Draw) -> Case:
    dtype = d.dtype("TopK")
    x = d.values(d.shape(1, 4, 7), dtype, special=0)
    axis = d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)
    count = d.size(1, x.shape[axis])
    if d.opset < 10:
        return d.case("TopK", [x], 2, axis=axis, k=count)
    largest = d.pick([None, 0, 1]) if d.opset >= 11 else None
    return d.case("TopK", [x, _longs([count])], 2, axis=axis, largest=largest)


def _softmax(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        old = operator == "Hardmax" and d.opset < 13  # which ONNX's reference, for float64, gets wrong
        x = d.values(d.shape(1), "float32" if old else d.dtype(operator), special=0)
        axis = d.pick([None, d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)])
        if d.chance(0.3):
            x = np.where(d.rng.random(x.shape) < 0.5, -np.inf, x).astype(x.dtype)
        return d.case(operator, [x], axis=axis)

    return draw


def layer_normalization(d: Draw) -> Case:
    shape = d.shape(2)
    axis = d.pick([None, d.axis(len(shape))])
    inner = shape[-1 if axis is None else axis :]
    scale = d.values(d.broadcast(inner) if d.chance(0.3) else inner, special=0)
    bias = d.values(inner, special=0) if d.chance() else None
    epsilon = d.pick([None, 0.01])
    return d.case(
        "LayerNormalization", [d.values(shape, special=0), scale, bias], d.size(1, 3), axis=axis, epsilon=epsilon
    )


def rms_normalization(d: Draw) -> Case:
    shape = d.shape(2)
    axis = d.pick([None, d.axis(len(shape))])
    scale = d.values(shape[-1 if axis is None else axis :], special=0)
    return d.case("RMSNormalization", [d.values(shape, special=0), scale], axis=axis, epsilon=d.pick([None, 0.01]))


def lp_normalization(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("LpNormalization"), special=0)
    axis = d.pick([None, d.axis(x.ndim)])
    return d.case("LpNormalization", [x], axis=axis, p=d.pick([None, 1, 2]))


def lrn(d: Draw) -> Case:
    x = d.values((d.size(1, 2), d.size(1, 6), d.size(), d.size()), special=0)
    values = {name: d.real(0.1, 1) for name in ("alpha", "beta", "bias") if d.chance()}
    return d.case("LRN", [x], size=d.pick([1, 3, 5]), **values)


def instance_normalization(d: Draw) -> Case:
    shape = d.shape(3, 5)
    scale, bias = (d.values((shape[1],), special=0) for _ in range(2))
    return d.case(
        "InstanceNormalization", [d.values(shape, special=0), scale, bias], epsilon=d.pick([None, 0.01]), tolerance=2e-4
    )


def group_normalization(d: Draw) -> Case:
    groups = d.size(1, 3)
    shape = (d.size(1, 2), groups * d.size(1, 3), *d.shape(1, 3))
    scale, bias = (d.values((shape[1] if d.opset >= 21 else groups,), special=0) for _ in range(2))
    x = d.values(shape, special=0)
    return d.case(
        "GroupNormalization", [x, scale, bias], num_groups=groups, epsilon=d.pick([None, 0.01]), tolerance=2e-4
    )


def batch_normalization(d: Draw) -> Case:
    shape = d.shape(2, 5)
    parameters = [d.values((shape[1],), special=0) for _ in range(3)]
    variance = np.abs(d.values((shape[1],), special=0)) + np.float32(0.1)
    x = d.values(shape)
    values = [x, *parameters, variance]
    if d.chance(0.7):
        values = [x, *(Frozen(value) for value in values[1:])]
    epsilon, momentum = d.pick([None, 0.01]), d.pick([None, 0.9])
    return d.case("BatchNormalization", values, epsilon=epsilon, momentum=momentum)


def mean_variance(d: Draw) -> Case:
    x = d.values(d.shape(4, 4), special=0)
    return d.case("MeanVarianceNormalization", [x], axes=d.pick([None, [0, 2, 3], [1, 2]]), tolerance=2e-4)


def matmul(d: Draw) -> Case:
    dtype, inner = d.dtype("MatMul"), d.size()
    batch = d.shape(0, 2)
    left = (inner,) if d.chance(0.2) else (*d.broadcast(batch), d.size(), inner)
    right = (inner,) if d.chance(0.2) else (*batch, inner, d.size())
    return d.case("MatMul", [d.values(left, dtype, 0.1), d.values(right, dtype, 0.1)])


def gemm(d: Draw) -> Case:
    dtype = d.dtype("Gemm")
    rows, inner, columns = d.size(), d.size(), d.size()
    a, b = ((rows, inner), (inner, columns))
    flip_a, flip_b = d.size(0, 1), d.size(0, 1)
    bias = d.values(d.broadcast((rows, columns)), dtype, 0) if d.opset < 11 or d.chance(0.7) else None
    factors = {name: d.pick([0.5, 2.0]) for name in ("alpha", "beta") if d.chance(0.3)}
    values = [d.values(a[::-1] if flip_a else a, dtype, 0), d.values(b[::-1] if flip_b else b, dtype, 0), bias]
    return d.case("Gemm", values, transA=flip_a, transB=flip_b, **factors)


def einsum(d: Draw) -> Case:
    sizes = {letter: d.size(1, 4) for letter in "ijkb"}
    equation = d.pick(
        ["ij,jk->ik", "ij->ji", "bij,bjk->bik", "ij,ij->", "ii->i", "ij->", "i,j->ij", "...ij->...ji", "ij,jk"]
    )
    shapes = [
        tuple(sizes[letter] for letter in term.replace("...", "b")) for term in equation.split("->")[0].split(",")
    ]
    dtype = d.dtype("Einsum")
    return d.case("Einsum", [d.values(shape, dtype, 0) for shape in shapes], equation=equation)


def _recurrent(operator: str) -> Callable[[Draw], Case]:
    gates, functions = {"RNN": (1, 1), "GRU": (3, 2), "LSTM": (4, 3)}[operator]

    def draw(d: Draw) -> Case:
        length, batch, inputs, hidden = d.size(1, 4), d.size(1, 3), d.size(1, 3), d.size(1, 3)
        direction = d.pick(["forward", "reverse", "bidirectional"])
        count = 2 if direction == "bidirectional" else 1
        layout = d.size(0, 1) if d.opset >= 14 and d.chance(0.2) else None
        batch_first = bool(layout)

        def state() -> np.ndarray | None:
            shape = (batch, count, hidden) if batch_first else (count, batch, hidden)
            return d.values(shape, special=0) if d.chance() else None

        x = d.values((batch, length, inputs) if batch_first else (length, batch, inputs), special=0)
        values: list[np.ndarray | Frozen | None] = [
            x,
            Frozen(d.values((count, gates * hidden, inputs), special=0)),
            Frozen(d.values((count, gates * hidden, hidden), special=0)),
            Frozen(d.values((count, 2 * gates * hidden), special=0)) if d.chance(0.7) else None,
            d.rng.integers(1, length + 1, batch).astype(np.int32) if d.chance() else None,
            state(),
        ]
        attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction, "layout": layout}
        if operator == "LSTM":
            values += [state(), Frozen(d.values((count, 3 * hidden), special=0)) if d.chance() else None]
        if operator == "GRU":
            attributes["linear_before_reset"] = d.pick([None, 0, 1])
        if d.chance(0.3):
            attributes["clip"] = d.real(0.3, 1)
        if d.chance(0.4):
            names = [
                "Relu",
                "Tanh",
                "Sigmoid",
                "LeakyRelu",
                "HardSigmoid",
                "Softsign",
                "Elu",
                "Affine",
                "ScaledTanh",
            ]
            chosen = [d.pick(names) for _ in range(functions * count)]
            attributes["activations"] = chosen
            if d.chance():
                attributes["activation_alpha"] = [d.real(0.1, 1) for _ in chosen]
                attributes["activation_beta"] = [d.real(0.1, 1) for _ in chosen]
        outputs = d.size(1, 3 if operator == "LSTM" else 2)
        return d.case(operator, values, outputs, tolerance=2e-4, **attributes)

    return draw


def dft(d: Draw) -> Case:
    shape = (d.size(1, 2), *d.shape(1, 2, 7), d.size(1, 2))
    x = d.values(shape, d.pick(["float32", "float64"]), 0)
    axis = d.size(1, len(shape) - 2) if d.chance() else d.size(-len(shape), -2)
    inverse, onesided = d.size(0, 1), d.size(0, 1)
    half = inverse and onesided  # where onnxruntime misreads a length that does not follow from the input
    length = _longs(d.size(1, 9)) if d.chance(0.4) and not half else None
    if d.opset < 20:
        return d.case("DFT", [x, length], axis=max(axis, 0) or None, inverse=inverse, onesided=onesided)
    return d.case("DFT", [x, length, _longs(axis) if d.chance() else None], inverse=inverse, onesided=onesided)


def stft(d: Draw) -> Case:
    samples, length = d.size(4, 12), d.size(1, 4)
    x = d.values((d.size(1, 2), samples, d.pick([1, 1, 2])), special=0)
    window = d.values((length,), special=0) if d.chance() else None
    onesided = d.size(0, 1) if x.shape[-1] == 1 else 0
    given = _longs(length) if window is None or d.chance() else None
    return d.case("STFT", [x, _longs(d.size(1, 3)), window, given], onesided=onesided)


def _loss(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        shape = (d.size(1, 3), d.size(1, 4), *d.shape(0, 2, 3))
        labels = d.rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(d.pick(["int32", "int64"]))
        weights = np.abs(d.values((shape[1],), special=0)) + np.float32(0.1) if d.chance() else None
        ignored = d.pick([None, 0, shape[1] - 1])
        reduction = d.pick([None, "none", "sum", "mean"])
        outputs = d.size(1, 2) if operator == "SoftmaxCrossEntropyLoss" else 1
        x = d.values(shape, special=0)
        return d.case(operator, [x, labels, weights], outputs, ignore_index=ignored, reduction=reduction)

    return draw


def attention(d: Draw) -> Case:
    batch, heads, queries, keys, width = d.size(1, 2), d.size(1, 2), d.size(1, 3), d.size(1, 4), 2 * d.size(1, 2)
    groups = heads * d.size(1, 2)
    flat = d.chance(0.3)

    def tensor(count: int, length: int) -> np.ndarray:
        return d.values((batch, length, count * width) if flat else (batch, count, length, width), special=0)

    values: list[np.ndarray | Frozen | None] = [tensor(groups, queries), tensor(heads, keys), tensor(heads, keys)]
    past = 0
    if d.chance():
        mask = d.rng.random((queries, keys + past)) < 0.6
        values.append(mask if d.chance(0.3) else np.where(mask, 0, d.pick([-1e4, -np.inf])).astype(np.float32))
    attributes: dict[str, object] = {"is_causal": d.pick([None, 0, 1]), "scale": d.pick([None, 0.3])}
    attributes["softcap"] = d.pick([None, None, 2.0])
    if flat:
        attributes |= {"q_num_heads": groups, "kv_num_heads": heads}
    return d.case("Attention", values, **attributes)


def rotary_embedding(d: Draw) -> Case:
    batch, heads, length, width = d.size(1, 2), d.size(1, 2), d.size(1, 4), 2 * d.size(1, 3)
    partial = 2 * d.size(1, width // 2) if d.chance(0.3) else 0
    half = (partial or width) // 2
    x = d.values((batch, heads, length, width), special=0)
    if d.chance():
        cache = [d.values((6, half), special=0) for _ in range(2)]
        positions = d.rng.integers(0, 6, (batch, length))
    else:
        cache, positions = [d.values((batch, length, half), special=0) for _ in range(2)], None
    mixed = d.pick([None, 0, 1])
    return d.case("RotaryEmbedding", [x, *cache, positions], interleaved=mixed, rotary_embedding_dim=partial or None)


DRAWS: dict[str, Callable[[Draw], Case]] = {
    **{operator: _reduction(operator) for operator in REDUCTIONS},
    **{operator: _recurrent(operator) for operator in ("GRU", "LSTM", "RNN")},
    **{operator: _softmax(operator) for operator in ("Hardmax", "LogSoftmax", "Softmax")},
    **{operator: _loss(operator) for operator in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")},
    **{operator: _arg(operator) for operator in ("ArgMax", "ArgMin")},
    **{operator: _cumulative(operator) for operator in ("CumProd", "CumSum")},
    "Attention": attention,
    "BatchNormalization": batch_normalization,
    "DFT": dft,
    "Einsum": einsum,
    "Gemm": gemm,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "MeanVarianceNormalization": mean_variance,
    "RMSNormalization": rms_normalization,
    "RotaryEmbedding": rotary_embedding,
    "STFT": stft,
    "TopK": top_k,
}
"""By operator, how a node is drawn."""
