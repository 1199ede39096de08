"""Transposed convolutions and pixel shuffles: bits and codes are interleaved, and results equal onnxruntime's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.binarised_models import BINARIZE, binarized, check_exactly, kinds
from tests.support.random_arrays import quarters, signs
from tests.support.small_models import small_model


def _bits(
    rng: np.random.Generator, attributes: str, kernel: tuple[int, int], outputs: int, groups: int = 1
) -> list[str]:
    text = (
        binarized("b", "x")
        + f"c = ConvTranspose<group = {groups}, {attributes}>(b, w)\ns = Add(c, shift)\n"
        + binarized("d", "s")
        + "y = Conv<pads = [1, 1, 1, 1]>(d, v)"
    )
    constants = {
        **BINARIZE,
        "w": signs(rng, 32, outputs // groups, *kernel),
        "shift": quarters(rng, outputs, 1, 1),
        "v": signs(rng, 9, outputs, 3, 3),
    }
    return kinds(check_exactly(small_model(text, {"x": (2, 32, 4, 3)}, constants)))


def test_bits(rng: np.random.Generator) -> None:
    """Phases of different sizes have binary convolutions of their own; codes of bits are interleaved."""
    found = _bits(rng, "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 0]", (3, 3), 24)
    sizes = ["binary conv 1x1", "binary conv 1x2", "binary conv 2x1", "binary conv 2x2"]
    assert found == ["elementwise", *sizes, "interleaving of bits", "binary conv 3x3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "kernel", "outputs", "groups"),
    [
        ("strides = [2, 2]", (2, 2), 64, 1),
        ("strides = [2, 2]", (2, 2), 40, 1),
        ("strides = [3, 2], pads = [1, 0, 0, 1]", (5, 2), 32, 1),
        ("strides = [2, 2], pads = [1, 1, 1, 1], dilations = [3, 1]", (3, 4), 32, 1),
        ("strides = [2, 1], pads = [1, 1, 1, 1]", (4, 3), 64, 2),
        ("strides = [1, 1], pads = [1, 1, 1, 1]", (3, 3), 32, 1),
    ],
)
def test_more_bits(
    attributes: str, kernel: tuple[int, int], outputs: int, groups: int, rng: np.random.Generator
) -> None:
    found = _bits(rng, attributes, kernel, outputs, groups)
    assert all(kind.startswith("binary conv") for kind in found[1:] if "interleaving" not in kind)


_CODES = """
xq = QuantizeLinear(x, s, z)
xd = DequantizeLinear(xq, s, z)
wd = DequantizeLinear<axis = 1>(w, ws, wz)
c = ConvTranspose<{attributes}>(xd, wd, b)
r = Relu(c)
q = QuantizeLinear(r, s, z)
d = DequantizeLinear(q, s, z)
vd = DequantizeLinear(v, s, wz0)
y = Conv(d, vd)
"""


@pytest.mark.parametrize(
    ("attributes", "kernel", "layers"),
    [
        ("strides = [2, 2]", (2, 2), 1),
        pytest.param("strides = [2, 2], pads = [1, 1, 1, 1]", (3, 3), 4, marks=pytest.mark.slow),
        pytest.param("strides = [1, 2], pads = [1, 1, 1, 1]", (3, 4), 2, marks=pytest.mark.slow),
    ],
)
def test_codes(attributes: str, kernel: tuple[int, int], layers: int, rng: np.random.Generator) -> None:
    """Per channel, with scales for which the reference's sums of floats are exact."""
    constants = {
        "s": np.float32(0.25),
        "z": np.uint8(7),
        "w": rng.integers(-127, 128, (5, 16, *kernel)).astype(np.int8),
        "ws": (2.0 ** rng.integers(-6, -3, 16)).astype(np.float32),
        "wz": np.zeros(16, np.int8),
        "b": quarters(rng, 16),
        "v": rng.integers(-127, 128, (3, 16, 1, 1)).astype(np.int8),
        "wz0": np.int8(0),
    }
    module = check_exactly(small_model(_CODES.format(attributes=attributes).strip(), {"x": (1, 5, 4, 3)}, constants))
    found = kinds(module)
    assert sum(kind.startswith("integer conv") for kind in found) == layers + 1
    assert found.count("interleaving") == 1 and found[-1] == "integer conv 1x1"
    assert found.count("elementwise") == 1


@pytest.mark.parametrize("mode", [pytest.param("DCR", marks=pytest.mark.slow), "CRD"])
def test_pixel_shuffle(mode: str, rng: np.random.Generator) -> None:
    """The convolution before computes its channels in the order of the phases."""
    text = (
        binarized("b", "x")
        + f'c = Conv(b, w)\np = DepthToSpace<blocksize = 2, mode = "{mode}">(c)\ns = Add(p, shift)\n'
        + binarized("d", "s")
        + "y = Conv(d, v)"
    )
    constants = {
        **BINARIZE,
        "w": signs(rng, 40, 32, 1, 1),
        "shift": quarters(rng, 10, 1, 1),
        "v": signs(rng, 3, 10, 2, 2),
    }
    module = check_exactly(small_model(text, {"x": (1, 32, 3, 2)}, constants))
    assert kinds(module)[1:3] == ["binary conv 1x1", "interleaving of bits"]
