"""Training and evaluation of a network with some components binary; results are kept, also in a file."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
import re
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.progress import Progress
from torch import Tensor, nn

from sbnn_tvm.atomic_file import replacing
from sbnn_tvm.errors import ArgumentError, ModelError

from ..convert.replace_layers import BinaryConfig, Conversion, binarize_
from .components import Components, Mask

Penalty = Callable[[Tensor], Tensor]
"""Computes from the loss what to add to it."""


class Fit(Protocol):
    """Trains a model in place: an ordinary loop, with its own data and optimiser."""

    def __call__(self, model: nn.Module, epochs: int, penalty: Penalty | None) -> object:
        """Trains all parameters of ``model`` for ``epochs``, on ``loss + penalty(loss)`` if there is a penalty."""


Evaluate = Callable[[nn.Module], float]
"""Computes the validation loss of a model, which the search minimises."""


@dataclass(frozen=True)
class Evaluation:
    """The result of training with a mask.

    Attributes:
        binary: The mask.
        cost: Its share of the float network's cost.
        loss: The validation loss after training.
        seconds: How long training and evaluation took.
    """

    binary: Mask
    cost: float
    loss: float
    seconds: float = field(compare=False)


def evaluation_of(record: dict) -> Evaluation:
    """An evaluation from its JSON form."""
    return Evaluation(tuple(record["binary"]), record["cost"], record["loss"], record["seconds"])


def apply_mask_(model: nn.Module, binary: Collection[str], config: BinaryConfig = BinaryConfig()) -> Conversion:  # noqa: B008 (frozen)
    """Makes the named layers of a float model binary, in place, and no others.

    Raises:
        ArgumentError: If the model has no such layers.
    """
    modules = dict(model.named_modules())
    if missing := [name for name in binary if name not in modules]:
        raise ArgumentError(f"the model has no layer {missing[0]!r}; the mask is of another model")
    conversion = binarize_(model, config, skip=lambda name, module: name not in binary)
    if len(conversion.converted) != len(set(binary)):
        reasons = "; ".join(
            f"{note.name} ({note.kind}): {note.reason}" for note in conversion.kept if note.name in binary
        )
        raise ArgumentError(f"not all of {', '.join(binary)} can become binary: {reasons}")
    return conversion


class MaskEvaluator:
    """Trains and evaluates masks for a search method, and keeps the results.

    Attributes:
        model: The float model; left unchanged.
        components: The layers to choose from.
        budget, config, seed: Same as in search_partial_binarization.
        tried: The results that the search has asked for so far.
        stage_seconds: How long the stages took, for a search that trains in stages.
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
        self.stage_seconds = 0.0
        self._known: dict[Mask, Evaluation] = {}
        self._fit, self._evaluate, self._epochs, self._state = fit, evaluate, epochs, state
        self._progress = progress
        self._row = progress.add_task("", total=None)
        self._fingerprint = _fingerprint(model, components, config, epochs, seed)
        if state is not None and state.exists():
            self._restore(state)

    def loss(self, mask: Mask) -> float:
        """The validation loss of a mask, after training the float model with it; infinite if the training diverges.

        Each mask is trained once.
        """
        if mask not in self._known:
            start = time.perf_counter()
            model = copy.deepcopy(self.model)
            apply_mask_(model, mask, self.config)
            self._train(model, None, ", ".join(mask) or "nothing binary")
            with torch.no_grad():
                loss = float(self._evaluate(model))
            if math.isnan(loss):
                loss = math.inf
            self._known[mask] = Evaluation(mask, self.components.cost(mask), loss, time.perf_counter() - start)
            self._save()
        self.tried[mask] = self._known[mask]
        return self.tried[mask].loss

    def train_in_stages(
        self, method: object, stages: int, make: Callable[[], nn.Module], prepare: Callable[[nn.Module, int], Penalty]
    ) -> nn.Module:
        """Trains a model of a search method's own in several stages; a stopped training goes on after the last one.

        Args:
            method: The method, whose attributes tell its checkpoint from those of other methods.
            stages: The number of stages, of ``epochs`` each.
            make: Makes the model.
            prepare: Called with the model and the number of each stage before it; returns its penalty.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = make()
        path = self._checkpoint_path(method)
        done = self._load_stages(path, model) if path is not None and path.exists() else 0
        for stage in range(stages):
            penalty = prepare(model, stage)
            if stage < done:
                continue
            start = time.perf_counter()
            self._train(model, penalty, f"stage {stage + 1} of {stages}", seed=stage)
            self.stage_seconds += time.perf_counter() - start
            if path is not None:
                record = {"stages": stage + 1, "seconds": self.stage_seconds, "model": model.state_dict()}
                with replacing(path, ModelError) as draft:
                    torch.save(record, draft)
        return model

    def _load_stages(self, path: Path, model: nn.Module) -> int:
        """Restores a model and the time that its stages took; returns their number."""
        try:
            record = torch.load(path, weights_only=True)
            model.load_state_dict(record["model"])
            self.stage_seconds = record["seconds"]
            return record["stages"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ModelError(f"{path} is not the checkpoint of a search: {error!r}; remove it") from None

    def _train(self, model: nn.Module, penalty: Penalty | None, what: str, seed: int = 0) -> None:
        """Trains a model; every mask gets the same random numbers, so that chance affects the comparison less."""
        self._progress.update(self._row, description=what, completed=len(self.tried))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + seed)
            model.train()
            self._fit(model, self._epochs, penalty)
        model.eval()

    def _checkpoint_path(self, method: object) -> Path | None:
        """A file beside the state for each method and budget."""
        if self._state is None:
            return None
        settings = f"{self._fingerprint} {method} {self.budget} {self.components.measure}"
        return self._state.with_name(f"{self._state.name}.{_digest(settings)[:12]}.stages")

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
            fingerprint, evaluations = record["fingerprint"], [evaluation_of(each) for each in record["evaluations"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{state} is not the state of a search: {error!r}; remove it, or pass another state"
            ) from None
        if fingerprint != self._fingerprint:
            raise ArgumentError(
                f"{state} belongs to another search (other weights, components, epochs, config or seed); "
                f"remove it, or pass another state"
            )
        # The cost depends on the measure, which a state does not fix.
        self._known = {each.binary: replace(each, cost=self.components.cost(each.binary)) for each in evaluations}


def _fingerprint(model: nn.Module, components: Components, config: BinaryConfig, epochs: int, seed: int) -> str:
    """A hash of everything that the loss of a mask depends on."""
    settings = repr((components.choices, config, epochs, seed))
    settings = re.sub(r" at 0x[0-9a-f]+", "", settings)  # without addresses of functions
    state = model.state_dict()
    data = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for tensor in state.values())
    return _digest(settings, *state, *(each.tobytes() for each in data))


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
