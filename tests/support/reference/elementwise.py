"""Means of samples, and selections of channels, rows and columns in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbnn_tvm.schedules.selection import OUTSIDE, PixelSelection, Selection


def sample_mean(x: np.ndarray) -> np.ndarray:
    """The float32 mean of each row of [N, values], in the documented order of its sum.

    64 partial sums take every 64th value each; then halves are added until one sum is left.
    """
    batch, values = x.shape
    padded = np.pad(x, [(0, 0), (0, -values % 64)]).reshape(batch, -1, 64)
    sums = np.zeros((batch, 64), np.float32)
    for run_of_values in np.moveaxis(padded, 1, 0):
        sums += run_of_values
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    return sums[:, 0] / np.float32(values)


def selected(
    inputs: Sequence[np.ndarray], selection: Selection, pixels: PixelSelection | None = None, fill: float = 0
) -> np.ndarray:
    """Output channel c is channel ``sources[c].channel`` of input ``sources[c].input``; channels are the last axis.

    Output row y is row ``pixels.rows[y]``, and columns likewise. What has no source is ``fill``.
    """
    empty = np.full_like(inputs[0][..., 0], fill)
    of = [empty if source is None else inputs[source.input][..., source.channel] for source in selection.sources]
    channels = np.stack(of, -1)
    if pixels is None:
        return channels
    rows, columns = np.array(pixels.rows), np.array(pixels.columns)
    taken = channels[:, rows][:, :, columns]
    taken[:, rows == OUTSIDE] = fill
    taken[:, :, columns == OUTSIDE] = fill
    return taken
