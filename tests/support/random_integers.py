"""Random data and weights of integer layers, with the extremes of their types among them."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.shapes import Conv2dShape


def integer_data(rng: np.random.Generator, dtype: str, shape: Conv2dShape) -> np.ndarray:
    """Data of a layer, [N, H, W, C]."""
    return integers(rng, dtype, shape.batch, shape.height, shape.width, shape.in_channels)


def integers(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """All numbers of a type, a quarter of them the smallest or the largest."""
    limits = np.iinfo(dtype)
    some = rng.integers(limits.min, limits.max + 1, shape)
    extreme = rng.choice([limits.min, limits.max], shape)
    return np.where(rng.random(shape) < 0.25, extreme, some).astype(dtype)


def integer_weights(rng: np.random.Generator, shape: Conv2dShape, most: int) -> np.ndarray:
    """Weights from ``-most`` to ``most``, int16 [OC, Cin / groups, kh, kw]; a quarter are extremes."""
    size = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    some = rng.integers(-most, most + 1, size)
    return np.where(rng.random(size) < 0.25, rng.choice([-most, most], size), some).astype(np.int16)
