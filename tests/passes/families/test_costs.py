"""The table of costs: complete, and of one scale."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import get_args

import pytest

from sbnn_tvm.deploy.targets import NAMED, SEVERAL, resolve
from sbnn_tvm.passes.families.costs import COSTS, Steps, cost_of
from sbnn_tvm.schedules.isa import ISAS, CoreClass


@pytest.mark.parametrize("name", [*NAMED, *SEVERAL])
def test_every_target_has_costs(name):
    for build in resolve(name).builds:
        assert build.isa.costs in COSTS
        assert cost_of(build.isa, Steps(word=2.0, integer_step=1.0)) > 0


@pytest.mark.parametrize("isa", ISAS.values(), ids=str)
def test_every_instruction_set_has_costs(isa):
    cores = [None, *get_args(CoreClass)] if isa.architecture == "aarch64" else [None]
    assert all(replace(isa, core=core).costs in COSTS for core in cores)


def test_instruction_sets_that_add_products_of_integers_differ_in_nothing_else():
    for core in get_args(CoreClass):
        steps = [asdict(COSTS[f"{name} {core}"]) for name in ("neon", "neon-dotprod", "neon-i8mm")]
        products = [each.pop("integer_step") for each in steps]
        assert steps[0] == steps[1] == steps[2] and products == sorted(products, reverse=True)
