"""Float32 convolution and dense layers by the direct convolution: weights of any kind, float32 activations."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.direct_conv2d import DirectConv2d
from sbnn_tvm.schedules.emit import EpilogueWriter
from sbnn_tvm.schedules.epilogue import Program
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tiles import Tile, default_tile, lanes


def float_conv2d(
    shape: Conv2dShape, weight: np.ndarray, epilogue: Program, isa: Isa, tile: Tile | None = None
) -> Kernel:
    """A float32 convolution of an NHWC feature map, padded with zeros.

    Args:
        shape: The layer.
        weight: float32 [OC, Cin / groups, kh, kw].
        epilogue: Its Ref(0) is the sum of products; the order of the sum differs from other implementations.
        isa: What to generate code for.
        tile: One of tiles.tiles(shape, isa, "float32"); by default the first.

    Raises:
        ValueError: If ``weight`` or the epilogue's constants do not fit the layer.
    """
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of a convolution is {weight.shape}, not (OC, Cin / groups, kh, kw) = {expected}")
    data = (shape.batch, shape.height, shape.width, shape.in_channels)
    return _float("float_conv2d", shape, data, weight, epilogue, isa, tile)


def float_dense(batch: int, weight: np.ndarray, epilogue: Program, isa: Isa, tile: Tile | None = None) -> Kernel:
    """A float32 dense layer: data [batch, K], outputs of rank 2.

    Args:
        batch: Rows of the data.
        weight: float32 [OC, K].
        epilogue: Its Ref(0) is the sum of products.
        isa: What to generate code for.
        tile: One of tiles.tiles(shape, isa, "float32") for the 1x1 convolution over a row of ``batch`` pixels.

    Raises:
        ValueError: If the constants of the epilogue do not fit.
    """
    channels, depth = weight.shape
    shape = Conv2dShape(1, 1, batch, depth, channels)
    return _float("float_dense", shape, (batch, depth), weight[:, :, None, None], epilogue, isa, tile)


def _float(
    name: str,
    shape: Conv2dShape,
    data: tuple[int, ...],
    weight: np.ndarray,
    epilogue: Program,
    isa: Isa,
    tile: Tile | None,
) -> Kernel:
    channels_last = np.moveaxis(weight.astype(np.float32), 1, -1)
    conv = DirectConv2d(
        name=name,
        shape=shape,
        data_shape=data,
        element="float32",
        accumulator="float32",
        lanes=lanes(shape, isa, "float32"),
        tile=tile or default_tile(shape, isa, "float32"),
        weights=channels_last.reshape(shape.groups, shape.group_out_channels, *channels_last.shape[1:]),
        border=np.zeros(shape.in_channels, np.float32),
        accumulate=lambda sums, x, w: sums + x * w,
    )
    classes = shape.border_classes() if len(data) == 4 else None
    return conv.build(EpilogueWriter(epilogue, conv.out_shape, isa, classes, conv.run))
