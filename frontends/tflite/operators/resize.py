"""Resizing of images."""

from __future__ import annotations

import numpy as np

from ..node import Converter, Node
from ..values import CHANNELS_FIRST, Value


def _resize(mode: str) -> Converter:
    """Resizes to constant sizes.

    TFLite takes the nearest pixel of ``floor((i + 0.5) * scale)`` for half pixels, which is rounding half up of ONNX's
    coordinate; ``floor(i * scale)`` otherwise; and with aligned corners ``round(i * scale)``.
    """

    def convert(node: Node) -> Value:
        x, sizes = node.image(0), node.integers(1)
        if len(sizes) != 2 or min(sizes) < 1:
            raise node.error(f"resizes images to {list(sizes)}; expected two sizes of at least 1")
        aligns, halves = bool(node.option("AlignCorners", 0)), bool(node.option("HalfPixelCenters", 0))
        if aligns and halves:
            raise node.error("has both aligned corners and half pixels")
        rounding = "round_prefer_ceil" if aligns or halves else "floor"
        target = node.graph.constant(np.array([x.shape[0], x.shape[3], *sizes], np.int64))
        return node.graph.add(
            "Resize",
            x,
            None,
            None,
            target,
            order=CHANNELS_FIRST,
            mode=mode,
            coordinate_transformation_mode="align_corners" if aligns else "half_pixel" if halves else "asymmetric",
            **({"nearest_mode": rounding} if mode == "nearest" else {}),
        )

    return convert


CONVERTERS: dict[str, Converter] = {
    "RESIZE_BILINEAR": _resize("linear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("nearest"),
}
"""Converters by operator name."""
