"""Quantised values, and products of integers, against onnxruntime, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import build, check, run_imported
from tests.support.random_arrays import normal

TYPES = ("uint8", "int8", "uint16", "int16")


def awkward(rng: np.random.Generator) -> np.ndarray:
    """Numbers with halves, with values far out of range, infinities and a NaN: [2, 4, 6]."""
    x = (rng.integers(-600, 600, (2, 4, 6)) / 4).astype(np.float32)
    x[0, 0] = [0.5, 1.5, 2.5, -0.5, -1.5, 1e9]
    x[0, 1] = [np.nan, np.inf, -np.inf, -0.0, 3e38, -3e38]
    return x


def test_quantize_linear(rng: np.random.Generator) -> None:
    x = awkward(rng)
    constants: dict[str, np.ndarray] = {
        "one": np.float32(1),
        "third": np.float32(0.3),
        "scales": np.float32([0.5, 0.1, 1, 2]),
        "blocks": (rng.integers(1, 5, (2, 4, 2)) / 4).astype(np.float32),
        "half": np.float16(0.3),
    }
    lines = ["plain = QuantizeLinear(x, third)", "wide = QuantizeLinear<output_dtype = 5>(x, third)"]
    for dtype in TYPES:
        constants |= {
            f"z_{dtype}": np.array(3, dtype),
            f"zs_{dtype}": np.array([3, 0, 1, 2], dtype),
            f"zb_{dtype}": rng.integers(0, 5, (2, 4, 2)).astype(dtype),
        }
        lines += [
            f"one_{dtype} = QuantizeLinear(x, one, z_{dtype})",
            f"axis_{dtype} = QuantizeLinear<axis = -2>(x, scales, zs_{dtype})",
            f"blocks_{dtype} = QuantizeLinear<axis = 2, block_size = 3>(x, blocks, zb_{dtype})",
        ]
    lines += ["half_u = QuantizeLinear(h, half, z_uint8)", "half_s = QuantizeLinear(h, half, z_int8)"]
    check("\n".join(lines), {"x": x, "h": normal(rng, 2, 9).astype(np.float16) * 60}, constants, exact=True)


def test_dequantize_linear(rng: np.random.Generator) -> None:
    inputs: dict[str, np.ndarray] = {"int32": rng.integers(-1000, 1000, (2, 4, 6)).astype(np.int32)}
    constants = {
        "third": np.float32(0.3),
        "scales": np.float32([0.5, 0.1, 1, 2]),
        "blocks": rng.uniform(0.1, 2, (2, 4, 2)).astype(np.float32),
        "half": np.float16(0.3),
    }
    lines = ["wide = DequantizeLinear(int32, third)"]
    for dtype in TYPES:
        inputs[dtype] = rng.integers(*(np.iinfo(dtype).min, np.iinfo(dtype).max + 1), (2, 4, 6)).astype(dtype)
        constants |= {
            f"z_{dtype}": np.array(3, dtype),
            f"zs_{dtype}": np.array([3, 0, 1, 2], dtype),
            f"zb_{dtype}": rng.integers(0, 5, (2, 4, 2)).astype(dtype),
        }
        lines += [
            f"one_{dtype} = DequantizeLinear({dtype}, third, z_{dtype})",
            f"axis_{dtype} = DequantizeLinear({dtype}, scales, zs_{dtype})",
            f"blocks_{dtype} = DequantizeLinear<axis = 2, block_size = 3>({dtype}, blocks, zb_{dtype})",
        ]
    lines.append("halves = DequantizeLinear(uint8, half, z_uint8)")
    check("\n".join(lines), inputs, constants, exact=True)


def test_scales_computed_at_run_time(rng: np.random.Generator) -> None:
    check(
        """
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        blocks = QuantizeLinear<axis = 1, block_size = 2>(x, b)
        """,
        {
            "x": normal(rng, 2, 4, 6),
            "s": np.float32([0.5, 0.1, 1, 2]),
            "z": np.uint8([3, 0, 1, 2]),
            "b": rng.uniform(0.1, 2, (2, 2, 6)).astype(np.float32),
        },
        exact=True,
    )


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_dynamic_quantize_linear(shift: float, rng: np.random.Generator) -> None:
    x = np.clip(normal(rng, 3, 17) + np.float32(shift), *((-9, 9) if not shift else sorted((0.5 * shift, 9 * shift))))
    check("y, s, z = DynamicQuantizeLinear(x)", {"x": x.astype(np.float32)}, version=11, exact=True)


# Weights have seven bits: onnxruntime's kernels for AVX2 without VNNI add two products of uint8 and int8 in 16 bits,
# which saturates.
def test_integer_convolutions(rng: np.random.Generator) -> None:
    check(
        """
        plain = ConvInteger(x, w_all)
        shifted = ConvInteger<group = 2, pads = [1, 0, 1, 1], strides = [2, 1]>(x, w, xz, wz)
        line = ConvInteger<pads = [1, 2], dilations = [2]>(l, wl, xz)
        quantised = QLinearConv<group = 2, pads = [1, 1, 1, 1]>(x, xs, xz, w, ws, wz0, ys, yz, b)
        by_channel = QLinearConv<group = 2, auto_pad = "SAME_LOWER", strides = [2, 2]>(x, xs, xz, w, wss, wzs, ys, yz)
        """,
        {
            "x": rng.integers(0, 256, (2, 4, 7, 9)).astype(np.uint8),
            "l": rng.integers(0, 256, (2, 4, 9)).astype(np.uint8),
        },
        {
            "w_all": rng.integers(0, 256, (3, 4, 3, 3)).astype(np.uint8),
            "w": rng.integers(-64, 64, (6, 2, 3, 3)).astype(np.int8),
            "wl": rng.integers(-64, 64, (6, 4, 3)).astype(np.int8),
            "xz": np.uint8(3),
            "wz": np.int8(2),
            "wz0": np.int8(0),
            "xs": np.float32(0.02),
            "ws": np.float32(0.01),
            "wss": rng.uniform(0.005, 0.02, 6).astype(np.float32),
            "wzs": np.zeros(6, np.int8),
            "ys": np.float32(0.05),
            "yz": np.uint8(100),
            "b": rng.integers(-2000, 2000, 6).astype(np.int32),
        },
        exact=True,
    )


def test_integer_matrix_products(rng: np.random.Generator) -> None:
    check(
        """
        plain = MatMulInteger(a, b)
        shifted = MatMulInteger(a, b, az, bzs)
        quantised = QLinearMatMul(a, s, az, b, s, bz, ys, yz)
        by_column = QLinearMatMul(a, s, az, b, ss, bzs, ys, yz)
        """,
        {
            "a": rng.integers(0, 256, (2, 3, 8)).astype(np.uint8),
            "b": rng.integers(-64, 64, (8, 5)).astype(np.int8),
        },
        {
            "az": np.uint8(3),
            "bz": np.int8(2),
            "bzs": np.int8([1, 2, 3, 4, 5]),
            "s": np.float32(0.02),
            "ss": rng.uniform(0.01, 0.03, 5).astype(np.float32),
            "ys": np.float32(0.5),
            "yz": np.uint8(100),
        },
        exact=True,
    )


def test_zero_points_by_row_which_onnxruntime_lacks(rng: np.random.Generator) -> None:
    inputs = {
        "a": rng.integers(0, 256, (3, 8)).astype(np.uint8),
        "b": rng.integers(-128, 128, (8, 5)).astype(np.int8),
    }
    zero_points = {"az": np.uint8([[1], [2], [3]]), "bz": np.int8([1, 2, 3, 4, 5])}
    model = build("y = MatMulInteger(a, b, az, bz)", inputs, zero_points)
    (got,) = run_imported(import_onnx(model), inputs)
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "text, message",
    [
        ("y = QuantizeLinear<axis = 5>(x, s)", "has axis 5"),
        ("y = QuantizeLinear<axis = 0>(x, s)", r"axis 0 needs \[2\]"),
        ("y = QuantizeLinear<axis = 1, block_size = 2>(x, s)", r"blocks of 2 need \[2, 2, 6\]"),
        ("y = QuantizeLinear<axis = 1, precision = 10>(x, s)", "divides in float16, which onnxruntime does not"),
    ],
)
def test_refusals(text: str, message: str, rng: np.random.Generator) -> None:
    constants = {"s": np.float32([1, 2, 3, 4])}
    model = build(text, {"x": normal(rng, 2, 4, 6)}, constants, version=23, outputs=["y"])
    model.graph.output[0].type.tensor_type.elem_type = 2
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
