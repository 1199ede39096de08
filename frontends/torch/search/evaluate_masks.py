"""Training and evaluation of a network with some components binary; results are kept, also in a file."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
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
    """

    binary: Mask
    cost: float
    loss: float


def evaluation_of(record: dict) -> Evaluation:
    """An evaluation from its JSON form."""
    return Evaluation(tuple(record["binary"]), record["cost"], record["loss"])


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
        """The validation loss of a mask, after training the float model with it; infinite if the training diverges.

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
        """Trains a model; every mask gets the same random numbers, so that chance affects the comparison less."""
        self._progress.update(self._row, description=what, completed=len(self.tried))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed + seed)
            model.train()
            self._fit(model, self._epochs, penalty)
        model.eval()

    def checkpoint(self, make: Callable[[], nn.Module]) -> tuple[nn.Module, int]:
        """The model that ``save_checkpoint`` stored and its number of finished stages, or a new model and 0."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = make()
        path = self._checkpoint_path()
        if path is None or not path.exists():
            return model, 0
        record = torch.load(path, weights_only=True)
        if record["fingerprint"] != self._checkpoint_fingerprint():
            raise ArgumentError(f"{path} belongs to another search; remove it, or pass another state")
        model.load_state_dict(record["model"])
        return model, record["stages"]

    def save_checkpoint(self, model: nn.Module, stages: int) -> None:
        """Stores a model whose training takes several stages."""
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
        self._known = {each.binary: each for each in evaluations}


def _fingerprint(model: nn.Module, components: Components, config: BinaryConfig, epochs: int, seed: int) -> str:
    """A hash of everything that the loss of a mask depends on."""
    settings = re.sub(
        r" at 0x[0-9a-f]+", "", repr((components, config, epochs, seed))
    )  # without addresses of functions
    digest = hashlib.sha256(settings.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
