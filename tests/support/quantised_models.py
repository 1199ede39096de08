"""Small float networks written by hand, quantised by onnxruntime's own quantiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from sbnn_tvm.verification.exact_products import with_exact_products


class FloatNetwork:
    """Builds an ONNX model of one input, ``x``, with random weights."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.shape, self._rng = shape, np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node; the name of its result."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: np.ndarray, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(self, x: str, sizes: tuple[int, int], kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        """Add a convolution with bias, padded to keep the size; ``sizes`` are its channels."""
        taps = sizes[0] // groups * kernel**2
        weight = self._rng.standard_normal((sizes[1], sizes[0] // groups, kernel, kernel)) * np.sqrt(2 / taps)
        bias = self.constant(self._rng.standard_normal(sizes[1]) / 10)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        return self.op("Conv", x, self.constant(weight), bias, **window)

    def gemm(self, x: str, sizes: tuple[int, int]) -> str:
        """Add a dense layer with bias."""
        weight = self._rng.standard_normal(sizes[::-1]) / np.sqrt(sizes[0])
        return self.op("Gemm", x, self.constant(weight), self.constant(self._rng.standard_normal(sizes[1])), transB=1)

    def dense(self, x: str, sizes: tuple[int, int]) -> str:
        """Add a product with a matrix and a bias, over the last axis."""
        weight = self._rng.standard_normal(sizes) / np.sqrt(sizes[0])
        product = self.op("MatMul", x, self.constant(weight))
        return self.op("Add", product, self.constant(self._rng.standard_normal(sizes[1])))

    def model(self, result: str) -> onnx.ModelProto:
        """The model that returns one value."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "quantised", inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def conv_net(seed: int = 0) -> onnx.ModelProto:
    """Convolutions, one of them depthwise, and ReLUs."""
    net = FloatNetwork((2, 3, 9, 7), seed)
    x = net.op("Relu", net.conv("x", (3, 12)))
    x = net.op("Relu", net.conv(x, (12, 12), stride=2, groups=12))
    return net.model(net.conv(x, (12, 5), kernel=1))


def mlp(rows: tuple[int, ...], sizes: Sequence[int], seed: int = 0) -> onnx.ModelProto:
    """Dense layers with ReLUs between them, for data [*rows, sizes[0]]."""
    net = FloatNetwork((*rows, sizes[0]), seed)
    x = net.dense("x", (sizes[0], sizes[1]))
    for pair in pairwise(sizes[1:]):
        x = net.dense(net.op("Relu", x), pair)
    return net.model(x)


def transformer_block(tokens: int = 9, width: int = 24, heads: int = 2, seed: int = 0) -> onnx.ModelProto:
    """A block of a vision transformer: attention and an MLP with GELU, each after a layer norm."""
    net = FloatNetwork((1, tokens, width), seed)

    def norm(x: str) -> str:
        one, zero = net.constant(np.ones(width)), net.constant(np.zeros(width))
        return net.op("LayerNormalization", x, one, zero, axis=-1)

    def head_of(x: str, order: tuple[int, ...]) -> str:
        split = net.op("Reshape", x, net.constant(np.array([1, tokens, heads, width // heads]), np.int64))
        return net.op("Transpose", split, perm=order)

    x = norm("x")
    query, value = (head_of(net.dense(x, (width, width)), (0, 2, 1, 3)) for _ in range(2))
    key = head_of(net.dense(x, (width, width)), (0, 2, 3, 1))
    scores = net.op("Mul", net.op("MatMul", query, key), net.constant(np.array((width // heads) ** -0.5)))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    joined = net.op("Transpose", mixed, perm=(0, 2, 1, 3))
    joined = net.op("Reshape", joined, net.constant(np.array([1, tokens, width]), np.int64))
    x = net.op("Add", "x", net.dense(joined, (width, width)))
    up = net.dense(norm(x), (width, 4 * width))
    error = net.op("Erf", net.op("Mul", up, net.constant(np.array(2**-0.5))))
    error = net.op("Add", error, net.constant(np.array(1.0)))
    gelu = net.op("Mul", net.op("Mul", up, error), net.constant(np.array(0.5)))
    return net.model(net.op("Add", x, net.dense(gelu, (4 * width, width))))


def resnet(width: int = 8, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """A stem with its pooling, two residual blocks, a global pooling and a dense layer."""
    net = FloatNetwork((1, 3, size, size), seed)
    x = net.op("Relu", net.conv("x", (3, width), 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for sizes, stride in (((width, width), 1), ((width, 2 * width), 2)):
        y = net.op("Relu", net.conv(x, sizes, stride=stride))
        y = net.conv(y, (sizes[1], sizes[1]))
        x = net.op("Relu", net.op("Add", y, x if stride == 1 else net.conv(x, sizes, 1, stride)))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.gemm(x, (2 * width, 10)))


def mobilenet(width: int = 8, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """Inverted residual blocks with ReLU6."""
    net = FloatNetwork((1, 3, size, size), seed)

    def relu6(x: str) -> str:
        return net.op("Clip", x, net.constant(np.array(0.0)), net.constant(np.array(6.0)))

    x = relu6(net.conv("x", (3, width), stride=2))
    for stride in (1, 2):
        y = relu6(net.conv(x, (width, 3 * width), 1))
        y = relu6(net.conv(y, (3 * width, 3 * width), stride=stride, groups=3 * width))
        y = net.conv(y, (3 * width, width), 1)
        x = net.op("Add", y, x) if stride == 1 else y
    x = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    return net.model(net.gemm(x, (width, 10)))


def detector(width: int = 8, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """Convolutions with SiLU, as products with sigmoids, a concatenation of two of them, and a last convolution."""
    net = FloatNetwork((1, 3, size, size), seed)

    def silu(x: str) -> str:
        return net.op("Mul", x, net.op("Sigmoid", x))

    x = silu(net.conv("x", (3, width), stride=2))
    y = silu(net.conv(x, (width, width)))
    return net.model(net.conv(net.op("Concat", x, y, axis=1), (2 * width, 5), kernel=1))


def quantised(
    model: onnx.ModelProto,
    folder: Path,
    *,
    qdq: bool = True,
    signed: bool = False,
    per_channel: bool = False,
    weight_type: QuantType = QuantType.QInt8,
    **settings: Any,
) -> onnx.ModelProto:
    """A model after onnxruntime's static quantiser.

    Args:
        model: The float model.
        folder: Where files may be written.
        qdq: Write QuantizeLinear and DequantizeLinear around float operators, rather than operators on integers.
        signed: Activations are int8, not uint8.
        per_channel: Weights have a scale per output channel.
        weight_type: The type of the weights.
        settings: More arguments of ``quantize_static``.
    """
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "quantised.onnx",
        _Normal(shape),
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=weight_type,
        per_channel=per_channel,
        **settings,
    )
    return onnx.load(folder / "quantised.onnx")


def dynamically_quantised(
    model: onnx.ModelProto, folder: Path, *, signed: bool = True, per_channel: bool = False
) -> onnx.ModelProto:
    """A model after onnxruntime's dynamic quantiser, whose activations get their scales at run time.

    Args:
        model: The float model.
        folder: Where files may be written.
        signed: Weights are int8, not uint8.
        per_channel: Weights of products have a scale per output channel.
    """
    onnx.save(model, folder / "float.onnx")
    weights = QuantType.QInt8 if signed else QuantType.QUInt8
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", weight_type=weights, per_channel=per_channel)
    return onnx.load(folder / "dynamic.onnx")


def run_fused(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The first output of onnxruntime with its optimisations, which compute layers of QDQ models in integers.

    Products of bytes are asked not to saturate, as they do on x86 without VNNI.
    """
    options = onnxruntime.SessionOptions()
    # all but other layouts, in which onnxruntime has no kernel for some types
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model = with_exact_products(model)
    if not any(node.op_type == "QLinearConv" for node in model.graph.node):
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


class _Normal(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: list[int]) -> None:
        rng = np.random.default_rng(0)
        self._batches: Iterator[np.ndarray] = iter(rng.standard_normal((4, *shape)).astype(np.float32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}
