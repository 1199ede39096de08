"""Packed words in numpy: channel ``c`` of a pixel is bit ``c % word_bits`` of word ``c // word_bits``."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.schedules.isa import Isa


def pack_channels(bits: np.ndarray, isa: Isa) -> np.ndarray:
    """Pack the last axis, bool [..., C], into words [..., isa.words(C)]; the unused high bits are 0."""
    channels = bits.shape[-1]
    padding = [(0, 0)] * (bits.ndim - 1) + [(0, isa.words(channels) * isa.word_bits - channels)]
    octets = np.packbits(np.pad(bits, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view(np.dtype(isa.word).newbyteorder("<")).astype(isa.word, copy=False)


def unpack_channels(words: np.ndarray, channels: int) -> np.ndarray:
    """Unpack words [..., W] into bool [..., channels]: the inverse of :func:`pack_channels`."""
    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return np.unpackbits(little.view(np.uint8), axis=-1, bitorder="little")[..., :channels].astype(bool)
