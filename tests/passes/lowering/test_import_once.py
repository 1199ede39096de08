"""The LLVM functions of a module's kernels are imported together."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.passes.lowering.import_once import import_once


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3", "arm", "armv7"])
def test_import_once(target: str) -> None:
    torch.manual_seed(0)
    binary = [[Binarize(), BinaryConv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.PReLU(24)] for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 24, 3), *(layer for layers in binary for layer in layers)).eval()
    module = sbnn_tvm.compile(model, target, input_shape=(1, 3, 9, 9))
    before, after = (mod.script() for mod in (module.lowered.mod, import_once(module.lowered.mod)))
    assert len(re.findall("pragma_import_llvm", before)) > 1
    assert len(re.findall("pragma_import_llvm", after)) == 1
    for what in (r"define [^@]*@(\w+)\(", r"declare [^@]*@([\w.]+)\("):
        assert set(re.findall(what, after)) == set(re.findall(what, before))
        assert all(count == 1 for count in Counter(re.findall(what, after)).values())
