"""Packed words in numpy: channel ``c`` of a pixel is bit ``c % word_bits`` of word ``c // word_bits``."""

from __future__ import annotations

import numpy as np

from ..isa import Isa


def pack_channels(bits: np.ndarray, isa: Isa) -> np.ndarray:
    """Pack the last axis, bool [..., C], into words [..., isa.words(C)]; the unused high bits are 0."""
    channels = bits.shape[-1]
    padding = [(0, 0)] * (bits.ndim - 1) + [(0, isa.words(channels) * isa.word_bits - channels)]
    octets = np.packbits(np.pad(bits, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view(np.dtype(isa.word).newbyteorder("<")).astype(isa.word, copy=False)


def packed_shape(extent: tuple[int, ...], bits: int, isa: Isa) -> tuple[int, ...]:
    """Shape of the packed codes of a map (N, H, W, C) or of rows (N, C).

    Codes of several bits have one plane per binary digit, in an axis after N.

    Args:
        extent: Shape of the codes, channels last.
        bits: Bits per code. Codes of one bit have no axis of planes.
        isa: The instruction set, which determines the words.
    """
    first, *pixel, channels = extent
    return (first, *([bits] if bits > 1 else []), *pixel, isa.words(channels))


def pack_codes(codes: np.ndarray, bits: int, isa: Isa) -> np.ndarray:
    """Pack integer codes [N, ..., C] into planes of their binary digits, the lowest first, as in ``packed_shape``."""
    if bits == 1:
        return pack_channels(codes.astype(bool), isa)
    return np.stack([pack_channels((codes >> digit & 1).astype(bool), isa) for digit in range(bits)], axis=1)


def unpack_codes(planes: np.ndarray, channels: int, bits: int) -> np.ndarray:
    """Unpack planes into uint8 codes [N, ..., channels]: the inverse of :func:`pack_codes`."""
    digits = planes[:, None] if bits == 1 else planes
    values = [unpack_channels(digits[:, digit], channels).astype(np.uint8) << digit for digit in range(bits)]
    return np.asarray(np.sum(values, axis=0, dtype=np.uint8))


def unpack_channels(words: np.ndarray, channels: int) -> np.ndarray:
    """Unpack words [..., W] into bool [..., channels]: the inverse of :func:`pack_channels`."""
    little = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return np.unpackbits(little.view(np.uint8), axis=-1, bitorder="little")[..., :channels].astype(bool)
