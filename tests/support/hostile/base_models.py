"""The small models that hostile files are made from: between them they have every part that a file can have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from sbnn_tvm.frontends.onnx import opset
from tests.support import foreign_models
from tests.support.binarised_models import BINARIZE, BITS, binarized
from tests.support.small_models import small_model

_RNG = np.random.default_rng(0)


def _numbers(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _binary() -> onnx.ModelProto:
    """Operators of ai.sbnn, with their function bodies."""
    packed = opset.pack_bits(_RNG.integers(0, 2, (8, 4 * 9)))
    dense = opset.pack_bits(_RNG.integers(0, 2, (3, 8)))
    return small_model(
        """
        b = ai.sbnn.Binarize<lo = -1.0, hi = 1.0>(x, t)
        c = ai.sbnn.BinaryConv2d<weight_shape = [8, 4, 3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(b, w, s, o)
        q = ai.sbnn.Quantize<step = 0.5>(c, ts)
        p = GlobalAveragePool(q)
        f = Flatten(p)
        d = ai.sbnn.Binarize(f, t)
        y = ai.sbnn.BinaryLinear<in_features = 8>(d, v, s3, o3)
        """,
        {"x": (1, 4, 5, 6)},
        {
            **{"t": 0.0, "w": packed, "s": np.ones(8), "o": np.full(8, 0.5), "ts": np.float32([0, 1, 2])},
            **{"v": dense, "s3": np.ones(3), "o3": np.zeros(3)},
        },
    )


def _decoders() -> onnx.ModelProto:
    """Coded weights of ai.sbnn."""
    return small_model(
        """
        w = ai.sbnn.DecodeSparse<shape = [6, 4]>(gaps, values)
        v = ai.sbnn.DecodeGaps<rows = 2, columns = 16>(gaps, inverted)
        y = MatMul(x, w)
        b = ai.sbnn.Binarize(x, t)
        """,
        {"x": (2, 6)},
        {
            **{"gaps": np.uint8([1, 3, 2]), "values": _numbers(3), "inverted": np.uint8([0])},
            "t": 0.0,
        },
        outputs=("y", "b"),
    )


def _float_cnn() -> onnx.ModelProto:
    return small_model(
        """
        c = Conv<pads = [1, 1, 1, 1], strides = [1, 2]>(x, w, bias)
        r = Relu(c)
        m = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(r)
        n = BatchNormalization<epsilon = 0.001>(m, g, g, bias, g)
        t = ConvTranspose<strides = [2, 2]>(n, u)
        a, b = Split<axis = 1, num_outputs = 2>(t)
        e = Concat<axis = 1>(b, a)
        z = Resize<mode = "nearest">(e, none, scales)
        p = Pad<mode = "reflect">(z, pads)
        s = Slice(p, starts, ends, axes, steps)
        h = Softmax<axis = 1>(s)
        d = DepthToSpace<blocksize = 2>(h)
        k = ReduceMean<keepdims = 0>(d, axes)
        l = LayerNormalization<axis = -1>(k, g2)
        y = Gemm<transB = 1, alpha = 0.5>(l, matrix)
        """.replace("e, none, scales", "e, , scales"),
        {"x": (1, 3, 6, 8)},
        {
            **{"w": _numbers(4, 3, 3, 3), "bias": _numbers(4), "g": np.full(4, 0.75), "u": _numbers(4, 4, 2, 2)},
            **{"scales": np.float32([1, 1, 2, 1.5]), "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1])},
            **{"starts": np.int64([0, 1]), "ends": np.int64([99, -1]), "axes": np.int64([2, 3])},
            **{"steps": np.int64([1, 2]), "g2": np.ones(1), "matrix": _numbers(3, 1)},
        },
    )


def _folding() -> onnx.ModelProto:
    """Values computed from constants and shapes at import."""
    return small_model(
        """
        shape = Shape(x)
        first = Gather<axis = 0>(shape, zero)
        n = Unsqueeze(first, axis)
        filled = ConstantOfShape<value = float[1] {0.5}>(three)
        wide = Expand(filled, four)
        tiled = Tile(wide, repeats)
        range = Range(zero, limit, one)
        hot = OneHot<axis = -1>(range, limit, values)
        eye = EyeLike<k = 1, dtype = 1>(hot)
        padded = Pad(hot, pads)
        chosen = Where(mask, hot, eye)
        grown = Resize(map, , , sizes)
        sum = CumSum(chosen, zero)
        prod = MatMul(sum, eye)
        to = Concat<axis = 0>(n, minus)
        r = Reshape(x, to)
        y = MatMul(r, prod)
        u = Einsum<equation = "ij,jk->ik">(r, hot)
        v = Trilu(u)
        k, i = TopK<axis = -1>(v, one_of)
        """.strip(),
        {"x": (2, 2, 2)},
        {
            **{"zero": np.int64(0), "one": np.int64(1), "axis": np.int64([0]), "three": np.int64([3, 1])},
            **{"four": np.int64([3, 4]), "repeats": np.int64([2, 1]), "limit": np.int64(4), "one_of": np.int64([1])},
            **{"values": np.float32([0, 1]), "pads": np.int64([1, 1, 1, 1]), "mask": np.eye(4) > 0},
            **{"map": _numbers(1, 1, 2, 2), "sizes": np.int64([1, 1, 4, 4]), "minus": np.int64([-1])},
        },
        outputs=("y", "k", "i", "padded", "grown", "tiled"),
    )


def _control_flow() -> onnx.ModelProto:
    """Subgraphs: If on a constant and on an input, Loop and Scan."""
    return parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        control (float[2, 3] x) => (float[2, 3] y)
        <bool yes = {1}, int64 trips = {2}>
        {
            a = If (yes) <
                then_branch = then_graph () => (float[2, 3] t) { t = Relu(x) },
                else_branch = else_graph () => (float[2, 3] e) { e = Neg(x) }
            >
            b = Loop (trips, yes, a) <
                body = body_graph (int64 step, bool go, float[2, 3] carried) => (bool again, float[2, 3] out) {
                    again = Identity(go)
                    out = Add(carried, x)
                }
            >
            y = Identity(b)
        }
        """
    )


def _branches() -> onnx.ModelProto:
    """Nested branches on constants, which import resolves."""
    return parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        control (float[2, 3] x) => (float[2, 3] y)
        <bool yes = {1}, float[3] w = {1.0, 2.0, 3.0}>
        {
            no = Not(yes)
            a = If (yes) <
                then_branch = outer () => (float[2, 3] t) {
                    t = If (no) <
                        then_branch = inner () => (float[2, 3] i) { i = Relu(x) },
                        else_branch = other () => (float[2, 3] j) {
                            k = Constant<value = float[1] {2.0}>()
                            j = Mul(x, k)
                        }
                    >
                },
                else_branch = never () => (float[2, 3] e) { e = Neg(x) }
            >
            y = Mul(a, w)
        }
        """
    )


def _functions() -> onnx.ModelProto:
    """Model-local functions that call each other."""
    return parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        calls (float[2, 3] x) => (float[2, 3] y)
        {
            a = local.Twice <by = 2.0> (x)
            y = local.Outer (a)
        }
        <domain: "local", opset_import: ["" : 21, "local" : 1]>
        Outer (x) => (y) { a = local.Twice <by = 3.0> (x) b = Abs(a) y = local.Twice <by: float = 0.5> (b) }
        <domain: "local", opset_import: ["" : 21]>
        Twice <by: float = 1.0> (x) => (y) { c = Constant <value_float: float = @by> () y = Mul(x, c) }
        """
    )


def _integers() -> onnx.ModelProto:
    return small_model(
        """
        f = Cast<to = 1>(x)
        q = QuantizeLinear<axis = 1>(f, scale, point)
        d = DequantizeLinear<axis = 1>(q, scale, point)
        e = Gather<axis = 0>(table, x)
        r = ReduceSum<keepdims = 0>(e, axes)
        s = Add(d, r)
        m = Mod(x, two)
        g = Cast<to = 1>(m)
        t = Transpose<perm = [1, 0]>(s)
        y = MatMul(g, t)
        k, i = TopK<axis = 1>(y, two)
        b = BitShift<direction = "LEFT">(bits, bits)
        """,
        {"x": ((2, 3), "int64"), "bits": ((2,), "uint8")},
        {
            **{"scale": np.float32(0.5), "point": np.int8(1), "table": _numbers(9, 4), "axes": np.int64([2])},
            "two": np.int64([2]),
        },
        outputs=("k", "i", "b"),
    )


def _recurrent() -> onnx.ModelProto:
    return small_model(
        """
        a, h, c = LSTM<hidden_size = 3>(x, w, r, b)
        s = Squeeze(a, axis)
        y = Tanh(s)
        """,
        {"x": (2, 1, 4)},
        {"w": _numbers(1, 12, 4), "r": _numbers(1, 12, 3), "b": _numbers(1, 24), "axis": np.int64([1])},
    )


def _old() -> onnx.ModelProto:
    """Operator set 9 and IR version 3, where initialisers are inputs as well."""
    model = parser.parse_model(
        """
        <ir_version: 3, opset_import: ["" : 9]>
        old (float[1, 2, 4, 4] x, float[3, 2, 1, 1] w, int64[2] to) => (float[1, z] y)
        {
            c = Conv(x, w)
            d = Dropout<ratio = 0.5>(c)
            u = Upsample<mode = "nearest">(d, s)
            p = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 1.0>(u)
            l = Slice<axes = [2], starts = [1], ends = [9]>(p)
            k = Clip<min = -1.0, max = 1.0>(l)
            y = Reshape(k, to)
        }
        """
    )
    tensors = {"w": _numbers(3, 2, 1, 1), "to": np.int64([1, -1]), "s": np.float32([1, 1, 2, 2])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [4]))
    return model


def _sparse() -> onnx.ModelProto:
    model = small_model("y = MatMul(x, w)", {"x": (2, 6)}, {"w": np.zeros((6, 4), np.float32)})
    del model.graph.initializer[:]
    values = numpy_helper.from_array(_numbers(3), "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([1, 7, 20])), [6, 4])
    )
    return model


def _dialects() -> onnx.ModelProto:
    """Nodes of QONNX and FINN, which become standard operators; a scale and a bit width that nodes compute."""
    model = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 13, "qonnx.custom_op.general" : 1]>
        dialects (float[1, 2, 6, 6] x) => (float[1, 4, 4, 3] y, float[1, 2, 6, 6] z)
        <float one = {1.0}, float zero = {0.0}, float two = {2.0}, float four = {4.0}>
        {
            half = Div(one, two)
            bits = qonnx.custom_op.general.Quant<signed = 0, narrow = 0>(two, one, zero, four)
            a = qonnx.custom_op.general.Quant<signed = 1, narrow = 1, rounding_mode = "HALF_UP">(x, half, zero, bits)
            b = qonnx.custom_op.general.MultiThreshold<out_dtype = "UINT4", out_scale = 0.5>(a, rows)
            c = qonnx.custom_op.general.MultiThreshold<out_dtype = "UINT8">(b, many)
            z = qonnx.custom_op.general.Trunc<rounding_mode = "FLOOR">(c, one, zero, four, two)
            s = qonnx.custom_op.general.BipolarQuant(c, one)
            t = Transpose<perm = [0, 2, 3, 1]>(s)
            k = qonnx.custom_op.general.Im2Col<stride = [1, 1], kernel_size = [3, 3], input_shape = "(1, 6, 6, 2)">(t)
            y = MatMul(k, w)
        }
        """
    )
    rows, many = np.sort(_numbers(2, 3), 1), np.sort(_numbers(1, 20), 1)
    tensors = {"rows": rows, "many": many, "w": np.where(_numbers(18, 3) < 0, -1, 1).astype(np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    return model


def _bits() -> onnx.ModelProto:
    """A comparison and two constants before a convolution and a max pooling: recognised as binary."""
    weights = np.where(_RNG.random((8, 8, 3, 3)) < 0.5, -1, 1).astype(np.float32)
    text = BITS + "d = Conv<pads = [1, 1, 1, 1]>(b, w)\n" + binarized("e", "d") + "y = MaxPool<kernel_shape=[2, 2]>(e)"
    return small_model(text, {"x": (2, 8, 6, 6)}, {**BINARIZE, "w": weights})


BASE_MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "binary operators": _binary,
    "decoders": _decoders,
    "float network": _float_cnn,
    "folding": _folding,
    "control flow": _control_flow,
    "branches": _branches,
    "functions": _functions,
    "integers": _integers,
    "recurrent": _recurrent,
    "old": _old,
    "sparse": _sparse,
    "dialects": _dialects,
    "bits": _bits,
    "bireal_net": lambda: foreign_models.bireal_net(channels=8, size=8, classes=3),
    "sign_net": lambda: foreign_models.sign_net(channels=8, size=4, layers=1),
    "vgg": lambda: foreign_models.vgg(channels=8, size=4, hidden=8, classes=3),
    "mlp": lambda: foreign_models.mlp(features=16, hidden=(8,), classes=3),
}


@cache
def base_model(name: str) -> bytes:
    """One of ``BASE_MODELS``, serialised."""
    return BASE_MODELS[name]().SerializeToString()
