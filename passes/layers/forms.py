"""The memory layouts of values."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """A memory layout of a value. The logical shape is the same as in ONNX in all of them.

    PLAIN is NCHW, CHANNELS_LAST is NHWC. BITS packs the channels of a pixel into words, once per binary digit of a code
    (schedules/layouts/words.py). PLANES packs the pixels of a channel into vectors (schedules/layouts/bit_planes.py).
    """

    PLAIN = "as in ONNX"
    CHANNELS_LAST = "channels last"
    BITS = "packed bits"
    PLANES = "bit planes"
