"""The search for the number of groups of each binary convolution, by evolution on a network with shared weights.

A binary depthwise convolution learns badly, since each of its sums has few terms; a convolution with one group costs
most. The search has three steps:

1. One network is trained whose layers take random groups in every step (GroupSupernet).
2. Groups are evolved: candidates are evaluated with the weights of that network, and the best ones are mutated and
   crossed. All candidates are within a budget of operations.
3. The network with the best groups is trained from scratch. This is left to the caller.

The abstract and the introduction of the paper describe these steps. Its full text was not available. So these are this
project's: that choices share the blocks on the diagonal of the weights, the budget
``(float MACs + binary MACs / 64) / the same with one group``, that a candidate spends it (GroupSpace.spend), and that
batch norms are estimated again for each candidate. The numbers of Evolution are those of the one-shot search of Guo et
al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, arXiv 1904.00420.

References:
    Phan et al., "Binarizing MobileNet via Evolution-based Searching", CVPR 2020, arXiv 2005.06305.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import ArgumentError, ModelError

from ..convert.post_training import recalibrate_
from ..export import Shape
from ..layers.modules import BinaryConv2d
from .group_supernet import GroupedLayer, Groups, GroupSpace, GroupSupernet

FitSupernet = Callable[[nn.Module, int], object]
"""Trains a model in place for a number of epochs: an ordinary loop, with its own data and optimiser."""

CHOICES = (1, 2, 4, 8, 16)
"""The numbers of groups to choose from by default."""


@dataclass(frozen=True)
class Evolution:
    """How candidates evolve.

    Each generation after the first has as many candidates as the first: one half are crossed (every layer's groups from
    one of two random parents), the other half are mutated parents. Candidates that are over the budget, or do not spend
    it, are changed until they do. No candidate is evaluated twice; random ones fill up a generation.

    Attributes:
        population: Candidates of a generation.
        generations: Generations, the first random one included.
        parents: The best candidates so far, which the next generation comes from.
        mutation: The share of a parent's layers that get random groups.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutation: float = 0.1

    def __post_init__(self) -> None:
        if min(self.population, self.generations, self.parents) < 1 or not 0 < self.mutation <= 1:
            raise ArgumentError(
                f"population, generations and parents are 1 or more, and mutation is a share above 0, but got {self}"
            )

    def search(self, space: GroupSpace, budget: float, loss: Callable[[Groups], float], rng: random.Random) -> Groups:
        """The groups with the smallest loss of all that were evaluated."""
        losses: dict[Groups, float] = {}

        def draw() -> Groups:
            return space.draw(rng, budget)

        def cross() -> Groups:
            pair = [rng.choice(parents), rng.choice(parents)]
            return space.spend([rng.choice(numbers) for numbers in zip(*pair, strict=True)], rng, budget)

        def mutate() -> Groups:
            mutated = [
                rng.choice(layer.choices) if rng.random() < self.mutation else number
                for layer, number in zip(space.layers, rng.choice(parents), strict=True)
            ]
            return space.spend(mutated, rng, budget)

        parents: list[Groups] = []
        for _ in range(self.generations):
            candidates: set[Groups] = set()
            if parents:
                self._fill(candidates, losses, self.population // 2, cross)
                self._fill(candidates, losses, self.population, mutate)
            self._fill(candidates, losses, self.population, draw)
            for candidate in sorted(candidates):
                losses[candidate] = loss(candidate)
            parents = sorted(losses, key=lambda each: (losses[each], each))[: self.parents]
        return parents[0]

    @staticmethod
    def _fill(candidates: set[Groups], known: Collection[Groups], count: int, make: Callable[[], Groups]) -> None:
        """Adds new candidates up to the count; fewer if most that are made are known already."""
        for _ in range(10 * count):
            if len(candidates) >= count:
                return
            candidate = make()
            if candidate not in known:
                candidates.add(candidate)


@dataclass(frozen=True)
class GroupEvaluation:
    """A candidate.

    Attributes:
        groups: The groups of each layer.
        cost: Its operations, as a share of those with one group in every layer.
        loss: The validation loss with the shared weights.
    """

    groups: Groups
    cost: float
    loss: float


@dataclass(frozen=True)
class SearchedGroups:
    """The result of a search, which can be applied and saved.

    Attributes:
        budget: The given budget.
        groups: The groups of each layer. For ``group_mobilenet`` this is its argument ``groups``.
        cost: The operations with these, as a share of those with one group in every layer.
        loss: The validation loss with these groups and the shared weights.
        space: The layers of the search.
        evaluations: The candidates, in order; the result is among them.
    """

    budget: float
    groups: Groups
    cost: float
    loss: float
    space: GroupSpace
    evaluations: tuple[GroupEvaluation, ...]

    def apply_(self, model: nn.Module) -> nn.Module:
        """Gives the layers of a model these groups, in place; they get new random weights. Train it afterwards.

        Returns:
            The model.

        Raises:
            ArgumentError: If the model has no such layers.
        """
        modules = dict(model.named_modules())
        for searched, number in zip(self.space.layers, self.groups, strict=True):
            layer = modules.get(searched.name)
            if not isinstance(layer, BinaryConv2d) or layer.in_channels % number + layer.out_channels % number:
                raise ArgumentError(
                    f"the model has no binary convolution {searched.name!r} whose channels can form {number} groups; "
                    f"the groups are of another model"
                )
            model.set_submodule(searched.name, _regrouped(layer, number))
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result as JSON; an existing file stays whole if that fails.

        Raises:
            ModelError: If the path cannot be written.
        """
        with replacing(path, ModelError) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SearchedGroups:
        """Reads a file that ``save`` wrote.

        Raises:
            ModelError: If the file cannot be read, or is not such a file.
        """
        try:
            record = json.loads(Path(path).read_text())
            layers = tuple(
                GroupedLayer(each["name"], each["macs"], tuple(each["choices"])) for each in record["space"]["layers"]
            )
            record["space"] = GroupSpace(layers, record["space"]["fixed"])
            record["evaluations"] = _evaluations(record["evaluations"])
            record["groups"] = tuple(record["groups"])
            return cls(**record)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not the result of a search for groups: {error!r}") from None

    def __str__(self) -> str:
        groups = ", ".join(map(str, self.groups))
        return (
            f"search for groups within {self.budget:.0%} of the operations, {len(self.evaluations)} candidates: "
            f"groups {groups}, cost {self.cost:.1%}, validation loss {self.loss:.4g}"
        )


def search_groups(
    model: nn.Module,
    budget: float,
    *,
    fit: FitSupernet,
    evaluate: Callable[[nn.Module], float],
    calibration: Tensor | Sequence[Tensor],
    epochs: int = 20,
    choices: Collection[int] = CHOICES,
    exclude: Collection[str] = (),
    evolution: Evolution = Evolution(),
    input_shape: Shape | None = None,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SearchedGroups:
    """Finds the number of groups of each binary convolution, so that the network costs at most a share of its cost.

    The docstring of this module says which parts are the paper's and which are this project's.

    Args:
        model: A network with one group in each layer, such as ``reactnet(...)``; left unchanged. The convolutions with
            kernels larger than 1x1 are searched.
        budget: The largest cost of the result, as a share of the cost with one group in every layer; up to 1.
        fit: Trains the network with shared weights in place.
        evaluate: Computes the validation loss of a model in eval mode, on images that ``fit`` does not use. To select
            by accuracy, return the share of wrong classes.
        calibration: Training images, one batch or several: the statistics of the batch norms are estimated again on
            these for each candidate.
        epochs: Epochs of the training.
        choices: Numbers of groups; a layer can choose those that divide its channels.
        exclude: Names or patterns of layers that keep one group.
        evolution: The numbers of candidates.
        input_shape: Shape of the model's input, with the batch; None uses ``model.example_input_array``.
        seed: Seed of all random numbers; equal searches give equal results if ``fit`` is deterministic.
        state: A file with the evaluations so far, written after each one; the trained network is stored beside it, with
            ``.supernet`` after its name. A stopped search continues from these. Searches with other budgets may share
            them.
        progress: Whether to show a progress bar.

    Raises:
        ArgumentError: If the budget cannot be met, an argument is out of range, or the state is of another search.
        ModelError: If the state cannot be read or written, or the model's input shape is unknown.

    Examples:
        >>> found = search_groups(reactnet(10), 0.6, fit=fit, evaluate=loss, calibration=images)  # doctest: +SKIP
        >>> model = group_mobilenet(10, groups=found.groups)  # doctest: +SKIP
    """
    if epochs < 1:
        raise ArgumentError(f"epochs must be 1 or more, but got {epochs}")
    space = GroupSpace.of(model, choices, exclude, input_shape)
    if not space.least <= budget <= 1:
        raise ArgumentError(
            f"budget={budget} must be between {space.least:.4f}, the cost with the most groups in all "
            f"{len(space.layers)} layers, and 1"
        )
    if state is not None:
        check_destination(state, ModelError)
    columns = (
        TextColumn("{task.completed:3} candidates"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, disable=not progress, transient=True) as display:
        row = display.add_task("training", total=None)
        path = None if state is None else Path(state)
        evaluator = _Evaluator(model, space, fit, evaluate, calibration, epochs, seed, path)

        def loss(groups: Groups) -> float:
            display.update(row, description=", ".join(map(str, groups)), completed=len(evaluator.tried))
            return evaluator.loss(groups)

        groups = evolution.search(space, budget, loss, random.Random(seed))
    return SearchedGroups(
        budget, groups, space.cost(groups), evaluator.tried[groups].loss, space, tuple(evaluator.tried.values())
    )


class _Evaluator:
    """Trains the network with shared weights once, and evaluates candidates; both are kept in files."""

    def __init__(
        self,
        model: nn.Module,
        space: GroupSpace,
        fit: FitSupernet,
        evaluate: Callable[[nn.Module], float],
        calibration: Tensor | Sequence[Tensor],
        epochs: int,
        seed: int,
        state: Path | None,
    ) -> None:
        self.tried: dict[Groups, GroupEvaluation] = {}
        self._space, self._evaluate, self._calibration, self._state = space, evaluate, calibration, state
        self._fingerprint = _fingerprint(model, space, epochs, seed)
        self._known: dict[Groups, GroupEvaluation] = {}
        self._supernet = GroupSupernet(model, space)
        if not self._restored():
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fit(self._supernet.train(), epochs)
            self._save_supernet()
        self._supernet.eval()
        self._norms = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in self._supernet.modules())

    def loss(self, groups: Groups) -> float:
        """The validation loss with these groups; infinite if it is no number."""
        if groups not in self._known:
            self._supernet.choose(groups)
            if self._norms:
                recalibrate_(self._supernet, self._calibration)
            with torch.no_grad():
                loss = float(self._evaluate(self._supernet))
            self._known[groups] = GroupEvaluation(
                groups, self._space.cost(groups), math.inf if math.isnan(loss) else loss
            )
            self._save()
        self.tried[groups] = self._known[groups]
        return self.tried[groups].loss

    def _save(self) -> None:
        if self._state is not None:
            record = {
                "fingerprint": self._fingerprint,
                "evaluations": [asdict(each) for each in self._known.values()],
            }
            with replacing(self._state, ModelError) as draft:
                draft.write_text(json.dumps(record, indent=1))

    def _save_supernet(self) -> None:
        if self._state is not None:
            with replacing(_beside(self._state), ModelError) as draft:
                torch.save({"fingerprint": self._fingerprint, "model": self._supernet.state_dict()}, draft)

    def _restored(self) -> bool:
        """Whether the trained network could be loaded; evaluations are loaded as well."""
        if self._state is None or not _beside(self._state).exists():
            return False
        path = _beside(self._state)
        try:
            record = torch.load(path, weights_only=True)
            fingerprints = {record["fingerprint"]}
            if self._state.exists():
                path = self._state
                kept = json.loads(path.read_text())
                fingerprints.add(kept["fingerprint"])
                self._known = {each.groups: each for each in _evaluations(kept["evaluations"])}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ModelError(f"{path} is not of a search for groups: {error!r}; remove it") from None
        if fingerprints != {self._fingerprint}:
            raise ArgumentError(
                f"{self._state} belongs to another search (another model, other choices, epochs or seed); "
                f"remove it, or pass another state"
            )
        self._supernet.load_state_dict(record["model"])
        return True


def _beside(state: Path) -> Path:
    return state.with_name(state.name + ".supernet")


def _evaluations(records: Iterable[dict]) -> tuple[GroupEvaluation, ...]:
    return tuple(GroupEvaluation(tuple(each["groups"]), each["cost"], each["loss"]) for each in records)


def _regrouped(layer: BinaryConv2d, groups: int) -> BinaryConv2d:
    """A new layer like the given one, with other groups."""
    return BinaryConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.pads,
        layer.dilation,
        groups,
        layer.bias is not None,
        padding_value=layer.padding_value,
        domain=layer.domain,
        estimator=layer.estimator,
        binarize=layer.binarize,
    )


def _fingerprint(model: nn.Module, space: GroupSpace, epochs: int, seed: int) -> str:
    """A hash of everything that the loss of a candidate depends on, but fit, evaluate and the calibration."""
    digest = hashlib.sha256(repr((space, epochs, seed)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
