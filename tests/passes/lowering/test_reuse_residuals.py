"""Residual sums reuse the memory of the shortcut: only if nothing reads it later, and with equal results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax, tirx, transform
from tvm.ir import Call, GlobalVar

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.passes.lowering.reuse_residuals import reuse_residuals
from tests.support.grids import every


class Residual(nn.Module):
    """Two binary layers with shortcuts.

    Args:
        more: Another use of the stem's map r or the first sum y: ``"late"`` also returns r, ``"output"`` also returns
            y, ``"twice"`` multiplies y by r. With ``"input"``, r is the input of the model.
    """

    def __init__(self, more: str) -> None:
        super().__init__()
        self.more = more
        self.stem = nn.Conv2d(8, 24, 1)
        self.binarize = Binarize()
        self.first, self.second = (BinaryConv2d(24, 24, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList([nn.BatchNorm2d(24), nn.BatchNorm2d(24)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        r = x if self.more == "input" else self.stem(x)
        y = self.norms[0](self.first(self.binarize(r))) + r
        if self.more == "twice":
            y = y * r
        z = self.norms[1](self.second(self.binarize(y))) + y
        return {"late": (z, r), "output": (z, y)}.get(self.more, (z,))


def in_place(module: sbnn_tvm.CompiledModule) -> int:
    """The number of kernel calls that store into an operand. Checks that every kernel has a call."""
    steps = [relax.transform.ToNonDataflow(), relax.transform.RemovePurityChecking(), relax.transform.CallTIRRewrite()]
    mod = reuse_residuals(transform.Sequential(steps)(module.lowered.mod))
    functions = [func for func in mod.functions.values() if isinstance(func, relax.Function)]
    values = [binding.value for func in functions for block in func.body.blocks for binding in block.bindings]
    calls = [value for value in values if isinstance(value, Call) and isinstance(value.op, GlobalVar)]
    kernels = {gvar.name_hint for gvar, func in mod.functions.items() if isinstance(func, tirx.PrimFunc)}
    assert {call.op.name_hint for call in calls} == kernels
    variables = [[arg for arg in call.args if isinstance(arg, relax.Var)] for call in calls]
    return sum(len(set(each)) < len(each) for each in variables)


@pytest.mark.parametrize(
    ("more", "family", "target", "count"),
    every(
        2,
        [
            ("", "counters", "native", 2),
            ("", "counters", "x86-64-v3", 2),
            ("late", "counters", "native", 1),
            ("", "counters", "arm", 2),
            ("twice", "counters", "native", 1),
            ("", "popcount", "native", 0),
            ("input", "counters", "native", 2),  # the kernels read a channels-last copy of the input
            ("output", "counters", "native", 1),
        ],
    ),
)
def test_residuals(more: str, family: str, target: str, count: int) -> None:
    model = Residual(more).eval()
    shape = (2, 24 if more == "input" else 8, 9, 7)
    module = sbnn_tvm.compile(model, target, input_shape=shape, kernels={"first": family, "second": family})
    assert in_place(module) == count
    if module.target.native or target == "arm":
        assert module.verify(samples=2).passed


def test_inputs_stay_as_they_are(rng: np.random.Generator) -> None:
    """A map of one pixel needs no layout conversion, so the kernel reads the caller's own memory."""
    model = Residual("input").eval()
    module = sbnn_tvm.compile(model, input_shape=(1, 24, 1, 1), kernels={"first": "counters", "second": "counters"})
    x = rng.standard_normal((1, 24, 1, 1)).astype(np.float32)
    before = x.copy()
    first, second = (module.run(x) for _ in range(2))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(first, second)
