"""The constants that the export of a layer writes."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.frontends.onnx.opset import unpack_bits
from sbnn_tvm.frontends.torch import (
    BinaryLayer,
)
from sbnn_tvm.frontends.torch.export import packed_constants


def written(layer: BinaryLayer) -> dict[str, np.ndarray]:
    """The signs (-1 and +1), scale and offset that a file holds of a layer."""
    constants = {name: value.detach().numpy() for name, value in packed_constants(layer).items()}
    return {**constants, "signs": unpack_bits(constants["weight"], layer.weight.shape) * 2 - 1.0}
