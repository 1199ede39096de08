"""Methods to search for the components to make binary.

The abstract of MixBin's first version calls its search iterative; the step rule of ``Greedy`` is this project's. The
second version optimises the mixing, and beats random and iterative searches. ``Gradual`` does so in the way in which
ChipNet, by the same group, chooses channels: trained logistic masks that get crisper, and a squared penalty on the
budget.

References:
    Tiwari, Bamba, Chavan, Gupta, "ChipNet", ICLR 2021, arXiv 2102.07156.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from .components import Mask
from .evaluate_masks import MaskEvaluator, Penalty
from .mixed_layer import MixedLayer, mixed_layers


class Method(Protocol):
    """A way to search for a mask."""

    def search(self, evaluator: MaskEvaluator) -> Mask:
        """Returns a mask within the budget."""


@dataclass(frozen=True)
class Greedy:
    """Starts with no binary component, and repeatedly makes the component binary that raises the loss least.

    The measure is the rise of the validation loss per unit of saved cost. Once the cost is within the budget,
    components become float again as long as the budget allows it. Every mask is trained from the given float model. n
    components take n (n + 1) / 2 trainings or a few more.
    """

    def search(self, evaluator: MaskEvaluator) -> Mask:
        """Adds one component per step, then removes single ones."""
        chosen: Mask = ()
        components = evaluator.components
        loss = evaluator.loss(chosen)
        while components.cost(chosen) > evaluator.budget:
            candidates = []
            for name in components.names:
                if name not in chosen:
                    mask = components.mask((*chosen, name))
                    rise = evaluator.loss(mask) - loss if math.isfinite(loss) else math.inf
                    candidates.append((rise / (components.cost(chosen) - components.cost(mask)), mask))
            chosen = min(candidates)[1]
            loss = evaluator.loss(chosen)
        fewer = [components.mask({*chosen} - {name}) for name in chosen]
        while within := [mask for mask in fewer if components.cost(mask) <= evaluator.budget]:
            chosen = min(within, key=evaluator.loss)
            fewer = [components.mask({*chosen} - {name}) for name in chosen]
        return chosen


@dataclass(frozen=True)
class Gradual:
    """Trains a network whose components are mixtures of float and binary, which get crisper from stage to stage.

    With m the share of the binary part of a component, z its trained parameter and k the crispness::

        (1)  y = m * binary(x) + (1 - m) * float(x)
        (2)  m = sigmoid(k * z)
        (3)  loss + strength * relu(cost(m) - budget)^2      is minimised

    k grows by the same factor between stages. At the end m is rounded. If the cost is then above the budget, the
    components with the largest m become binary too. Components that need not be binary become float again, those with
    the smallest m first.

    Attributes:
        stages: Number of stages, of the search's ``epochs`` each.
        crispness: k in the first and in the last stage.
        strength: Factor of the penalty.
    """

    stages: int = 6
    crispness: tuple[float, float] = (2.0, 50.0)
    strength: float = 20.0

    def search(self, evaluator: MaskEvaluator) -> Mask:
        """Trains once, in stages."""
        components = evaluator.components
        savings = components.savings()
        first, last = self.crispness

        def penalty_of(model: nn.Module, stage: int) -> Penalty:
            mixed = mixed_layers(model)
            for layer in mixed.values():
                layer.crispness = first * (last / first) ** (stage / max(self.stages - 1, 1))

            def penalty(loss: Tensor) -> Tensor:
                saved = torch.stack([mixed[name].share() * share for name, share in savings.items()]).sum()
                return self.strength * torch.relu(1 - saved - evaluator.budget).square()

            return penalty

        model = evaluator.train_in_stages(self, self.stages, lambda: self._mixtures(evaluator), penalty_of)
        z = {name: float(layer.z.detach()) for name, layer in mixed_layers(model).items()}
        order = sorted(components.names, key=lambda name: -z[name])
        return components.until_within(evaluator.budget, order, [name for name in order if z[name] > 0])

    def _mixtures(self, evaluator: MaskEvaluator) -> nn.Module:
        """The float model with a mixture in place of each component, also where a layer is registered twice."""
        model = copy.deepcopy(evaluator.model)
        mixtures = {
            layer: MixedLayer(layer, evaluator.config) for layer in map(model.get_submodule, evaluator.components.names)
        }
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child in mixtures and not isinstance(parent, MixedLayer):
                    parent._modules[name] = mixtures[child]
        return model


@dataclass(frozen=True)
class Random:
    """The best of some random masks: components become binary in a random order until the cost is within the budget.

    Attributes:
        samples: Number of masks; equal ones are trained once.
    """

    samples: int = 8

    def search(self, evaluator: MaskEvaluator) -> Mask:
        """A baseline: its evaluations also give the mean loss of random masks."""
        rng = random.Random(evaluator.seed)
        names = list(evaluator.components.names)
        masks = [
            evaluator.components.until_within(evaluator.budget, rng.sample(names, len(names)))
            for _ in range(self.samples)
        ]
        return min(masks, key=evaluator.loss)


@dataclass(frozen=True)
class Exhaustive:
    """The best of all masks within the budget, for few components: an optimum to compare other methods with.

    Attributes:
        limit: The largest number of components for which this runs, since n components have 2^n masks.
    """

    limit: int = 12

    def search(self, evaluator: MaskEvaluator) -> Mask:
        """Trains all masks within the budget."""
        names = evaluator.components.names
        if len(names) > self.limit:
            raise ArgumentError(f"{len(names)} components have 2^{len(names)} masks; use 'greedy' or 'gradual'")
        masks = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1))
        return min((mask for mask in masks if evaluator.components.cost(mask) <= evaluator.budget), key=evaluator.loss)


METHODS: dict[str, Callable[[], Method]] = {
    "greedy": Greedy,
    "gradual": Gradual,
    "random": Random,
    "exhaustive": Exhaustive,
}
