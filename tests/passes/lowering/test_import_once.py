"""The LLVM functions of a module's kernels are imported together."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
import tvm
from torch import nn

import sbnn_tvm
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.passes.lowering.import_once import import_once
from sbnn_tvm.passes.lowering.raw_kernels import raw_kernels
from sbnn_tvm.schedules.layouts.bit_planes import plane_layout
from sbnn_tvm.schedules.layouts.plane_conversions import planes_to_words, words_to_planes


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


@pytest.mark.parametrize("name, functions", [("arm", 1), ("riscv64", 1), ("aarch64-apple-macos", 0)])
def test_kernels_share_the_transpose_of_bits(name: str, functions: int) -> None:
    target = resolve(name)
    layout = plane_layout(1, 9, 9, 65, target.isa)
    kernels = {"before": words_to_planes(layout, target.isa), "after": planes_to_words(layout, target.isa)}
    mod = tvm.IRModule({key: kernel.func.with_attr("global_symbol", key) for key, kernel in kernels.items()})
    raw = raw_kernels(mod, target.target, "model_")
    code = raw.code.inspect_source("ll")
    assert len(re.findall(r"define [^@]*@shared_sbnn_transpose_words", code)) == functions
    assert not re.findall(r"declare [^@]*@shared_", code)
    # TVM would not say of any function of the module that its pointers do not alias.
    assert re.search(r"@model_before\(ptr noalias", code)
    assert set(raw.signatures) == set(kernels)
