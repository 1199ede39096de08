"""Shifts of groups of channels over the image: recognised, and done on packed bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.passes.relax.shifts import shifts_of
from sbnn_tvm.schedules.bits.shifts import shift_bits
from sbnn_tvm.schedules.layouts.words import pack_channels
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.small_models import small_model


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("shape", [(1, 5, 7, 8), (2, 4, 3, 131), (1, 1, 6, 64), (2, 20, 40, 192)], ids=str)
def test_shift_bits(shape: tuple[int, int, int, int], target_name: str) -> None:
    target, rng = target_for(target_name), np.random.default_rng(0)
    bits = rng.integers(0, 2, shape).astype(bool)
    by_word = np.repeat(rng.integers(-9, 10, (-(-shape[3] // 64), 2)), 64, axis=0)[: shape[3]]
    by_channel = rng.integers(-2, 3, (shape[3], 2))
    for shifts in (by_word, by_channel):
        moved = [np.roll(bits[..., c], tuple(shift), (1, 2)) for c, shift in enumerate(shifts)]
        (words,) = run(shift_bits(shape, shifts, target.isa), target, pack_channels(bits, target.isa))
        np.testing.assert_array_equal(words, pack_channels(np.stack(moved, -1), target.isa))


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
    torch.manual_seed(0)
    module = sbnn_tvm.compile(Branches(channels).eval(), target, input_shape=(2, channels, 6, 5), strict=True)
    assert module.verify().passed
    kinds = [layer.kind for layer in module.report.layers]
    assert kinds.count("shift of bits") == 2 and kinds.count("binary conv 1x1") == 3 and len(kinds) == 6


BITS = "c = Greater(x, zero)\nb = Where(c, one, minus)\n"
NUMBERS = {"zero": 0.0, "one": 1.0, "minus": -1.0, "first": [0], "second": [1], "last": [-1], "end": [99], "rows": [2]}
WEIGHT = {"w": np.random.default_rng(0).choice(np.float32([-1, 1]), (8, 40, 1, 1))}
ROLL = "top = Slice(b, first, last, rows)\nbottom = Slice(b, last, end, rows)\n"


@pytest.mark.parametrize(
    "text, kinds",
    [
        (ROLL + "r = Concat <axis = 2> (bottom, top)", ["shift of bits"]),
        (ROLL + "s = Concat <axis = 2> (bottom, top)\nr = Gather <axis = 1> (s, order)",
         ["channels of bits: permutation", "shift of bits"]),
        ("top = Slice(b, second, end, rows)\nbottom = Slice(b, last, end, rows)\n"
         "r = Concat <axis = 2> (top, bottom)", ["strided_slice", "strided_slice", "concat"]),
    ],
    ids=["rows", "rows and channels", "the last row twice"],
)  # fmt: skip
def test_slices_and_concatenations(text: str, kinds: list[str]) -> None:
    constants = {name: np.array(value) if isinstance(value, list) else value for name, value in NUMBERS.items()}
    constants |= WEIGHT | {"order": np.random.default_rng(1).permutation(40)}
    used = {name: value for name, value in constants.items() if name in (BITS + text).replace("(", " ").replace(
        ")", " ").replace(",", " ").split() or name == "w"}  # fmt: skip
    model = small_model(BITS + text + "\ny = Conv(r, w)", {"x": (2, 40, 6, 5)}, used)
    module = sbnn_tvm.compile(model)
    assert module.verify(np.random.default_rng(2).standard_normal((2, 40, 6, 5)).astype(np.float32)).passed
    found = [layer.kind for layer in module.report.layers if layer.kind not in ("elementwise", "binary conv 1x1")]
    assert found == kinds
