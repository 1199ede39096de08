"""The ways to compute a layer, as data: kernel families and their parameters, the untuned default first.

A family is a way to compute; its members differ in parameters alone (the register tile of a direct convolution, say),
never in what they compute. To add one: a name in ``Family``, where it is possible in ``families``, its members in
``_members``, and its kernel in build_kernel.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from sbnn_tvm.schedules.counters.conv2d import cuts
from sbnn_tvm.schedules.counters.counting import Cut
from sbnn_tvm.schedules.direct.dense import dense_shape
from sbnn_tvm.schedules.direct.tiles import Tile, tiles
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.windows.template import WindowTile, window_tiles

from ..layers.fit_epilogue import fit_counters, fit_epilogue
from ..layers.layer import Layer
from .cost_model import popcount_pays, sparse_pays
from .sparse_float_cost import float_cost, sparse_float_cost


class Family(Enum):
    """A way to compute; the value is its name for users."""

    FLOAT = "float"  # float32, channels last
    SPARSE_FLOAT = "sparse_float"  # float32 planes, a multiply-add for each weight that is not 0
    POPCOUNT = "popcount"  # packed words, a popcount for each word of weights
    COUNTERS = "counters"  # bit planes, an addition for each set weight
    WORDS = "words"  # packed words, no weights: poolings, sums over windows, selections of channels


Parameters = Tile | WindowTile | Cut
"""What the members of a family may differ in: one frozen dataclass a family, whose text is short and without spaces."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute a layer.

    Attributes:
        family: The kernel family.
        parameters: Which member of it; None where there is but one.
        serial: Whether one thread does it all, however much it is.
    """

    family: Family
    parameters: Parameters | None = None
    serial: bool = False

    @property
    def tile(self) -> Tile | None:
        """The register tile of a direct convolution, None for other kernels."""
        return self.parameters if isinstance(self.parameters, Tile) else None

    @property
    def window_tile(self) -> WindowTile | None:
        """The register tile of a window kernel, None for other kernels."""
        return self.parameters if isinstance(self.parameters, WindowTile) else None

    @property
    def cut(self) -> Cut | None:
        """The cut of the counters' lists, None for other kernels."""
        return self.parameters if isinstance(self.parameters, Cut) else None

    @property
    def name(self) -> str:
        """The name under which measurements are kept, for example ``"popcount 7x4"``."""
        member = "" if self.parameters is None else f" {self.parameters}"
        return f"{self.family.value}{member}{' serial' * self.serial}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Tuned:
    """What tuning found for a layer.

    Attributes:
        candidate: The fastest.
        gain: How many times faster it is than the untuned one.
    """

    candidate: Candidate
    gain: float


def candidates(layer: Layer, isa: Isa) -> tuple[Candidate, ...]:
    """Every way to compute a layer, family by family; the first is what the cost model takes."""
    return tuple(
        Candidate(family, parameters, serial)
        for family in families(layer, isa)
        for serial in (False, True)
        for parameters in _members(layer, family, isa) or (None,)
    )


def families(layer: Layer, isa: Isa) -> tuple[Family, ...]:
    """The families that can compute a layer, the one that the cost model takes first."""
    match layer.kind:
        case "binary_conv2d":
            return _of_binary_conv2d(layer, isa)
        case "binary_dense":
            return (Family.POPCOUNT, Family.FLOAT)
        case "window_sum" | "max_pool2d_bits" | "select_channels_bits" | "shift_bits":
            return (Family.WORDS,)
        case "conv2d" | "dense":
            costs = float_layer_costs(layer, isa)
            return tuple(sorted(costs, key=costs.__getitem__))
        case _:
            return (Family.FLOAT,)


def float_layer_costs(layer: Layer, isa: Isa) -> dict[Family, float]:
    """What a float layer with weights costs in each family that can compute it."""
    assert layer.weight is not None
    shape = layer.shape or dense_shape(layer.rows, layer.weight.shape[1], len(layer.weight))
    costs = {Family.FLOAT: float_cost(shape, isa)}
    if not shape.depthwise:
        nonzero = int(np.count_nonzero(layer.weight))
        costs[Family.SPARSE_FLOAT] = sparse_float_cost(shape, nonzero, isa, layer.input_domain)
    return costs


def _of_binary_conv2d(layer: Layer, isa: Isa) -> tuple[Family, ...]:
    conv, domain, counters = layer.shape, layer.input_domain, fit_counters(layer, isa)
    assert conv is not None and domain is not None
    possible = [Family.POPCOUNT]
    if domain.bits == 1 and fit_epilogue(layer, isa).thresholds < 2:  # counters neither read nor store codes
        possible.append(Family.COUNTERS)
    if not layer.pad_value:  # the float kernel pads with zeros
        possible.append(Family.FLOAT)
    if Family.FLOAT in possible and not popcount_pays(conv, isa, domain.bits):
        best = Family.FLOAT
    elif Family.COUNTERS in possible and sparse_pays(
        conv, counters.counted, isa, not counters.folded, counters.domain, not fit_epilogue(layer, isa).folded
    ):
        best = Family.COUNTERS
    else:
        best = Family.POPCOUNT
    return (best, *(family for family in possible if family != best))


def _members(layer: Layer, family: Family, isa: Isa) -> Sequence[Parameters]:
    """The members of a family that fit a layer, the one that its rule takes first; empty if there is but one."""
    depthwise = layer.shape is not None and layer.shape.depthwise and layer.weight is not None
    if layer.shape is not None and family == Family.FLOAT and (layer.kind in ("max_pool2d", "avg_pool2d") or depthwise):
        return window_tiles(layer.shape, isa)
    if family == Family.COUNTERS and layer.shape is not None:
        fitted = fit_counters(layer, isa)
        return cuts(layer.shape, fitted.counted, isa, fitted.domain)
    if layer.weight is None or family not in (Family.FLOAT, Family.POPCOUNT):
        return ()
    shape = layer.shape or dense_shape(layer.rows, layer.weight.shape[1], len(layer.weight))
    return tiles(shape, isa, "popcount" if family == Family.POPCOUNT else "float32")
