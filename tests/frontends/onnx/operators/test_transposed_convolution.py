"""ConvTranspose, and convolutions over one and three axes, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import X, build, check, operators
from tests.support.random_arrays import normal


def test_transposed_convolutions(rng: np.random.Generator) -> None:
    imported = check(
        """
        plain = ConvTranspose(x, w)
        strided = ConvTranspose<strides = [2, 3]>(x, w, b)
        square = ConvTranspose<strides = [2, 2]>(x, w2)
        wide_stride = ConvTranspose<strides = [4, 3]>(x, w2, b)
        padded = ConvTranspose<strides = [2, 2], pads = [1, 0, 2, 1]>(x, w, b)
        more = ConvTranspose<strides = [3, 2], output_padding = [2, 1], pads = [1, 1, 0, 1]>(x, w)
        dilated = ConvTranspose<strides = [2, 1], dilations = [2, 3], pads = [1, 1, 1, 1]>(x, w)
        grouped = ConvTranspose<strides = [2, 2], group = 2>(x, w, b6)
        depthwise = ConvTranspose<strides = [2, 2], group = 4, pads = [1, 1, 1, 1]>(x, w4, b4)
        upper = ConvTranspose<strides = [2, 3], auto_pad = "SAME_UPPER">(x, w)
        lower = ConvTranspose<strides = [2, 2], auto_pad = "SAME_LOWER">(x, w)
        valid = ConvTranspose<strides = [2, 2], auto_pad = "VALID">(x, w)
        shaped = ConvTranspose<strides = [2, 2], output_shape = [14, 17]>(x, w)
        larger = ConvTranspose<strides = [3, 3], output_shape = [23, 30], output_padding = [1, 1]>(x, w)
        upper_shaped = ConvTranspose<strides = [2, 2], output_shape = [14, 17], auto_pad = "SAME_UPPER">(x, w)
        """,
        {"x": X},
        {
            "w": normal(rng, 4, 3, 3, 4),
            "w2": normal(rng, 4, 3, 2, 2),
            "w4": normal(rng, 4, 1, 4, 4),
            "b": normal(rng, 3),
            "b4": normal(rng, 4),
            "b6": normal(rng, 6),
        },
    )
    assert "nn.conv2d_transpose" not in operators(imported)


def test_other_numbers_of_axes(rng: np.random.Generator) -> None:
    check(
        """
        t1 = ConvTranspose<strides = [3], pads = [1, 2], output_padding = [1]>(l, wt1, b)
        t3 = ConvTranspose<strides = [2, 1, 2], pads = [1, 0, 0, 0, 1, 1], dilations = [1, 2, 1]>(v, wt3, b)
        c1 = Conv<strides = [2], auto_pad = "SAME_LOWER", group = 2>(l, w1, b)
        c1_dilated = Conv<dilations = [2], pads = [3, 1]>(l, w1_all, b)
        c3 = Conv<strides = [2, 1, 2], auto_pad = "SAME_LOWER">(v, w3, b)
        c3_upper = Conv<strides = [1, 3, 2], auto_pad = "SAME_UPPER">(v, w3)
        """,
        {"l": normal(rng, 2, 4, 11), "v": normal(rng, 1, 2, 4, 5, 3)},
        {
            "wt1": normal(rng, 4, 6, 4),
            "wt3": normal(rng, 2, 6, 2, 3, 3),
            "w1": normal(rng, 6, 2, 4),
            "w1_all": normal(rng, 6, 4, 3),
            "w3": normal(rng, 6, 2, 2, 3, 2),
            "b": normal(rng, 6),
        },
    )


def test_weights_computed_at_run_time(rng: np.random.Generator) -> None:
    check(
        """
        y = ConvTranspose<strides = [2, 2], dilations = [1, 2]>(x, w, b)
        z = Conv(l, w1)
        """,
        {
            "x": X,
            "w": normal(rng, 4, 3, 3, 2),
            "b": normal(rng, 3),
            "l": normal(rng, 1, 3, 8),
            "w1": normal(rng, 2, 3, 3),
        },
    )


@pytest.mark.parametrize(
    "attributes, message",
    [
        ('auto_pad = "SAME"', "unknown auto_pad 'SAME'"),
        ("strides = [2]", r"has strides \[2\]"),
        ("pads = [9, 9, 9, 9]", "expected at least 1"),
        ("group = 3", r"in 3 group\(s\)"),
        ("kernel_shape = [5, 5]", r"kernel_shape \[5, 5\]"),
    ],
)
def test_refusals(attributes: str, message: str, rng: np.random.Generator) -> None:
    model = build(f"y = ConvTranspose<{attributes}>(x, w)", {"x": X}, {"w": normal(rng, 4, 3, 2, 2)}, outputs=["y"])
    model.graph.output[0].type.tensor_type.elem_type = 1
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
