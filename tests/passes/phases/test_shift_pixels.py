"""Shifts of groups of channels over the image are recognised and stay on bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.passes.relax.shifts import shifts_of
from tests.support.random_arrays import normal, signs
from tests.support.small_models import small_model


def test_shifts_of_indices() -> None:
    indices = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    moved = np.stack([np.roll(indices[2], 1, 0), np.roll(indices[0], (-1, 2), (0, 1)), indices[2]])
    found = shifts_of(moved)
    assert found is not None
    np.testing.assert_array_equal(found[0], [2, 0, 2])
    np.testing.assert_array_equal(found[1], [[1, 0], [3, 2], [0, 0]])
    assert shifts_of(moved[:, ::-1]) is None
    assert shifts_of(np.stack([moved[0], moved[1], np.where(moved[2] % 2, moved[2], moved[1])])) is None


class Branches(nn.Module):
    """Three binary 1x1 convolutions of a map and two shifts of it, summed: a block of BCDNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.binarize = Binarize(channels, learned=True)
        self.convs = nn.ModuleList(BinaryConv2d(channels, channels, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = self.binarize(x)
        return self.norm(self.convs[0](bits) + self.convs[1](roll(bits, 1)) + self.convs[2](roll(bits, 3))) + x


def roll(x: torch.Tensor, by: int) -> torch.Tensor:
    parts = torch.chunk(x, 4, dim=1)
    directions = ((by, 2), (-by, 2), (by, 3), (-by, 3))
    return torch.cat([torch.roll(part, n, axis) for part, (n, axis) in zip(parts, directions, strict=True)], dim=1)


@pytest.mark.parametrize("channels, target", [(64, "native"), (44, "native"), (44, "arm")])
def test_blocks_of_shifted_branches(channels: int, target: str) -> None:
    module = sbnn_tvm.compile(Branches(channels).eval(), target, input_shape=(2, channels, 6, 5), strict=True)
    assert module.verify().passed
    kinds = [layer.kind for layer in module.report.layers]
    assert kinds.count("shift of bits") == 2 and kinds.count("binary conv 1x1") == 3 and len(kinds) == 6


BITS = "c = Greater(x, zero)\nb = Where(c, one, minus)\n"
NUMBERS = {"zero": 0.0, "one": 1.0, "minus": -1.0, "first": [0], "second": [1], "last": [-1], "end": [99], "rows": [2]}
ROLL = "top = Slice(b, first, last, rows)\nbottom = Slice(b, last, end, rows)\n"


@pytest.mark.parametrize(
    "text, kinds",
    [
        (ROLL + "r = Concat <axis = 2> (bottom, top)", ["shift of bits"]),
        (ROLL + "s = Concat <axis = 2> (bottom, top)\nr = Gather <axis = 1> (s, order)",
         ["channels of bits: permutation", "shift of bits"]),
        ("top = Slice(b, second, end, rows)\nbottom = Slice(b, last, end, rows)\n"
         "r = Concat <axis = 2> (top, bottom)", ["channels of bits: 6x5 of 6x5 pixels"]),
    ],
    ids=["rows", "rows and channels", "the last row twice"],
)  # fmt: skip
def test_slices_and_concatenations(text: str, kinds: list[str], rng: np.random.Generator) -> None:
    constants = {name: np.array(value) if isinstance(value, list) else value for name, value in NUMBERS.items()}
    constants |= {"w": signs(rng, 8, 40, 1, 1), "order": rng.permutation(40)}
    used = {name: value for name, value in constants.items() if name in (BITS + text).replace("(", " ").replace(
        ")", " ").replace(",", " ").split() or name == "w"}  # fmt: skip
    model = small_model(BITS + text + "\ny = Conv(r, w)", {"x": (2, 40, 6, 5)}, used)
    module = sbnn_tvm.compile(model)
    assert module.verify(normal(rng, 2, 40, 6, 5)).passed
    found = [layer.kind for layer in module.report.layers if layer.kind not in ("elementwise", "binary conv 1x1")]
    assert found == kinds
