"""The assignment of rows to columns of a matrix: exactly, and relaxed to a differentiable plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best_assignment(scores: Tensor) -> Tensor:
    """A different column for each row so that the sum of their scores is largest (the Hungarian method).

    Rows join one after the other. Each joins by the shortest augmenting path in the reduced costs of the potentials u
    and v, which keep ``cost - u - v >= 0``.

    Args:
        scores: [n, m] with n <= m; without a gradient.

    Returns:
        int64 [n].

    References:
        Jonker, Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
        Computing 38, 1987.

    Examples:
        >>> best_assignment(torch.tensor([[3.0, 2.0, 0.0], [3.0, 0.0, 1.0]])).tolist()
        [1, 0]
    """
    cost = -scores.detach().cpu().double().numpy()
    favourites = cost.argmin(1)
    if len(np.unique(favourites)) == len(cost):
        return torch.from_numpy(favourites).to(scores.device)
    n, m = cost.shape
    u, v = np.zeros(n), np.zeros(m)
    row_of = np.full(m, -1)
    for start in range(n):
        distance, previous, done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, dtype=bool)
        row, column, shortest = start, -1, 0.0
        while row >= 0:
            through = shortest + cost[row] - u[row] - v
            nearer = ~done & (through < distance)
            distance[nearer], previous[nearer] = through[nearer], column
            column = int(np.where(done, np.inf, distance).argmin())
            shortest, row = distance[column], int(row_of[column])
            done[column] = True
        settled = done & (row_of >= 0)
        u[start] += shortest
        u[row_of[settled]] += shortest - distance[settled]
        v[settled] -= shortest - distance[settled]
        while column >= 0:  # shift the rows along the path
            before = int(previous[column])
            row_of[column] = row_of[before] if before >= 0 else start
            column = before
    chosen = np.flatnonzero(row_of >= 0)
    return torch.from_numpy(chosen[row_of[chosen].argsort()]).to(scores.device)


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """The plan P >= 0 that maximises ``sum P * scores`` plus its entropy: rows sum to 1, columns to at most 1.

    Sinkhorn's iteration normalises rows and columns in turn. The columns that no row takes go to one more row, without
    scores, that takes m - n columns. The lower the temperature by which scores were divided, the nearer P is to
    ``best_assignment``.

    Args:
        scores: [n, m] with n < m.
        iterations: Normalisations of rows and columns each. The last one is of rows, whose sums are exact.

    Returns:
        [n, m], differentiable.

    References:
        Mena et al., "Learning Latent Permutations with Gumbel-Sinkhorn Networks", ICLR 2018, arXiv 1802.08665.
    """
    n, m = scores.shape
    logarithms = torch.cat([scores, scores.new_zeros(1, m)])
    share = torch.cat([scores.new_zeros(n, 1), scores.new_full((1, 1), float(m - n)).log()])
    for _ in range(iterations):
        logarithms = logarithms - logarithms.logsumexp(0, keepdim=True)
        logarithms = logarithms - logarithms.logsumexp(1, keepdim=True) + share
    return logarithms[:n].exp()
