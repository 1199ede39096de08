"""The shapes of windows that poolings and depthwise convolutions are tested with."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.random_arrays import normal

SHAPES = {
    "3x3": Conv2dShape(2, 9, 7, 5, 5, (3, 3), (1, 1), (1, 1, 1, 1)),
    "wide, strided": Conv2dShape(1, 12, 41, 33, 33, (3, 3), (2, 2), (1, 1, 1, 1)),
    "2x2": Conv2dShape(1, 6, 8, 64, 64, (2, 2), (2, 2)),
    "asymmetric": Conv2dShape(1, 7, 10, 17, 17, (3, 2), (2, 1), (0, 1, 2, 0)),
    "dilated": Conv2dShape(1, 10, 11, 3, 3, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "5x5 on 3x2": Conv2dShape(1, 3, 2, 100, 100, (5, 5), (1, 1), (2, 2, 2, 2)),
    "one pixel": Conv2dShape(3, 1, 1, 16, 16),
    "several threads": Conv2dShape(1, 20, 20, 65, 65, (3, 3), (1, 1), (1, 1, 1, 1)),
}


def image(rng: np.random.Generator, shape: Conv2dShape) -> np.ndarray:
    """The data of such a layer, standard normal float32 [N, H, W, C]."""
    return normal(rng, shape.batch, shape.height, shape.width, shape.in_channels)
