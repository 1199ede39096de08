"""A contrastive loss: the binary network's features of an image should match a float twin's features of that image.

References:
    Shang et al., "Network Binarization via Contrastive Learning" (CMIM), ECCV 2022, arXiv 2207.02970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.errors import ArgumentError

from .distillation import Twin


def info_nce(queries: Tensor, keys: Tensor, others: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """The InfoNCE loss: ``-log(exp(q k / t) / (sum over all keys of exp(q k' / t)))``, averaged over the queries.

    Args:
        queries: [N, D]; all vectors are normalised here.
        keys: [N, D]; key i is the positive of query i, all other keys are negatives.
        others: [M, D], more negatives.
        temperature: t, above 0.

    Returns:
        A scalar.

    References:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748.

    Examples:
        >>> info_nce(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + exp(-1))
        tensor(0.3133)
    """
    if queries.shape != keys.shape or queries.ndim != 2:
        raise ArgumentError(f"queries and keys are [N, D] both, but got {list(queries.shape)} and {list(keys.shape)}")
    if not temperature > 0:
        raise ArgumentError(f"the temperature must be above 0, but is {temperature}")
    pool = keys if others is None else torch.cat([keys, others])
    similarities = functional.normalize(queries, dim=1) @ functional.normalize(pool, dim=1).T
    return functional.cross_entropy(similarities / temperature, torch.arange(len(queries), device=queries.device))


class ContrastiveLoss(nn.Module):
    """InfoNCE between the student's and a float twin's features of the same image, with a memory of earlier images.

    Feature maps are averaged over their pixels and projected by linear heads. The heads are trained too, so give the
    optimiser their parameters. The latest ``memory`` projections of the teacher are negatives. Only the student is
    deployed.

    Args:
        student, teacher, places: Same as in Twin.
        features: Channels of the student's and the teacher's feature at each place.
        weight: Factor of the loss.
        dimensions: Size of the projections.
        memory: How many projections of earlier images serve as negatives; with 0 only those of the batch do.
        temperature: Same as in info_nce.

    Raises:
        ArgumentError: Same as in Twin, or if a number is out of range.
    """

    memory: Tensor
    filled: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        places: Mapping[str, str] | Iterable[str],
        features: Mapping[str, tuple[int, int]],
        *,
        weight: float = 3.2,
        dimensions: int = 64,
        memory: int = 4096,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.twin = Twin(student, teacher, places)  # not a module: the networks have their own checkpoints
        if missing := [name for name in self.twin.places if name not in features]:
            raise ArgumentError(f"features has no channels for {missing[0]!r}")
        if dimensions < 1 or memory < 0:
            raise ArgumentError(f"dimensions must be 1 or more and memory 0 or more, but got {dimensions} and {memory}")
        channels = [features[name] for name in self.twin.places]
        self.query_heads = nn.ModuleList(nn.Linear(ours, dimensions) for ours, _ in channels)
        self.key_heads = nn.ModuleList(nn.Linear(theirs, dimensions) for _, theirs in channels)
        self.weight, self.temperature = weight, temperature
        self.register_buffer("memory", torch.zeros(len(channels), memory, dimensions))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, loss: Tensor | None = None) -> Tensor:
        """The loss of the student's latest forward pass, a scalar; ``loss``, the task's loss, is not used."""
        losses, keys = [], []
        places = zip(self.twin.features().values(), self.query_heads, self.key_heads, self.memory, strict=True)
        for (ours, theirs), query_head, key_head, earlier in places:
            query, key = query_head(_vector(ours)), key_head(_vector(theirs))
            losses.append(info_nce(query, key, earlier[: int(self.filled)], self.temperature))
            keys.append(functional.normalize(key.detach(), dim=1))
        self._remember(torch.stack(keys))
        return self.weight * torch.stack(losses).mean()

    def remove(self) -> None:
        """Removes the hooks from both networks."""
        self.twin.remove()

    def _remember(self, keys: Tensor) -> None:
        size = self.memory.shape[1]
        kept = torch.cat([keys, self.memory[:, : int(self.filled)]], 1)[:, :size]  # the latest come first
        self.filled.fill_(kept.shape[1])
        self.memory = torch.cat([kept, self.memory.new_zeros(len(kept), size - kept.shape[1], kept.shape[2])], 1)


def _vector(feature: Tensor) -> Tensor:
    return feature.flatten(2).mean(2) if feature.ndim > 2 else feature
