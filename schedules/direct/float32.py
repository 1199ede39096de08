"""The direct convolution on float32: one multiply-add per step and vector."""

from __future__ import annotations

import numpy as np

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from .loop_nest import DirectConv2d, MultiplyAccumulate, ReductionLoop
from .tiles import Tile, default_tile, lanes


def float_convolution(
    name: str, shape: Conv2dShape, weight: np.ndarray, isa: Isa, *, data_shape: tuple[int, ...], tile: Tile | None
) -> DirectConv2d:
    """The convolution, without its epilogue; the arguments are those of ``direct_float``."""
    channels_last = np.moveaxis(weight.astype(np.float32), 1, -1)
    return DirectConv2d(
        name=name,
        shape=shape,
        data_shape=data_shape,
        arithmetic=MultiplyAccumulate("float32", "float32", lanes(shape, isa, "float32")),
        tile=tile or default_tile(shape, isa, "float32"),
        weights=channels_last.reshape(shape.groups, shape.group_out_channels, *channels_last.shape[1:]),
        loops=(ReductionLoop(shape.group_in_channels, 1),),
        border=np.zeros((1, shape.in_channels), np.float32),
        run_length=isa.float_lanes if isa.multiplies_by_lane else 1,
    )


def direct_float(
    name: str,
    shape: Conv2dShape,
    weight: np.ndarray,
    epilogue: Program,
    isa: Isa,
    *,
    data_shape: tuple[int, ...],
    tile: Tile | None,
) -> Kernel:
    """Implements conv2d.float_conv2d and dense.float_dense; see these for the other arguments.

    Args:
        name: Symbol of the function.
        data_shape: Shape of the activations: rank 4, or rank 2 for a dense layer.
    """
    conv = float_convolution(name, shape, weight, isa, data_shape=data_shape, tile=tile)
    classes = shape.border_classes() if len(data_shape) == 4 else None
    return conv.build(EpilogueWriter(epilogue, conv.out_shape, isa, classes, conv.run))
