"""Which layers of a network to make binary, under a budget: MixBin-style search.

Some layers lose more by binarisation than others, and some cost more. A *mask* says which components are binary; a
search looks for the mask with the least validation loss among those within a budget.

The **budget** is this project's definition: ``(float MACs + binary MACs / 64) / MACs of the float network``, over all
layers with weights (costs). The **components** are the convolutions, without the first and the last layer with weights
and without those of shortcuts.

The papers' abstracts say that the mix of binary and float components is controlled by a budget, and found by an
iterative search (version 1) or by optimising the mixing (version 2). Their texts were not at hand, so the step rules
here are our own, and the papers' activation BinReLU is left out, since its formula is not known to us.

References:
    Bamba, Anand, Aggarwal, Prasad, Gupta, "Partial Binarization of Neural Networks for Budget-Aware Efficient
    Learning", WACV 2024, arXiv 2211.06739 (version 1: "MixBin: Towards Budgeted Binarization").
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import os
import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import ModelError

from ..convert.replace_layers import FIRST, LAST, BinaryConfig, Conversion, binarize_, obstacle
from ..export import Shape
from .costs import BITS_PER_WORD, layer_costs
from .mixed_layer import MixedLayer

EXCLUDED = (FIRST, LAST, "*downsample*", "*shortcut*")
"""What stays float unless a search is told otherwise: stem, head, and projections of shortcuts, by their names."""

Mask = tuple[str, ...]
"""The names of the components that are binary, in the order of execution."""

Penalty = Callable[[Tensor], Tensor]
"""What to add to a loss that is given."""


class Fit(Protocol):
    """Trains a model in place: an ordinary loop, with its own data and optimiser."""

    def __call__(self, model: nn.Module, epochs: int, penalty: Penalty | None) -> object:
        """Train all parameters of ``model`` for ``epochs``, on ``loss + penalty(loss)`` where there is a penalty."""


Evaluate = Callable[[nn.Module], float]
"""The validation loss of a model; the search minimises it."""


@dataclass(frozen=True)
class Component:
    """A layer that may become binary.

    Attributes:
        name: Its qualified name.
        macs: Its multiply-accumulates for one image.
    """

    name: str
    macs: int


@dataclass(frozen=True)
class Components:
    """What there is to choose from.

    Attributes:
        choices: The components, in the order of execution.
        fixed_macs: Multiply-accumulates of all other layers, which stay float.
    """

    choices: tuple[Component, ...]
    fixed_macs: int

    @staticmethod
    def of(model: nn.Module, exclude: Collection[str] = EXCLUDED, input_shape: Shape | None = None) -> Components:
        """The convolutions of a float model that binarize_ can convert.

        Args:
            model: Left unchanged.
            exclude: Names or patterns of what stays float; FIRST and LAST are the first and last layer with weights.
            input_shape: As of layer_costs.

        Raises:
            ValueError: If nothing is left to choose from, or some layer is binary already.
        """
        layers = layer_costs(model, input_shape)
        if binary := [layer.name for layer in layers if layer.binary]:
            raise ValueError(f"the search starts from a float model, but {binary[0]!r} is binary already")
        modules = dict(model.named_modules())
        ends = {FIRST: layers[:1], LAST: layers[-1:]}
        fixed = {layer.name for pattern in exclude for layer in ends.get(pattern, ())}
        choices = tuple(
            Component(layer.name, layer.macs)
            for layer in layers
            if type(modules[layer.name]) is nn.Conv2d
            and not obstacle(modules[layer.name])
            and layer.name not in fixed
            and not any(fnmatchcase(layer.name, pattern) for pattern in exclude)
        )
        if not choices:
            raise ValueError(
                f"no convolution is left to make binary: the layers are {', '.join(layer.name for layer in layers)}, "
                f"and exclude={tuple(exclude)}"
            )
        return Components(choices, sum(layer.macs for layer in layers) - sum(choice.macs for choice in choices))

    @property
    def names(self) -> Mask:
        """Of all components."""
        return tuple(choice.name for choice in self.choices)

    def mask(self, names: Iterable[str]) -> Mask:
        """The names in the order of execution."""
        chosen = set(names)
        return tuple(name for name in self.names if name in chosen)

    def cost(self, binary: Collection[str]) -> float:
        """Of a mask, as a share of the float network's."""
        chosen = set(binary)
        return 1 - sum(saved for name, saved in self.savings().items() if name in chosen)

    def savings(self) -> dict[str, float]:
        """By how much of the float network's cost each component reduces it when it becomes binary."""
        total = self.fixed_macs + sum(choice.macs for choice in self.choices)
        return {choice.name: choice.macs * (1 - 1 / BITS_PER_WORD) / total for choice in self.choices}

    def until_within(self, budget: float, order: Sequence[str], start: Iterable[str] = ()) -> Mask:
        """Components are made binary in the given order until the cost is within the budget.

        Those that need not be are made float again, the last in the order first.
        """
        chosen = set(start)
        for name in order:
            if self.cost(chosen) <= budget:
                break
            chosen.add(name)
        for name in reversed(order):
            if name in chosen and self.cost(chosen - {name}) <= budget:
                chosen.remove(name)
        return self.mask(chosen)


@dataclass(frozen=True)
class Evaluation:
    """A mask that was tried.

    Attributes:
        binary: The mask.
        cost: Its share of the float network's cost.
        loss: The validation loss after training.
    """

    binary: Mask
    cost: float
    loss: float


@dataclass(frozen=True)
class PartialBinarization:
    """What a search found: apply it, save it.

    Attributes:
        method: How it searched.
        budget: What it was given.
        binary: The components to make binary.
        cost: Their network's share of the float network's cost.
        loss: Its validation loss.
        components: What there was to choose from.
        evaluations: The masks that this search tried, in order; the result among them.
    """

    method: str
    budget: float
    binary: Mask
    cost: float
    loss: float
    components: Components
    evaluations: tuple[Evaluation, ...]

    def apply_(self, model: nn.Module, config: BinaryConfig = BinaryConfig()) -> Conversion:  # noqa: B008 (frozen)
        """Makes the chosen layers of a float model binary, in place; train it afterwards.

        Raises:
            ValueError: If the model has no such layers.
        """
        return apply_mask_(model, self.binary, config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """As JSON, in one step.

        Raises:
            ModelError: If the path cannot be written.
        """
        with replacing(path, ModelError) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PartialBinarization:
        """Reads what ``save`` wrote.

        Raises:
            ModelError: If the file cannot be read or is something else.
        """
        try:
            record = json.loads(Path(path).read_text())
            choices = tuple(Component(**choice) for choice in record["components"]["choices"])
            record["components"] = Components(choices, record["components"]["fixed_macs"])
            record["evaluations"] = tuple(_evaluation(each) for each in record["evaluations"])
            record["binary"] = tuple(record["binary"])
            return cls(**record)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} holds no result of a search for a partial binarisation: {error!r}") from None

    def __str__(self) -> str:
        names = ", ".join(self.binary) or "nothing"
        return (
            f"{self.method} search within {self.budget:.0%} of the float cost, {len(self.evaluations)} masks tried: "
            f"{len(self.binary)} of {len(self.components.choices)} components binary ({names}), "
            f"cost {self.cost:.1%}, validation loss {self.loss:.4g}"
        )


def apply_mask_(model: nn.Module, binary: Collection[str], config: BinaryConfig = BinaryConfig()) -> Conversion:  # noqa: B008 (frozen)
    """Makes the named layers of a float model binary, in place, and no other.

    Raises:
        ValueError: If the model has no such layers.
    """
    modules = dict(model.named_modules())
    if missing := [name for name in binary if name not in modules]:
        raise ValueError(f"the model has no layer {missing[0]!r}; the mask is of another model")
    conversion = binarize_(model, config, skip=lambda name, module: name not in binary)
    if len(conversion.converted) != len(set(binary)):
        raise ValueError(f"of {', '.join(binary)} not all can become binary:\n{conversion}")
    return conversion


class Method(Protocol):
    """A way to look for a mask."""

    def search(self, task: Task) -> Mask:
        """The mask to take; it lies within the budget."""


@dataclass(frozen=True)
class Greedy:
    """Starts with nothing binary; time and again makes that component binary that raises the loss least.

    What counts is the rise of the validation loss for each unit of cost that is saved. Once the cost is within the
    budget, components that need not be binary for it become float again, as long as there are any. Every mask is
    trained from the given float model, and n components make it n (n + 1) / 2 masks or a few more.
    """

    def search(self, task: Task) -> Mask:
        """One component more at each step, then one less."""
        chosen: Mask = ()
        components = task.components
        loss = task.loss(chosen)
        while components.cost(chosen) > task.budget:
            candidates = []
            for name in components.names:
                if name not in chosen:
                    mask = components.mask((*chosen, name))
                    rise = task.loss(mask) - loss if math.isfinite(loss) else math.inf
                    candidates.append((rise / (components.cost(chosen) - components.cost(mask)), mask))
            chosen = min(candidates)[1]
            loss = task.loss(chosen)
        fewer = [components.mask({*chosen} - {name}) for name in chosen]
        while within := [mask for mask in fewer if components.cost(mask) <= task.budget]:
            chosen = min(within, key=task.loss)
            fewer = [components.mask({*chosen} - {name}) for name in chosen]
        return chosen


@dataclass(frozen=True)
class Gradual:
    """Trains a network whose components are mixtures of float and binary, and lets them choose.

    ``y = m * binary(x) + (1 - m) * float(x)`` with ``m = sigmoid(k * z)``, on the loss plus
    ``strength * relu(cost(m) - budget)^2``. Training goes in stages, between which the crispness k grows by a factor.
    In the end m is rounded. If the cost is above the budget then, the components with the largest m follow; components
    that need not be binary become float again, those with the smallest m first.

    Attributes:
        stages: How many, of the search's ``epochs`` each.
        crispness: k in the first and in the last stage.
        strength: Of the penalty.
    """

    stages: int = 6
    crispness: tuple[float, float] = (2.0, 50.0)
    strength: float = 20.0

    def search(self, task: Task) -> Mask:
        """One training; a checkpoint after each stage."""
        components = task.components
        model, done = task.checkpoint(lambda: self._mixed(task))
        mixed = dict(_mixed(model))

        def penalty(loss: Tensor) -> Tensor:
            saved = torch.stack([mixed[name].share() * share for name, share in components.savings().items()]).sum()
            return self.strength * torch.relu(1 - saved - task.budget).square()

        first, last = self.crispness
        for stage in range(self.stages):
            for layer in mixed.values():
                layer.crispness = first * (last / first) ** (stage / max(self.stages - 1, 1))
            if stage >= done:
                task.train(model, penalty, f"stage {stage + 1} of {self.stages}", seed=stage)
                task.save_checkpoint(model, stage + 1)
        order = sorted(components.names, key=lambda name: -float(mixed[name].z.detach()))
        rounded = [name for name in order if mixed[name].z > 0]
        return components.until_within(task.budget, order, rounded)

    def _mixed(self, task: Task) -> nn.Module:
        model = copy.deepcopy(task.model)
        mixtures = {layer: MixedLayer(layer, task.config) for layer in map(model.get_submodule, task.components.names)}
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child in mixtures and not isinstance(parent, MixedLayer):
                    parent._modules[name] = mixtures[child]
        return model


@dataclass(frozen=True)
class Random:
    """The best of some random masks: components in a random order until the cost is within the budget, and no more.

    Attributes:
        samples: How many; equal ones are tried once.
    """

    samples: int = 8

    def search(self, task: Task) -> Mask:
        """A baseline: its evaluations give the mean of random masks as well."""
        rng = random.Random(task.seed)
        names = list(task.components.names)
        masks = [task.components.until_within(task.budget, rng.sample(names, len(names))) for _ in range(self.samples)]
        return min(masks, key=task.loss)


@dataclass(frozen=True)
class Exhaustive:
    """The best of all masks within the budget: the oracle, for a few components.

    Attributes:
        limit: The most components for which this is tried: there are 2 ^ n masks.
    """

    limit: int = 12

    def search(self, task: Task) -> Mask:
        """Tries them all."""
        names = task.components.names
        if len(names) > self.limit:
            raise ValueError(f"{len(names)} components have 2^{len(names)} masks; take 'greedy' or 'gradual'")
        masks = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1))
        return min((mask for mask in masks if task.components.cost(mask) <= task.budget), key=task.loss)


METHODS: dict[str, Callable[[], Method]] = {
    "greedy": Greedy,
    "gradual": Gradual,
    "random": Random,
    "exhaustive": Exhaustive,
}


class Task:
    """What a method searches in: trains and evaluates masks, and remembers what it has evaluated.

    Attributes:
        model: The float model; left unchanged.
        components: What there is to choose from.
        budget, config, seed: As of search_partial_binarization.
        tried: What the search has asked for so far.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Components,
        budget: float,
        config: BinaryConfig,
        fit: Fit,
        evaluate: Evaluate,
        epochs: int,
        seed: int,
        state: Path | None,
        progress: Progress,
    ) -> None:
        self.model, self.components, self.budget, self.config, self.seed = model, components, budget, config, seed
        self.tried: dict[Mask, Evaluation] = {}
        self._known: dict[Mask, Evaluation] = {}
        self._fit, self._evaluate, self._epochs, self._state = fit, evaluate, epochs, state
        self._progress = progress
        self._row = progress.add_task("", total=None)
        self._fingerprint = _fingerprint(model, components, config, epochs, seed)
        if state is not None and state.exists():
            self._restore(state)

    def loss(self, mask: Mask) -> float:
        """The validation loss of a mask, after training the float model with it; infinite where it diverges.

        Each mask is trained once.
        """
        if mask not in self._known:
            model = copy.deepcopy(self.model)
            apply_mask_(model, mask, self.config)
            self.train(model, None, ", ".join(mask) or "nothing binary")
            with torch.no_grad():
                loss = float(self._evaluate(model))
            if math.isnan(loss):
                loss = math.inf
            self._known[mask] = Evaluation(mask, self.components.cost(mask), loss)
            self._save()
        self.tried[mask] = self._known[mask]
        return self.tried[mask].loss

    def train(self, model: nn.Module, penalty: Penalty | None, what: str, seed: int = 0) -> None:
        """Trains a model; the same random numbers for every mask, so that they differ by less chance."""
        self._progress.update(self._row, description=what, completed=len(self.tried))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + seed)
            model.train()
            self._fit(model, self._epochs, penalty)
        model.eval()

    def checkpoint(self, make: Callable[[], nn.Module]) -> tuple[nn.Module, int]:
        """The model that ``save_checkpoint`` left, with the number of stages done; or a new one."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = make()
        path = self._checkpoint_path()
        if path is None or not path.exists():
            return model, 0
        record = torch.load(path, weights_only=True)
        if record["fingerprint"] != self._checkpoint_fingerprint():
            raise ValueError(f"{path} belongs to another search; remove it, or pass another state")
        model.load_state_dict(record["model"])
        return model, record["stages"]

    def save_checkpoint(self, model: nn.Module, stages: int) -> None:
        """Keeps a model whose training takes several stages."""
        path = self._checkpoint_path()
        if path is not None:
            with replacing(path, ModelError) as draft:
                record = {"fingerprint": self._checkpoint_fingerprint(), "stages": stages, "model": model.state_dict()}
                torch.save(record, draft)

    def _checkpoint_path(self) -> Path | None:
        return self._state and self._state.with_name(self._state.name + ".stages")

    def _checkpoint_fingerprint(self) -> str:
        return f"{self._fingerprint} {self.budget}"

    def _save(self) -> None:
        if self._state is not None:
            record = {
                "fingerprint": self._fingerprint,
                "evaluations": [asdict(each) for each in self._known.values()],
            }
            with replacing(self._state, ModelError) as draft:
                draft.write_text(json.dumps(record, indent=1))

    def _restore(self, state: Path) -> None:
        try:
            record = json.loads(state.read_text())
            fingerprint, evaluations = record["fingerprint"], [_evaluation(each) for each in record["evaluations"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{state} is no state of a search: {error!r}; remove it, or pass another one") from None
        if fingerprint != self._fingerprint:
            raise ValueError(
                f"{state} belongs to another search (other weights, components, epochs, config or seed); "
                f"remove it, or pass another state"
            )
        self._known = {each.binary: each for each in evaluations}


def search_partial_binarization(
    model: nn.Module,
    budget: float = 0.5,
    *,
    fit: Fit,
    evaluate: Evaluate,
    method: str | Method = "greedy",
    epochs: int = 5,
    config: BinaryConfig = BinaryConfig(),  # noqa: B008 (frozen)
    exclude: Collection[str] = EXCLUDED,
    input_shape: Shape | None = None,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PartialBinarization:
    """Finds the layers to make binary, so that the network costs no more than a share of what it costs in float.

    MixBin-style: see the module for what is ours and what is the paper's.

    Args:
        model: A trained float network; left unchanged.
        budget: The share of the float network's cost, above 0 and up to 1, that the result may have.
        fit: Trains a model in place.
        evaluate: The validation loss of a model, on images that ``fit`` does not see.
        method: ``"greedy"``, ``"gradual"``, ``"random"`` or ``"exhaustive"``, or an object such as ``Random(20)``.
        epochs: Of each training: of each mask, or of each stage.
        config: How components become binary.
        exclude: What stays float (EXCLUDED); an explicit one replaces the default.
        input_shape: Of the model's input, with the batch; None takes ``model.example_input_array``.
        seed: Of all random numbers; the same search gives the same result if ``fit`` is deterministic.
        state: A file that holds what was tried so far, renewed after each evaluation. A search that was stopped goes on
            from it; searches by other methods or with other budgets may share it.
        progress: Whether to draw a progress bar.

    Raises:
        ValueError: If the budget cannot be met, an argument is out of range, or the state is of another search.
        ModelError: If the state cannot be read or written, or the model's input shape is unknown.

    Examples:
        >>> found = search_partial_binarization(model, 0.5, fit=fit, evaluate=loss)  # doctest: +SKIP
        >>> found.apply_(model)  # doctest: +SKIP
    """
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; pass {', '.join(METHODS)} or a Method object")
    if epochs < 1:
        raise ValueError(f"epochs must be 1 or more, but got {epochs}")
    components = Components.of(model, exclude, input_shape)
    least = components.cost(components.names)
    if not least <= budget <= 1:
        raise ValueError(
            f"budget={budget} must lie between {least:.4f}, the cost with all {len(components.choices)} components "
            f"binary, and 1"
        )
    if state is not None:
        check_destination(state, ModelError)
    searcher = METHODS[method]() if isinstance(method, str) else method
    columns = (
        TextColumn("{task.completed:3} masks tried"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, disable=not progress, transient=True) as display:
        path = None if state is None else Path(state)
        task = Task(model, components, budget, config, fit, evaluate, epochs, seed, path, display)
        mask = searcher.search(task)
        loss = task.loss(mask)
    name = type(searcher).__name__.lower()
    cost = components.cost(mask)
    return PartialBinarization(name, budget, mask, cost, loss, components, tuple(task.tried.values()))


def _mixed(model: nn.Module) -> Iterator[tuple[str, MixedLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, MixedLayer):
            yield name, module


def _evaluation(record: dict) -> Evaluation:
    return Evaluation(tuple(record["binary"]), record["cost"], record["loss"])


def _fingerprint(model: nn.Module, components: Components, config: BinaryConfig, epochs: int, seed: int) -> str:
    """Of what the loss of a mask depends on."""
    settings = re.sub(r" at 0x[0-9a-f]+", "", repr((components, config, epochs, seed)))  # functions say where they lie
    digest = hashlib.sha256(settings.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
