"""Numbers taken from a batch, equal over the ranks of a distributed training, each of which sees its own batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Moments:
    """What a batch says of its distribution; float scalars.

    Attributes:
        least: The smallest number.
        deviation: The standard deviation, with Bessel's correction.
    """

    least: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of x, or of all ranks' x in a distributed training: then every rank must call this.

        Ranks gather their counts n, means m and squared deviations q = sum (x - m)^2. With M the mean of all numbers,
        those of all ranks together deviate by ``sum of q + n (m - M)^2``.
        """
        if not _several_ranks():
            return cls(x.min(), x.std())
        mean = x.double().mean()
        own = torch.stack([mean.new_tensor(x.numel()), mean, (x - mean).double().square().sum(), x.min().double()])
        gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, own)
        count, means, squares, least = torch.stack(gathered, 1)
        total = count.sum()
        squared = squares + count * (means - (count * means).sum() / total).square()
        return cls(least.min().to(x.dtype), (squared.sum() / (total - 1)).sqrt().to(x.dtype))


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest number of x, or of all ranks' x: then every rank must call this."""
    least, most = torch.aminmax(x)
    if not _several_ranks():
        return least, most
    bounds = torch.stack([least, -most])
    distributed.all_reduce(bounds, distributed.ReduceOp.MIN)
    return bounds[0], -bounds[1]


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
