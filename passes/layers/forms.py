"""How values lie in memory."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """A layout of a value. Its logical shape is ONNX's in all of them."""

    PLAIN = "as in ONNX"
    CHANNELS_LAST = "channels last"
    BITS = "packed bits"
    PLANES = "bit planes"
