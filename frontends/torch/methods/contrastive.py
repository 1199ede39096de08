"""A contrastive loss: two features of an image should match, and differ from the features of other images.

The features are those of a binary network and a float twin (``Twin``), or the binary and the latent activations inside
one network (``BinarizerPairs``).

References:
    Shang et al., "Network Binarization via Contrastive Learning" (CMIM), ECCV 2022, arXiv 2207.02970.
    Tian et al., "Contrastive Representation Distillation" (CRD), ICLR 2020, arXiv 1910.10699: the loss that CMIM uses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from sbnn_tvm.errors import ArgumentError

from ..layers.training_state import RandomDraws
from .feature_pairs import FeaturePairs


def nce_loss(positive: Tensor, negatives: Tensor, samples: int) -> Tensor:
    """Noise-contrastive estimation with uniform noise over all samples, averaged over the rows.

    With N negatives and c = N / samples, for one row::

        -log(p / (p + c)) - sum over negatives q of log(c / (q + c))

    Args:
        positive: float32 [B], the estimated probability of each row's own sample.
        negatives: float32 [B, N], those of other samples.
        samples: Number of samples that the noise draws from.

    Returns:
        A scalar.

    Examples:
        >>> nce_loss(torch.tensor([0.5]), torch.tensor([[0.5]]), samples=2)  # 2 log(2)
        tensor(1.3863)
    """
    noise = negatives.shape[1] / samples
    tiny = 1e-7  # as the authors'
    positives = (positive / (positive + noise + tiny)).log()
    others = (noise / (negatives + noise + tiny)).log().sum(1)
    return -(positives + others).mean()


class ContrastiveLoss(nn.Module):
    """Two-way NCE between the two features of an image, with a memory of both features of every training image.

    A feature, averaged over its pixels, is projected by a linear head and normalised: u for the first feature of a
    pair, v for the second. The memory holds a moving average of u and of v for each training image. Each way, the
    image's own entry is the positive, and entries of images of other classes, drawn at random, are the negatives::

        p(u, j) = exp(u . memory_v[j] / temperature) / Z      loss = nce(p(u, .)) + nce(p(v, .))

    Z is constant: such that p averages to 1 / samples in the first batch. Everything that training changes is in the
    state dict, so that a resumed training is the same one. Under DistributedDataParallel every rank remembers the
    features of all ranks; wrap this module too, so that heads and memories are equal.

    Called with the indices of the images of the batch, after the network has run::

        scores = student(images)
        loss = cross_entropy(scores, labels) + contrast(index)

    The released code compares the last features of the network with those of a float twin, which is
    ``Twin(student, teacher, [last])``, and doesn't train the heads. To train them, give the optimiser their parameters.
    The paper's figures pair the binary with the latent activations of one network, which is ``BinarizerPairs``. It
    differs from the released code in three points: negatives are drawn with replacement (which has the same mean), the
    teacher's batch norms use their running statistics, and the network runs once per batch instead of twice.

    Args:
        pairs: The features to compare.
        channels: The channels of both features at each place.
        labels: int64 [samples], the class of each training image. Where there are no classes, ``arange(samples)``.
        weight: Factor of the loss, which is the mean over the places.
        dimensions: Size of the projections.
        negatives: How many are drawn for each image.
        temperature: See above.
        momentum: The share of the old entry in the moving average.

    Raises:
        ArgumentError: If a number is out of range, a place has no channels, or all labels are equal; and in a call, if
            there is not one index for each image.
    """

    memory: Tensor
    normalisers: Tensor
    labels: Tensor
    by_class: Tensor
    counts: Tensor
    starts: Tensor

    def __init__(
        self,
        pairs: FeaturePairs,
        channels: Mapping[str, tuple[int, int]],
        labels: Tensor,
        *,
        weight: float = 3.2,
        dimensions: int = 128,
        negatives: int = 4096,
        temperature: float = 0.1,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if missing := [name for name in pairs.places if name not in channels]:
            raise ArgumentError(f"channels has no entry for {missing[0]!r}")
        if dimensions < 1 or negatives < 1:
            raise ArgumentError(f"dimensions and negatives must be 1 or more, but are {dimensions} and {negatives}")
        if not (temperature > 0 and 0 <= momentum < 1):
            raise ArgumentError(
                f"temperature must be above 0 and momentum in [0, 1), but they are {temperature} and {momentum}"
            )
        if labels.ndim != 1 or len(labels.unique()) < 2:
            raise ArgumentError(
                f"labels is the class of each training image, of two classes at least, but has shape "
                f"{list(labels.shape)} and {len(labels.unique())} classes"
            )
        self.pairs = pairs  # no submodule: the networks have their own checkpoints
        self.heads = nn.ModuleList(nn.Linear(count, dimensions) for name in pairs.places for count in channels[name])
        self.weight, self.negatives = weight, negatives
        self.temperature, self.momentum = temperature, momentum
        bound = (3 / dimensions) ** 0.5  # the entries' expected length is 1
        memory = torch.empty(len(pairs.places), 2, len(labels), dimensions).uniform_(-bound, bound)
        self.register_buffer("memory", memory)
        self.register_buffer("normalisers", torch.zeros(len(pairs.places), 2))  # Z; 0 before the first batch
        self.draws = RandomDraws()
        classes, labels = labels.unique(return_inverse=True)
        counts = labels.bincount(minlength=len(classes))
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("by_class", labels.argsort(stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """The loss of the network's latest forward pass, a scalar; in training mode the memory is updated.

        Args:
            index: int64 [N], the batch's images as indices into ``labels``.
        """
        index = index.to(self.memory.device)
        drawn = torch.cat([index[:, None], self.draw(index)], 1)
        losses, features = [], []
        for place, (name, pair) in enumerate(self.pairs.features().items()):
            if len(pair[0]) != len(index):
                raise ArgumentError(f"at {name!r} there are {len(pair[0])} features, but {len(index)} indices")
            projected = [self._project(place, which, feature) for which, feature in enumerate(pair)]
            for which, feature in enumerate(projected):
                losses.append(self._one_way(place, which, feature, drawn))
            features.append(torch.stack(projected).detach())
        if self.training:
            self._remember(index, torch.stack(features))
        return self.weight * torch.stack(losses).sum() / len(self.pairs.places)

    def draw(self, index: Tensor) -> Tensor:
        """Random images of other classes, int64 [N, negatives] for an index [N]."""
        own = self.labels[index]
        counts, starts = self.counts[own][:, None], self.starts[own][:, None]
        shape = len(index), self.negatives
        generator = self.draws.generator(index.device)
        place = torch.randint(2**62, shape, generator=generator, device=index.device) % (len(self.labels) - counts)
        return self.by_class[place + (place >= starts) * counts]

    def remove(self) -> None:
        """Removes the hooks from the networks."""
        self.pairs.remove()

    def _project(self, place: int, which: int, feature: Tensor) -> Tensor:
        vector = feature.flatten(2).mean(2) if feature.ndim > 2 else feature
        return functional.normalize(self.heads[2 * place + which](vector).float(), dim=1)

    def _one_way(self, place: int, which: int, feature: Tensor, drawn: Tensor) -> Tensor:
        entries = self.memory[place, 1 - which][drawn]
        with torch.autocast(feature.device.type, enabled=False):  # exponentials of half floats are too coarse
            odds = (torch.einsum("bd,bnd->bn", feature, entries) / self.temperature).exp()
        if not self.normalisers[place, which]:
            self.normalisers[place, which] = _mean_over_ranks(odds.detach().mean()) * len(self.labels)
        probability = odds / self.normalisers[place, which].clone()  # the buffer changes before the backward pass
        return nce_loss(probability[:, 0], probability[:, 1:], len(self.labels))

    @torch.no_grad()
    def _remember(self, index: Tensor, features: Tensor) -> None:
        """Moves the entries of the images of all ranks; ``features`` is [places, 2, N, D]."""
        index = _rows_of_all_ranks(index)
        rows = _rows_of_all_ranks(features.permute(2, 0, 1, 3).contiguous())
        moved = self.momentum * self.memory[:, :, index] + (1 - self.momentum) * rows.permute(1, 2, 0, 3)
        self.memory[:, :, index] = functional.normalize(moved, dim=3)


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _mean_over_ranks(x: Tensor) -> Tensor:
    if _distributed():
        x = x.clone()
        distributed.all_reduce(x)
        x /= distributed.get_world_size()
    return x


def _rows_of_all_ranks(x: Tensor) -> Tensor:
    """The rows of all ranks in one tensor, the same on every rank; ranks may have different numbers of rows."""
    if not _distributed():
        return x
    ranks = distributed.get_world_size()
    counts = [x.new_zeros((), dtype=torch.int64) for _ in range(ranks)]
    distributed.all_gather(counts, torch.tensor(len(x), device=x.device))
    most = max(int(count) for count in counts)
    parts = [x.new_empty(most, *x.shape[1:]) for _ in range(ranks)]
    distributed.all_gather(parts, torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
