"""What quantisers write: the nodes that PyTorch, torchao, Brevitas and onnxruntime export for a quantised layer."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from tests.support.imports import build, check

IMAGES = (1, 4, 6, 5)


def codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def powers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Scales with which sums of products are exact in float32, so that their order does not matter."""
    return (2.0 ** rng.integers(-7, -4, shape)).astype(np.float32)


def test_layers(rng: np.random.Generator) -> None:
    """A convolution with scales by channel (PyTorch's pt2e), with Clip and an int32 bias (Brevitas' QCDQ)."""
    check(
        """
        q = QuantizeLinear<axis = 1>(x, s, z)
        d = DequantizeLinear<axis = 1>(q, s, z)
        w = DequantizeLinear<axis = 0>(weight, scales, zeros)
        c = Conv<pads = [1, 1, 1, 1]>(d, w, bias)
        r = Relu(c)
        rq = QuantizeLinear<axis = 1>(r, s, z)
        pt2e = DequantizeLinear<axis = 1>(rq, s, z)
        sq = QuantizeLinear(x, s, z8)
        narrow = Clip(sq, low, high)
        sd = DequantizeLinear(narrow, s, z8)
        k = DequantizeLinear<axis = 0>(codes32, bias_scales, zeros32)
        bw = Clip(weight, low, high)
        bd = DequantizeLinear<axis = 0>(bw, scales, zeros)
        bc = Conv<group = 1>(sd, bd, k)
        bq = QuantizeLinear(bc, s, z8)
        bq2 = Clip(bq, low, high)
        qcdq = DequantizeLinear(bq2, s, z8)
        """,
        {"x": (rng.integers(-200, 200, IMAGES) / 32).astype(np.float32)},
        {
            "s": np.float32(0.0625),
            "z": np.uint8(128),
            "z8": np.int8(0),
            "weight": codes(rng, 3, 4, 3, 3),
            "scales": powers(rng, 3),
            "zeros": np.zeros(3, np.int8),
            "bias": powers(rng, 3),
            "codes32": rng.integers(-999, 999, 3).astype(np.int32),
            "bias_scales": powers(rng, 3) * np.float32(0.0625),
            "zeros32": np.zeros(3, np.int32),
            "low": np.int8(-127),
            "high": np.int8(127),
        },
        version=14,
        exact=True,
    )


def test_weights_alone_and_ranges_at_run_time(rng: np.random.Generator) -> None:
    """Dense layers whose weights alone have 8 bits (torchao), and with activations of a range found at run time."""
    check(
        """
        f = Cast<to = 1>(weight)
        p = MatMul(x, f)
        weights_alone = Mul(p, scales)
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, small, z, zeros)
        j = Cast<to = 1>(i)
        both = Mul(s, scales)
        dynamic = Mul(j, both)
        """,
        {"x": (rng.integers(-200, 200, (3, 8)) / 32).astype(np.float32)},
        {
            "weight": codes(rng, 8, 5),
            "small": rng.integers(-64, 64, (8, 5)).astype(np.int8),
            "scales": powers(rng, 5),
            "zeros": np.zeros(5, np.int8),
        },
        version=14,
        exact=True,
    )


@pytest.mark.parametrize("order", ["Cast Sub Div Transpose", "Cast Transpose Sub Div", "Transpose Cast Sub Div"])
def test_images_of_bytes(rng: np.random.Generator, order: str) -> None:
    """Pixels of uint8, channels last, are normalised exactly wherever the transposition stands."""
    mean, deviation = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
    shape = (3,) if order.endswith("Transpose") else (3, 1, 1)
    forms = {
        "Cast": "Cast<to = 1>({})",
        "Transpose": "Transpose<perm = [0, 3, 1, 2]>({})",
        "Sub": "Sub({}, mean)",
        "Div": "Div({}, deviation)",
    }
    names = ["image", *(f"v{index}" for index in range(4))]
    lines = [f"{names[i + 1]} = {forms[step].format(names[i])}" for i, step in enumerate(order.split())]
    check(
        "\n".join(lines),
        {"image": rng.integers(0, 256, (1, 7, 6, 3)).astype(np.uint8)},
        {"mean": mean.reshape(shape), "deviation": deviation.reshape(shape)},
        exact=True,
    )


def test_a_range_found_at_run_time_compiles(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 8)).astype(np.float32)
    module = sbnn_tvm.compile(build("q, s, z = DynamicQuantizeLinear(x)", {"x": x}, version=11))
    assert module.verify(samples=2).passed
