"""Candidates of a layer: the full list, equal results of all families, and forced choices by the user."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import CompileError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.passes.families.choose import candidates
from sbnn_tvm.passes.families.families import FAMILIES
from sbnn_tvm.passes.families.float32 import binary_float_cost
from sbnn_tvm.passes.families.popcount import popcount_cost
from sbnn_tvm.passes.layers.read import read_layer
from sbnn_tvm.passes.pipeline import to_composites
from sbnn_tvm.schedules.direct.tiles import Tile
from sbnn_tvm.schedules.isa import AVX2, AVX512_VPOPCNTDQ, NEON, Isa
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.template import WindowTile
from tests.support import foreign_models
from tests.support.command_line import run as run_cli
from tests.support.small_models import small_model


@pytest.fixture(scope="module")
def model():
    return foreign_models.vgg(channels=32, size=8, hidden=32)


@pytest.fixture(scope="module")
def layers(model):
    composites = to_composites(import_onnx(load_model(model), None).mod)
    return [read_layer(func) for _, func in composites.functions_items() if "Composite" in (func.attrs or {})]


@pytest.mark.parametrize(
    "isa, fewest", [(AVX512_VPOPCNTDQ, 3), (NEON, 3), (AVX2, 9)], ids=lambda each: getattr(each, "name", each)
)
def test_popcounts_pay_from_a_few_channels_per_group_on(isa: Isa, fewest: int) -> None:
    def pays(channels: int, bits: int = 1) -> bool:
        conv = Conv2dShape(1, 14, 14, 16 * channels, 16 * channels, (3, 3), (1, 1), (1, 1, 1, 1), groups=16)
        return popcount_cost(conv, isa, floats=False, bits=bits) <= binary_float_cost(conv, isa, floats=False)

    assert not pays(fewest - 1) and not pays(fewest, 4) and all(pays(channels) for channels in range(fewest, 40))


@pytest.mark.parametrize("isa", [AVX512_VPOPCNTDQ, NEON], ids=lambda isa: isa.name)
def test_every_candidate_can_be_built(layers, isa):
    for layer in layers:
        space = candidates(layer, isa)
        assert len({each.name for each in space}) == len(space)
        firsts = list({each.family: each for each in reversed(space)}.values())[::-1]
        costs = [each.cost(layer, isa) for each in firsts]
        assert costs == sorted(costs) and costs[0] <= min(each.cost(layer, isa) for each in space)
        assert {each.family for each in firsts} == {family for family in FAMILIES if family.members(layer, isa)}
        for candidate in (*space[:3], *space[-2:]):
            kernel = candidate.build(layer, isa).kernel
            if isinstance(candidate.member, Tile | WindowTile):
                assert kernel.name.endswith(f"{candidate.member}{' serial' * candidate.serial}")
            assert ("T.parallel" in kernel.func.script()) <= (not candidate.serial)


@pytest.mark.parametrize("family", ["popcount", "counters", "float"])
def test_families_compute_the_same(model, family):
    report = explain(model)
    names = [layer.name for layer in report.layers if layer.kind.startswith("binary conv")]
    assert names
    module = sbnn_tvm.compile(model, kernels=dict.fromkeys(names, family))
    chosen = [layer for layer in module.report.layers if layer.name in names]
    assert {layer.chosen for layer in chosen} == {"chosen by you"}
    assert all(layer.how.endswith("(chosen by you)") for layer in chosen)
    assert all(("float" in layer.kernel) == (family == "float") for layer in chosen)
    assert not any(layer.fallback for layer in chosen)
    assert module.verify(samples=1).passed


def test_the_last_matching_pattern_with_a_possible_family_counts(model):
    names = [layer.name for layer in explain(model).layers if layer.kind.startswith("binary conv")]
    report = explain(model, kernels={"*": "float", names[0]: "counters"})
    families_ = {layer.name: layer.kernel.split()[0] for layer in report.layers if layer.name in names}
    assert families_.pop(names[0]) == "counters"
    assert set(families_.values()) <= {"float_conv2d"}


def test_impossible_families(rng):
    weight = rng.choice(np.float32([-1, 1]), (8, 8, 3, 3))
    model = small_model(
        "s = Conv(x, f)\ng = Greater(s, t)\nb = Where(g, one, minus)\ny = Conv<pads=[1, 1, 1, 1]>(b, w)",
        {"x": (1, 8, 6, 6)},
        {"t": 0.0, "one": 1.0, "minus": -1.0, "w": weight, "f": rng.normal(size=(8, 8, 1, 1))},
    )
    with pytest.raises(CompileError, match=r"'Conv:s' \(conv2d\) cannot be .* 'popcount'; possible there: float\b"):
        explain(model, kernels={"Conv:s": "popcount"})
    with pytest.raises(CompileError, match="no layer is called 'Conv:z'; the layers are Conv:s, Conv:y"):
        explain(model, kernels={"Conv:z": "popcount"})
    with pytest.raises(CompileError, match=r"'pop' for 'Conv:y' is no family.* are popcount, .*float"):
        explain(model, kernels={"Conv:y": "pop"})
    with pytest.raises(CompileError, match="possible there: float"):
        explain(model, kernels={"Conv:[s]": "popcount"})


def test_on_the_command_line(model, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    assert "(chosen by you)" in run_cli("inspect", path, "--kernel", "*=float")[0]
    assert "layers.0.conv=counters, but got 'float'" in run_cli("inspect", path, "--kernel", "float", code=2)[1]
