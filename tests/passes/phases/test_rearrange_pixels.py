"""Networks that slice, pad, repeat and upsample rows and columns: one kernel each, on bits where values are bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional

import sbnn_tvm
from tests.support.binarised_models import BINARIZE, binarized, check_exactly, kinds
from tests.support.random_arrays import signs
from tests.support.small_models import small_model

PIXELS = {
    "crop": ("p = Slice(b, from, to, axes)", {"from": [1, 2], "to": [4, 5], "axes": [2, 3]}, "3x3 of 5x6 pixels"),
    "every second": (
        "p = Slice(b, from, to, axes, steps)",
        {"from": [1, 0], "to": [9, 9], "axes": [2, 3], "steps": [2, 2]},
        "2x3 of 5x6 pixels",
    ),
    "reflect": ('p = Pad<mode="reflect">(b, pads)', {"pads": [0, 0, 1, 2, 0, 0, 1, 0]}, "7x8 of 5x6 pixels"),
    "edge": ('p = Pad<mode="edge">(b, pads)', {"pads": [0, 0, 0, 2, 0, 0, 1, 0]}, "6x8 of 5x6 pixels"),
    "upsampling": (
        'p = Resize<mode="nearest">(b, none, scales)',
        {"none": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 3], np.float32)},
        "10x18 of 5x6 pixels",
    ),
    "padded with a value of the bits": (
        "p = Pad(b, pads, lo)\nu = Relu(p)",
        {"pads": [0, 0, 1, 0, 0, 0, 1, 1]},
        "7x7 of 5x6 pixels",
    ),
    "channels and rows": (
        "q = Gather<axis=1>(b, picks)\np = Slice(q, from, to, axes)",
        {"picks": np.arange(39, -1, -1), "from": [1], "to": [4], "axes": [2]},
        "permutation, 3x6 of 5x6 pixels",
    ),
}


def pixel_model(name: str, rng: np.random.Generator) -> onnx.ModelProto:
    text, constants, _ = PIXELS[name]
    arrays = {key: np.array(value) for key, value in constants.items()}
    text = binarized("b", "x") + text + "\ny = Conv(p, w)"
    outputs = ("y", "u") if "u = " in text else ("y",)
    return small_model(text, {"x": (2, 40, 5, 6)}, {**BINARIZE, "w": signs(rng, 40, 40, 1, 1), **arrays}, outputs)


@pytest.mark.parametrize("name", PIXELS)
def test_bits_stay_packed(name: str, rng: np.random.Generator) -> None:
    module = check_exactly(pixel_model(name, rng))
    assert f"channels of bits: {PIXELS[name][2]}" in kinds(module) and "binary conv 1x1" in kinds(module)


def test_bits_stay_packed_on_arm(rng: np.random.Generator) -> None:
    check_exactly(pixel_model("channels and rows", rng), "arm")


def test_a_binariser_moves_before_an_upsampling(rng: np.random.Generator) -> None:
    text = (
        'p = Relu(x)\nu = Resize<mode="nearest">(p, none, scales)\nm = Mul(u, s)\n'
        + binarized("b", "m")
        + "y = Conv(b, w)"
    )
    constants = {"none": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32), "t": 0.5}
    constants |= {"hi": 1.0, "lo": -1.0, "s": signs(rng, 33, 1, 1), "w": signs(rng, 4, 33, 3, 3)}
    module = check_exactly(small_model(text, {"x": (1, 33, 4, 4)}, constants))
    assert kinds(module)[:2] == ["elementwise", "channels of bits: 8x8 of 4x4 pixels"]


def test_codes_are_sliced_and_padded(rng: np.random.Generator) -> None:
    text = (
        "q = Clip(x, zero, one)\nr = Mul(q, three)\nd = Round(r)\ne = Div(d, three)\n"
        "p = Slice(e, from, to, axes, steps)\nf = Pad(p, pads, one)\ny = Conv(f, w)\nz = Relu(f)"
    )
    constants = {"zero": 0.0, "one": 1.0, "three": 3.0, "w": signs(rng, 8, 40, 3, 3)}
    constants |= {"from": np.array([0, 1]), "to": np.array([9, 9]), "axes": np.array([2, 3]), "steps": np.array([2, 1])}
    model = small_model(
        text, {"x": (2, 40, 5, 6)}, {**constants, "pads": np.array([0, 0, 1, 0, 0, 0, 1, 1])}, ("y", "z")
    )
    module = sbnn_tvm.compile(model)
    assert "channels of bits: 5x6 of 5x6 pixels" in kinds(module) and module.verify().passed


class Shortcut(nn.Module):
    """Blocks of a CIFAR ResNet: the shortcut takes every second pixel and pads channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(16, 32, 3, 2, 1), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        every_second = x[:, :, ::2, ::2]
        if self.how == "pad":
            shortcut = functional.pad(every_second, (0, 0, 0, 0, 8, 8))
        elif self.how == "zeros":
            shortcut = torch.cat([every_second, torch.zeros_like(every_second)], 1)
        else:
            shortcut = every_second.repeat(1, 2, 1, 1)
        return functional.relu(self.conv(x) + shortcut)


@pytest.mark.parametrize("how", ["pad", "zeros", "repeat"])
def test_shortcuts_are_one_kernel(how: str) -> None:
    module = sbnn_tvm.compile(Shortcut(how).eval(), input_shape=(2, 16, 9, 7), strict=True)
    assert module.verify().passed
    assert sorted(kind.split(":")[0] for kind in kinds(module)) == ["channels", "conv 3x3/2"]


def test_a_roll_of_floats_is_a_selection(rng: np.random.Generator) -> None:
    text = "a = Slice(x, first, last, rows)\nb = Slice(x, last, end, rows)\ny = Concat<axis=2>(b, a)"
    constants = {"first": np.array([0]), "last": np.array([-2]), "end": np.array([99]), "rows": np.array([2])}
    module = check_exactly(small_model(text, {"x": (2, 5, 6, 3)}, constants))
    assert kinds(module) == ["channels: 6x3 of 6x3 pixels"]


def test_pixels_that_become_channels_are_slices_and_a_concatenation() -> None:
    class SpaceToDepth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)

    module = sbnn_tvm.compile(SpaceToDepth().eval(), input_shape=(2, 5, 8, 6), strict=True)
    assert module.verify().passed and kinds(module)[-1] == "channels: concatenation"


def test_samples_of_a_batch_are_left_to_tvm() -> None:
    x = helper.make_tensor_value_info("x", 1, [4, 3, 2, 2])
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=0, num_outputs=2),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", 1, [2, 3, 2, 2])])
    module = sbnn_tvm.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    assert module.verify().passed
