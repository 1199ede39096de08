"""Discrete Fourier transforms, as products with constant matrices."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, rank_of, shape_of


def dft(node: Node) -> relax.Expr:
    """The transform along one axis of [..., 1] real or [..., 2] complex numbers."""
    x = node.expr(0)
    shape, rank, dtype = shape_of(x), rank_of(x), dtype_of(x)
    if node.opset < 20:
        axis = node.attributes.get("axis", 1)
    else:
        axis = -2 if node.value(2) is None else int(node.constant(2).item())
    if not -rank <= axis < rank or axis % rank == rank - 1 or shape[-1] not in (1, 2):
        raise node.error(
            f"transforms axis {axis} of an input of shape {list(shape)}; expected an axis before the last, and 1 "
            "(real) or 2 (complex) numbers along the last"
        )
    axis %= rank
    inverse, onesided = bool(node.attributes.get("inverse", 0)), bool(node.attributes.get("onesided", 0))
    real = inverse and onesided  # half a spectrum in, real numbers out
    length = 2 * (shape[axis] - 1) if real else shape[axis]
    if node.value(1) is not None:
        length = int(node.constant(1).item())
    if length < 1 or (real and shape[-1] != 2):
        raise node.error(f"transforms {length} numbers of an input of shape {list(shape)}; expected 1 or more")
    matrix = (
        _inverse_half(shape[axis], length, dtype)
        if real
        else (_matrix(shape[axis], length, shape[-1], inverse, onesided, dtype))
    )
    parts = 1 if real else 2
    order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    back = [order.index(a) for a in range(rank)]
    x = node.emit(relax.op.permute_dims(x, order))
    outer = [shape[a] for a in order[:-2]]
    flat = node.emit(relax.op.reshape(x, (*outer, shape[axis] * shape[-1])))
    spectrum = node.emit(relax.op.matmul(flat, as_expr(matrix)))
    pairs = node.emit(relax.op.reshape(spectrum, (*outer, matrix.shape[1] // parts, parts)))
    return relax.op.permute_dims(pairs, back)


def stft(node: Node) -> relax.Expr:
    """The transforms of overlapping windows of a signal [batch, length, 1 or 2]."""
    x = node.expr(0)
    batch, samples, parts = shape_of(x)
    dtype, step = dtype_of(x), int(node.constant(1).item())
    window = None if node.value(2) is None else node.expr(2)
    if node.value(3) is not None:
        length = int(node.constant(3).item())
    elif window is not None:
        (length,) = shape_of(window)
    else:
        raise node.error("has neither a window nor a frame_length; expected one of them")
    if not 0 < length <= samples or step < 1:
        raise node.error(f"has frames of {length} every {step} samples of a signal of {samples}; expected fewer")
    frames = (samples - length) // step + 1
    places = step * np.arange(frames)[:, None] + np.arange(length)
    cut = node.emit(relax.op.take(x, as_expr(places), 1, mode="clip"))  # [batch, frames, length, parts]
    matrix = _matrix(length, length, parts, False, bool(node.attributes.get("onesided", 1)), dtype)
    if window is not None:
        cut = node.emit(relax.op.multiply(cut, node.emit(relax.op.reshape(window, (1, 1, length, 1)))))
    flat = node.emit(relax.op.reshape(cut, (batch, frames, length * parts)))
    spectrum = node.emit(relax.op.matmul(flat, as_expr(matrix)))
    return relax.op.reshape(spectrum, (batch, frames, matrix.shape[1] // 2, 2))


def _matrix(size: int, length: int, parts: int, inverse: bool, onesided: bool, dtype: str) -> np.ndarray:
    """The matrix from ``size`` numbers of 1 or 2 parts to the complex spectrum of ``length`` numbers.

    Fewer numbers are followed by zeros, more are cut off. The shape is [size * parts, 2 * frequencies].
    """
    frequencies = length // 2 + 1 if onesided else length
    turns = np.outer(np.arange(size), np.arange(frequencies)) % length / length
    factors = np.exp((2j if inverse else -2j) * np.pi * turns) / (length if inverse else 1)
    factors[length:] = 0
    columns = [np.stack([factors.real, factors.imag], -1), np.stack([-factors.imag, factors.real], -1)]
    return np.stack(columns[:parts], 1).reshape(size * parts, 2 * frequencies).astype(dtype)


def _inverse_half(size: int, length: int, dtype: str) -> np.ndarray:
    """The matrix from the first ``size`` complex frequencies of a real signal to its ``length`` numbers."""
    known = np.arange(size)
    turns = np.outer(known, np.arange(length)) % length / length
    twice = np.where((known == 0) | (2 * known == length), 1, 2)[:, None]  # all others stand for their mirror image too
    factors = twice * np.exp(2j * np.pi * turns) / length
    factors[length // 2 + 1 :] = 0
    return np.stack([factors.real, -factors.imag], 1).reshape(2 * size, length).astype(dtype)


CONVERTERS: dict[str, Converter] = {"DFT": dft, "STFT": stft}
"""Transforms by operator name."""
