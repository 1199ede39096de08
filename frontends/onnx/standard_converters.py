"""Converters of the standard operators whose Relax form the passes rely on; TVM's importer converts all others.

The form is NCHW with explicit paddings of 4 numbers. Every constant operand of an elementwise operator has as many
dimensions as the result, [1, C, 1, 1] if it differs by channel. A converter takes a node and returns one expression, or
None to leave the case to TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import TypeAlias

import numpy as np
from onnx import helper
from tvm import relax
from tvm.tirx import FloatImm

from .node import Node, aligned, as_expr, dtype_of, per_channel, rank_of, shape_of
from .window_attributes import Window2d, check_channels

Converter: TypeAlias = Callable[[Node], relax.Expr | None]


def conv(node: Node) -> relax.Expr | None:
    """2-D convolution, with its bias as an addition."""
    x, weight = node.expr(0), node.required(1)
    if rank_of(weight) != 4:
        return None
    shape = shape_of(weight)
    kernel = tuple(node.attributes.get("kernel_shape", shape[2:]))
    groups = node.attributes.get("group", 1)
    if kernel != shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)}, but weights of shape {list(shape)}")
    check_channels(node, x, shape, groups)
    window = Window2d.of(node, kernel)
    y = relax.op.nn.conv2d(x, as_expr(weight), window.strides, window.padding, window.dilation, groups)
    bias = node.value(2)
    if bias is None:
        return y
    return relax.op.add(node.emit(y), _channel_operand(bias, 4))


def _channel_operand(value: relax.Expr | np.ndarray, rank: int) -> relax.Expr:
    if isinstance(value, np.ndarray):
        return per_channel(value, rank)
    return relax.op.reshape(value, (1, -1) + (1,) * (rank - 2))


def gemm(node: Node) -> relax.Expr:
    """``alpha * A @ B + beta * C``; transposition and beta change the constants, an alpha other than 1 multiplies."""
    attributes = node.attributes
    a = node.expr(0)
    if attributes.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a))
    b = node.required(1)
    if attributes.get("transB", 0):
        b = b.T if isinstance(b, np.ndarray) else node.emit(relax.op.permute_dims(b))
    y = relax.op.matmul(a, as_expr(b))
    dtype = dtype_of(a)
    alpha, beta = (np.array(attributes.get(name, 1.0), dtype) for name in ("alpha", "beta"))
    if alpha != 1:
        y = relax.op.multiply(node.emit(y), aligned(alpha, 2))
    c = node.value(2)
    if c is None or beta == 0:
        return y
    y = node.emit(y)
    if isinstance(c, np.ndarray):
        c = c if beta == 1 else beta * c
        # a scalar or a single column is expanded, so that a bias is always [1, N]
        return relax.op.add(y, aligned(np.broadcast_to(c, (1, shape_of(y)[1])) if c.size == 1 else c, 2))
    return relax.op.add(y, c if beta == 1 else node.emit(relax.op.multiply(c, aligned(beta, rank_of(c)))))


def matmul(node: Node) -> relax.Expr:
    """Matrix product."""
    return relax.op.matmul(node.expr(0), node.expr(1))


def batch_normalization(node: Node) -> relax.Expr | None:
    """``x * k + t`` with onnxruntime's float32 k and t: the reciprocal is rounded before the scale multiplies it.

    The order matters: any other order differs in the last bit, which changes signs in later layers.
    """
    if node.attributes.get("training_mode", 0) or any(node.uses_output(index) for index in range(1, 5)):
        raise node.error("is in training mode; export the model in evaluation mode")
    if not all(isinstance(node.value(index), np.ndarray) for index in range(1, 5)):
        return None
    x = node.expr(0)
    scale, bias, mean, variance = (node.constant(index) for index in range(1, 5))
    epsilon = np.array(node.attributes.get("epsilon", 1e-5), variance.dtype)
    if not np.all(variance > -epsilon):
        raise node.error(f"has a variance of {np.min(variance):g}; with epsilon {epsilon:g} it must be positive")
    k = scale * (np.array(1, variance.dtype) / np.sqrt(variance + epsilon))
    t = bias - mean * k
    dtype, rank = dtype_of(x), rank_of(x)
    scaled = node.emit(relax.op.multiply(x, per_channel(k.astype(dtype), rank)))
    return relax.op.add(scaled, per_channel(t.astype(dtype), rank))


def prelu(node: Node) -> relax.Expr:
    """``x if x > 0 else slope * x``; as Relax's PReLU if the slope is one number per channel."""
    x, slope = node.expr(0), node.required(1)
    rank = rank_of(x)
    if isinstance(slope, np.ndarray) and rank >= 2:
        channels = shape_of(x)[1]
        if slope.size == 1:
            return relax.op.nn.prelu(x, as_expr(np.full(channels, slope.reshape(()), slope.dtype)), axis=1)
        full = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
        if full.shape == (1, channels) + (1,) * (rank - 2):
            return relax.op.nn.prelu(x, as_expr(full.reshape(channels)), axis=1)
    scaled = node.emit(relax.op.multiply(x, node.aligned(1, rank)))
    below = node.emit(relax.op.less(x, aligned(np.zeros((), dtype_of(x)), rank)))
    return relax.op.where(below, scaled, x)


def relu(node: Node) -> relax.Expr:
    """``max(x, 0)``."""
    return relax.op.nn.relu(node.expr(0))


def leaky_relu(node: Node) -> relax.Expr:
    """``x if x > 0 else alpha * x``."""
    return relax.op.nn.leakyrelu(node.expr(0), float(node.attributes.get("alpha", 0.01)))


def clip(node: Node) -> relax.Expr | None:
    """``min(max(x, low), high)``; without one of the bounds only the other operation."""
    x = node.expr(0)
    if node.opset < 11:
        low, high = (node.attributes.get(name) for name in ("min", "max"))
    else:
        bounds = [node.value(index) for index in (1, 2)]
        if not all(bound is None or isinstance(bound, np.ndarray) for bound in bounds):
            return None
        low, high = (None if bound is None else bound.item() for bound in bounds)
    if low is not None and high is not None:
        return relax.op.clip(x, min(low, high), high)  # bounds in the wrong order give the upper bound
    dtype, rank = dtype_of(x), rank_of(x)
    if low is not None:
        return relax.op.maximum(x, aligned(np.array(low, dtype), rank))
    if high is not None:
        return relax.op.minimum(x, aligned(np.array(high, dtype), rank))
    return x


def identity(node: Node) -> relax.Expr:
    """The input itself; no operator remains."""
    return node.expr(0)


def dropout(node: Node) -> relax.Expr:
    """The input itself, since inference drops nothing."""
    training = node.value(2)
    if node.uses_output(1) or not (training is None or (isinstance(training, np.ndarray) and not training.any())):
        raise node.error("is in training mode or returns its mask; export the model in evaluation mode")
    return node.expr(0)


def cast(node: Node) -> relax.Expr | None:
    """The input itself for its own type, 0 and 1 from truth values; TVM converts all others."""
    x, dtype = node.expr(0), helper.tensor_dtype_to_np_dtype(node.attribute("to")).name
    if dtype == dtype_of(x):
        return x
    return relax.op.astype(x, dtype) if dtype_of(x) == "bool" and dtype != "bool" else None


def where(node: Node) -> relax.Expr:
    """Elementwise choice."""
    rank = max(rank_of(node.required(index)) for index in range(3))
    return relax.op.where(*(node.aligned(index, rank) for index in range(3)))


def sign(node: Node) -> relax.Expr:
    """-1, 0 or 1."""
    return relax.op.sign(node.expr(0))


def max_pool(node: Node) -> relax.Expr | None:
    """2-D maximum pooling."""
    x = node.expr(0)
    if node.uses_output(1):
        raise node.error("returns the indices of the maxima, which is not supported; remove that output")
    if rank_of(x) != 4:
        return None
    window = Window2d.of(node, node.attribute("kernel_shape"))
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    return relax.op.nn.max_pool2d(x, window.kernel, window.strides, window.padding, window.dilation, ceil_mode)


def average_pool(node: Node) -> relax.Expr | None:
    """2-D average pooling."""
    x = node.expr(0)
    if rank_of(x) != 4:
        return None
    window = Window2d.of(node, node.attribute("kernel_shape"))
    ceil_mode, count_pad = (bool(node.attributes.get(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    return relax.op.nn.avg_pool2d(
        x, window.kernel, window.strides, window.padding, window.dilation, ceil_mode, count_pad
    )


def global_average_pool(node: Node) -> relax.Expr | None:
    """The mean of each feature map."""
    x = node.expr(0)
    return relax.op.nn.adaptive_avg_pool2d(x, (1, 1)) if rank_of(x) == 4 else None


def reduce_mean(node: Node) -> relax.Expr | None:
    """The mean over both image axes as global pooling; TVM converts other means."""
    x, axes = node.expr(0), node.attributes.get("axes")
    if axes is None:
        given = node.value(1)
        axes = given.tolist() if isinstance(given, np.ndarray) else ()
    if rank_of(x) != 4 or sorted(axis % 4 for axis in axes) != [2, 3] or not dtype_of(x).startswith("float"):
        return None
    mean = relax.op.nn.adaptive_avg_pool2d(x, (1, 1))
    if node.attributes.get("keepdims", 1):
        return mean
    return relax.op.reshape(node.emit(mean), shape_of(x)[:2])


def pad(node: Node) -> relax.Expr | None:
    """Padding with a constant; TVM converts other modes."""
    x, attributes = node.expr(0), node.attributes
    rank = rank_of(x)
    if attributes.get("mode", "constant") != "constant":
        return None
    if node.opset < 11:
        amounts, fill = list(attributes["pads"]), float(attributes.get("value", 0.0))
    else:
        given = node.value(2)
        amounts, fill = node.constant(1).tolist(), 0.0 if given is None else node.constant(2).item()
    axes = range(rank) if node.value(3) is None else [axis % rank for axis in node.constant(3).tolist()]
    if any(amount < 0 for amount in amounts):
        raise node.error(f"has negative pads {amounts}, which is not supported; use Slice to crop")
    widths = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        widths[2 * axis], widths[2 * axis + 1] = amounts[index], amounts[index + len(axes)]
    return relax.op.nn.pad(x, widths, pad_mode="constant", pad_value=fill)


def reshape(node: Node) -> relax.Expr:
    """A reshape to a static shape."""
    x = node.expr(0)
    old = shape_of(x)
    new = [int(dim) for dim in (node.attributes["shape"] if node.opset < 5 else node.constant(1))]
    if not node.attributes.get("allowzero", 0):
        new = [old[axis] if dim == 0 and axis < len(old) else dim for axis, dim in enumerate(new)]
    if -1 in new:
        rest = prod(dim for dim in new if dim != -1)
        new[new.index(-1)] = prod(old) // rest if rest else 0
    return _reshaped(node, x, new)


def _reshaped(node: Node, x: relax.Expr, shape: list[int]) -> relax.Expr:
    if prod(shape) != prod(shape_of(x)):
        raise node.error(f"cannot make shape {shape} of {list(shape_of(x))}: the numbers of elements differ")
    return relax.op.reshape(x, shape)


def flatten(node: Node) -> relax.Expr:
    """Two dimensions: the product of those before an axis, and the product of the rest."""
    x = node.expr(0)
    shape, axis = shape_of(x), node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return _reshaped(node, x, [prod(shape[:axis]), prod(shape[axis:])])


def gather(node: Node) -> relax.Expr:
    """Picks elements along an axis.

    Computed indices that are out of range wrap around, so that they cannot read other memory.
    """
    x, picks = node.expr(0), node.value(1)
    axis = node.attributes.get("axis", 0)
    if not isinstance(picks, np.ndarray):
        return relax.op.take(x, node.expr(1), axis, mode="wrap")
    size = shape_of(x)[axis]
    if picks.size and not -size <= picks.min() <= picks.max() < size:
        raise node.error(f"picks elements {picks.min()} to {picks.max()} of axis {axis}, which has {size}")
    return relax.op.take(x, as_expr(picks % size), axis, mode="clip")


def _axes(node: Node) -> list[int] | None:
    if node.opset < 13:
        return node.attributes.get("axes")
    return None if node.value(1) is None else node.constant(1).reshape(-1).tolist()


def squeeze(node: Node) -> relax.Expr:
    """Removes axes of size 1."""
    x, axes = node.expr(0), _axes(node)
    shape = shape_of(x)
    gone = {axis for axis, dim in enumerate(shape) if dim == 1} if axes is None else {a % len(shape) for a in axes}
    return _reshaped(node, x, [dim for axis, dim in enumerate(shape) if axis not in gone])


def unsqueeze(node: Node) -> relax.Expr:
    """Adds axes of size 1."""
    x, axes = node.expr(0), _axes(node) or []
    rank = rank_of(x) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(shape_of(x))
    return _reshaped(node, x, [1 if axis in new else next(rest) for axis in range(rank)])


def _binary(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(node: Node) -> relax.Expr:
        rank = max(rank_of(node.required(0)), rank_of(node.required(1)))
        return operator(node.aligned(0, rank), node.aligned(1, rank))

    return convert


def _variadic(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(node: Node) -> relax.Expr:
        rank = max(rank_of(node.required(index)) for index in range(len(node.inputs)))
        operands = [node.aligned(index, rank) for index in range(len(node.inputs))]
        return reduce(lambda left, right: operator(node.emit(left), right), operands[2:], operator(*operands[:2]))

    return lambda node: convert(node) if len(node.inputs) > 1 else node.expr(0)


def divide(node: Node) -> relax.Expr | None:
    """Division of floats; TVM converts integer division."""
    return _binary(relax.op.divide)(node) if dtype_of(node.required(0)).startswith("float") else None


def one_hot(node: Node) -> relax.Expr | None:
    """One-hot encoding with constant depth and float32 values, which TVM's importer would make float64."""
    indices, depth, values = (node.required(index) for index in range(3))
    if not isinstance(depth, np.ndarray) or not isinstance(values, np.ndarray) or values.dtype != np.float32:
        return None
    index = as_expr(indices)
    zero, extent = (relax.const(value, dtype_of(index)) for value in (0, int(depth.item())))
    from_end = node.emit(relax.op.add(index, extent))
    index = node.emit(relax.op.where(node.emit(relax.op.less(index, zero)), from_end, index))
    off, on = (relax.prim_value(FloatImm("float32", float(value))) for value in values)
    return relax.op.one_hot(index, on, off, int(depth.item()), node.attributes.get("axis", -1))


CONVERTERS: dict[str, Converter] = {
    "Add": _binary(relax.op.add),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Conv": conv,
    "Div": divide,
    "Dropout": dropout,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "Greater": _binary(relax.op.greater),
    "GreaterOrEqual": _binary(relax.op.greater_equal),
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "Less": _binary(relax.op.less),
    "LessOrEqual": _binary(relax.op.less_equal),
    "MatMul": matmul,
    "Max": _variadic(relax.op.maximum),
    "MaxPool": max_pool,
    "Min": _variadic(relax.op.minimum),
    "Mul": _binary(relax.op.multiply),
    "PRelu": prelu,
    "OneHot": one_hot,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Reshape": reshape,
    "Sign": sign,
    "Squeeze": squeeze,
    "Sub": _binary(relax.op.subtract),
    "Sum": _variadic(relax.op.add),
    "Unsqueeze": unsqueeze,
    "Where": where,
}
"""Converters by operator name, for the standard domain."""
