"""Each standard operator against onnxruntime, and the form it takes in Relax."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.imports import X, bindings, check, constants_of, operators
from tests.support.random_arrays import normal


def test_convolutions(rng: np.random.Generator) -> None:
    imported = check(
        """
        plain = Conv(x, w)
        biased = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)
        upper = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w_even, b)
        lower = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w_even, b)
        valid = Conv<auto_pad = "VALID">(x, w)
        grouped = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w_grouped)
        depthwise = Conv<group = 4, kernel_shape = [3, 3]>(x, w_depthwise)
        """,
        {"x": X},
        {
            "w": normal(rng, 5, 4, 3, 3),
            "b": normal(rng, 5),
            "w_even": normal(rng, 5, 4, 2, 4),
            "w_grouped": normal(rng, 6, 2, 3, 3),
            "w_depthwise": normal(rng, 4, 1, 3, 3),
        },
    )
    assert set(operators(imported)) == {"nn.conv2d", "add"}
    assert (1, 5, 1, 1) in [constant.shape for constant in constants_of(imported)]
    lower = next(b for b in bindings(imported) if imported.nodes[b.var.name] == "Conv:lower")
    assert [int(p) for p in lower.value.attrs.padding] == [1, 2, 0, 1]


def test_other_convolutions_through_tvm(rng: np.random.Generator) -> None:
    check(
        """
        line = Conv<pads = [1, 1]>(s, w1)
        volume = Conv(v, w3)
        transposed = ConvTranspose<strides = [2, 2]>(x, wt)
        """,
        {"s": normal(rng, 1, 3, 8), "v": normal(rng, 1, 2, 4, 4, 4), "x": X},
        {"w1": normal(rng, 2, 3, 3), "w3": normal(rng, 2, 2, 2, 2, 2), "wt": normal(rng, 4, 3, 2, 2)},
    )


def test_convolution_with_computed_weights_and_bias(rng: np.random.Generator) -> None:
    check("y = Conv(x, w, b)", {"x": X, "w": normal(rng, 5, 4, 3, 3), "b": normal(rng, 5)})


def test_matrix_products(rng: np.random.Generator) -> None:
    imported = check(
        """
        plain = MatMul(x, w)
        nt = Gemm<transB = 1>(x, wt, b)
        scaled = Gemm<alpha = 0.5, beta = 2.0>(x, w, b)
        tn = Gemm<transA = 1>(xt, w, full)
        scalar = Gemm(x, w, one)
        no_bias = Gemm<transB = 1>(x, wt)
        dynamic = Gemm<transB = 1, beta = 0.5>(x, yt, r)
        left = MatMul(wt, xt)
        batched = MatMul(b3, w)
        """,
        {
            "x": normal(rng, 3, 8),
            "xt": normal(rng, 8, 3),
            "yt": normal(rng, 5, 8),
            "r": normal(rng, 5),
            "b3": normal(rng, 2, 3, 8),
        },
        {
            "w": normal(rng, 8, 5),
            "wt": normal(rng, 5, 8),
            "b": normal(rng, 5),
            "full": normal(rng, 3, 5),
            "one": np.float32(1.5),
        },
    )
    shapes = {constant.shape for constant in constants_of(imported)}
    assert {(8, 5), (1, 5)} <= shapes and (5,) not in shapes
    assert operators(imported).count("permute_dims") == 2  # of computed operands only


@pytest.mark.parametrize("shape", [(2, 67, 3, 5), (3, 33), (2, 5, 4)])
def test_batch_normalization_is_bit_exact(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    channels = shape[1]
    variance = rng.uniform(0.01, 3, channels).astype(np.float32)
    imported = check(
        "y = BatchNormalization<epsilon = 0.001>(x, s, b, m, v)",
        {"x": normal(rng, *shape)},
        {"s": normal(rng, channels), "b": normal(rng, channels), "m": normal(rng, channels), "v": variance},
        exact=True,
    )
    assert operators(imported) == ["multiply", "add"]
    assert {constant.shape for constant in constants_of(imported)} == {(1, channels) + (1,) * (len(shape) - 2)}


def test_activations(rng: np.random.Generator) -> None:
    imported = check(
        """
        relu = Relu(x)
        leaky = LeakyRelu<alpha = 0.2>(x)
        prelu_channel = PRelu(x, slope)
        prelu_scalar = PRelu(x, one_slope)
        prelu_row = PRelu(x, row_slope)
        prelu_matrix = PRelu(m, row_slope)
        clipped = Clip(x, low, high)
        above = Clip(x, low)
        below = Clip(x, , high)
        free = Clip(x)
        crossed = Clip(x, high, low)
        dynamic = Clip(x, d)
        sign = Sign(z)
        """,
        {"x": X, "z": np.sign(X) * (np.abs(X) > 0.5), "m": normal(rng, 3, 9), "d": normal(rng, 1).reshape(())},
        {
            "slope": normal(rng, 4, 1, 1),
            "one_slope": np.float32([0.25]),
            "row_slope": normal(rng, 9),
            "low": np.float32(-0.7),
            "high": np.float32(0.9),
        },
        exact=True,
    )
    found = operators(imported)
    assert found.count("nn.prelu") == 3 and found.count("clip") == 2 and "sign" in found and "nn.relu" in found


def test_old_attribute_forms(rng: np.random.Generator) -> None:
    check(
        """
        clipped = Clip<min = -0.5, max = 0.5>(x)
        padded = Pad<pads = [0, 0, 1, 0, 0, 0, 0, 2], value = 1.5>(x)
        expanded = Unsqueeze<axes = [0, 5]>(x)
        squeezed = Squeeze<axes = [0]>(one)
        dropped = Dropout(x)
        """,
        {"x": X, "one": normal(rng, 1, 3)},
        version=10,
        exact=True,
    )


def test_elementwise(rng: np.random.Generator) -> None:
    imported = check(
        """
        sum = Add(x, c)
        difference = Sub(c, x)
        product = Mul(x, two)
        quotient = Div(x, x2)
        integer_quotient = Div(i, i2)
        integer_sum = Add(i, i2)
        maximum = Max(x, c, two)
        minimum = Min(x, x2)
        total = Sum(x, x2, c)
        chosen = Where(b, x, two)
        """,
        {
            "x": X,
            "x2": np.abs(normal(rng, 9)) + 1,
            "b": X > 0.3,
            "i": np.int64([7, -7, 5]),
            "i2": np.int64([2, 2, -3]),
        },
        {"c": normal(rng, 4, 1, 1), "two": np.float32(2)},
        exact=True,
    )
    floats = [constant for constant in constants_of(imported) if constant.dtype == np.float32]
    assert {(1, 4, 1, 1), (1, 1, 1, 1)} == {constant.shape for constant in floats}


@pytest.mark.parametrize("comparison", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_binarizers_of_standard_operators(comparison: str) -> None:
    x = np.round(X * 4) / 4  # with ties
    imported = check(
        f"""
        condition = {comparison}(x, t)
        where = Where(condition, one, minus)
        condition2 = {comparison}(x, zero)
        cast = Cast<to = 1>(condition2)
        """,
        {"x": x},
        {
            "t": np.float32([0.25, 0, -0.5, 1]).reshape(4, 1, 1),
            "zero": np.float32(0),
            "one": np.float32(1),
            "minus": np.float32([-1]),
        },
        exact=True,
    )
    name = {"Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less", "LessOrEqual": "less_equal"}
    assert operators(imported) == [name[comparison], "where", name[comparison], "astype"]


def test_poolings() -> None:
    imported = check(
        """
        max = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        max_padded = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
        max_ceil = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
        max_upper = MaxPool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
        max_dilated = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
        mean = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        mean_padded = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
        mean_counted = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 2], count_include_pad = 1>(x)
        mean_ceil = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
        mean_lower = AveragePool<kernel_shape = [2, 3], strides = [2, 2], auto_pad = "SAME_LOWER">(x)
        global = GlobalAveragePool(x)
        global_max = GlobalMaxPool(x)
        reduced = ReduceMean<keepdims = 1>(x, axes)
        reduced_flat = ReduceMean<keepdims = 0>(x, negative_axes)
        reduced_other = ReduceMean<keepdims = 0>(x, other_axes)
        """,
        {"x": X},
        {"axes": np.int64([2, 3]), "negative_axes": np.int64([-1, -2]), "other_axes": np.int64([1])},
    )
    found = operators(imported)
    assert found.count("nn.max_pool2d") == 6 and found.count("nn.avg_pool2d") == 5
    assert found.count("nn.adaptive_avg_pool2d") == 3


def test_shapes(rng: np.random.Generator) -> None:
    imported = check(
        """
        flat = Flatten(x)
        flat2 = Flatten<axis = -1>(x)
        reshaped = Reshape(x, to)
        squeezed = Squeeze(g, axes)
        squeezed_all = Squeeze(g)
        unsqueezed = Unsqueeze(x, axes)
        same = Identity(x)
        cast = Cast<to = 1>(x)
        zero_padded = Pad(x, amounts)
        padded = Pad(x, amounts, minus)
        padded_axes = Pad(x, two_amounts, minus, pad_axes)
        reflected = Pad<mode = "reflect">(x, amounts)
        transposed = Transpose<perm = [0, 2, 3, 1]>(x)
        joined = Concat<axis = 1>(x, x)
        a, b = Split<axis = 1, num_outputs = 2>(x)
        sliced = Slice(x, first, last, pad_axes)
        """,
        {"x": X, "g": normal(rng, 2, 3, 1, 1)},
        {
            "to": np.int64([0, -1, 9]),
            "axes": np.int64([2, 3]),
            "amounts": np.int64([0, 0, 1, 2, 0, 0, 0, 1]),
            "two_amounts": np.int64([1, 2, 0, 1]),
            "pad_axes": np.int64([3, -2]),
            "minus": np.float32(-1),
            "first": np.int64([1, 1]),
            "last": np.int64([5, 6]),
        },
        exact=True,
    )
    assert operators(imported).count("reshape") == 6
    assert operators(imported).count("nn.pad") == 3


def test_long_tail_through_tvm() -> None:
    check(
        """
        sigmoid = Sigmoid(x)
        tanh = Tanh(x)
        softmax = Softmax<axis = 1>(x)
        hard = HardSigmoid<alpha = 0.2, beta = 0.5>(x)
        power = Pow(x, two)
        absolute = Abs(x)
        gathered = Gather<axis = 1>(x, picks)
        picked = Gather<axis = -1>(x, one_pick)
        looked_up = Gather(x, indices)
        top = ReduceMax<keepdims = 0>(x, axes)
        """,
        {"x": X, "indices": np.int64([[1, 0, 1]])},
        {"two": np.float32(2), "picks": np.int64([2, -4]), "one_pick": np.int64(-2), "axes": np.int64([2])},
    )
