"""The search for the layers of a network to make binary, under a budget, in the style of MixBin.

Binarisation costs more accuracy in some layers than in others, and layers differ in cost. A *mask* is the set of binary
components. The search looks for the mask within the budget whose validation loss is smallest.

The **budget** is a share of the float network's cost, over all layers with weights. Four measures of the cost are known
(costs.MEASURES). ``"operations"`` is ``float MACs + binary MACs / 64``, which most papers on binary networks report.
``"flops"`` is the float MACs, and ``"weights"`` the float weights, so 1 - budget is the fraction of the network that is
binary. ``"bytes"`` is the size of the weights. The **components** are the convolutions, except the first and the last
layer with weights and the projections of shortcuts.

The texts of the papers were not available. From their abstracts are: networks with binary and float components (B2NN);
a budget, given as the fraction of the network that is binary or as a share of the FLOPs; an iterative search (version
1) or an optimised mixing (version 2); comparison with random masks; and BinReLU, one activation for both kinds of
component (methods/binrelu). How an amount is counted, the step rules, and the choice of components are this project's.
The group's library trailmet, which has no search, makes whole stages of a ResNet binary, and counts its budget in float
stages.

References:
    Bamba, Anand, Aggarwal, Prasad, Gupta, "Partial Binarization of Neural Networks for Budget-Aware Efficient
    Learning", WACV 2024, arXiv 2211.06739 (version 1: "MixBin: Towards Budgeted Binarization").
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import ArgumentError, ModelError

from ..convert.replace_layers import BinaryConfig, Conversion
from ..export import Shape
from .components import EXCLUDED, Component, Components, Mask
from .evaluate_masks import Evaluate, Evaluation, Fit, MaskEvaluator, apply_mask_, evaluation_of
from .search_methods import METHODS, Method


@dataclass(frozen=True)
class PartialBinarization:
    """The result of a search, which can be applied and saved.

    Attributes:
        method: The search method.
        budget: The given budget.
        binary: The components to make binary.
        cost: The cost with these, as a share of the float network's cost.
        loss: The validation loss with these.
        components: The layers that the search chose from, and the measure of their cost.
        evaluations: The masks that this search tried, in order; the result is among them.
        seconds: How long training and evaluation took: all that the search needed, also if it was stopped in between or
            found results in its state.
    """

    method: str
    budget: float
    binary: Mask
    cost: float
    loss: float
    components: Components
    evaluations: tuple[Evaluation, ...]
    seconds: float = field(compare=False)

    def apply_(self, model: nn.Module, config: BinaryConfig = BinaryConfig()) -> Conversion:  # noqa: B008 (frozen)
        """Makes the chosen layers of a float model binary, in place; train it afterwards.

        Raises:
            ArgumentError: If the model has no such layers.
        """
        return apply_mask_(model, self.binary, config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result as JSON; an existing file stays whole if that fails.

        Raises:
            ModelError: If the path cannot be written.
        """
        with replacing(path, ModelError) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PartialBinarization:
        """Reads a file that ``save`` wrote.

        Raises:
            ModelError: If the file cannot be read, or is not such a file.
        """
        try:
            record = json.loads(Path(path).read_text())
            choices = tuple(Component(**choice) for choice in record["components"]["choices"])
            record["components"] = Components(**{**record["components"], "choices": choices})
            record["evaluations"] = tuple(evaluation_of(each) for each in record["evaluations"])
            record["binary"] = tuple(record["binary"])
            return cls(**record)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not the result of a search for a partial binarisation: {error!r}") from None

    def __str__(self) -> str:
        names = ", ".join(self.binary) or "nothing"
        return (
            f"{self.method} search within {self.budget:.0%} of the float {self.components.measure}, "
            f"{len(self.evaluations)} masks tried in {self.seconds:.1f} s: "
            f"{len(self.binary)} of {len(self.components.choices)} components binary ({names}), "
            f"cost {self.cost:.1%}, validation loss {self.loss:.4g}"
        )


def search_partial_binarization(
    model: nn.Module,
    budget: float = 0.5,
    *,
    fit: Fit,
    evaluate: Evaluate,
    method: str | Method = "greedy",
    epochs: int = 5,
    config: BinaryConfig = BinaryConfig(),  # noqa: B008 (frozen)
    measure: str = "operations",
    exclude: Collection[str] = EXCLUDED,
    input_shape: Shape | None = None,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PartialBinarization:
    """Finds the layers to make binary, so that the network costs at most a given share of its cost in float.

    The docstring of this module says which parts are the paper's and which are this project's.

    Args:
        model: A trained float network; left unchanged.
        budget: The largest share of the float network's cost that the result may have, above 0 and up to 1.
        fit: Trains a model in place.
        evaluate: Computes the validation loss of a model, on images that ``fit`` does not use.
        method: ``"greedy"``, ``"gradual"``, ``"random"`` or ``"exhaustive"``, or an object such as ``Random(20)``.
        epochs: Epochs of each training: of each mask, or of each stage.
        config: How components become binary.
        measure: What the budget counts: ``"operations"``, ``"flops"``, ``"weights"`` or ``"bytes"`` (costs.MEASURES).
        exclude: Layers that stay float; an explicit value replaces the default EXCLUDED.
        input_shape: Shape of the model's input, with the batch; None uses ``model.example_input_array``.
        seed: Seed of all random numbers; equal searches give equal results if ``fit`` is deterministic.
        state: A file with the evaluations so far, written after each one. A stopped search continues from it. Searches
            with other methods, budgets or measures may share it. ``"gradual"`` writes checkpoints beside it, named
            ``state.*.stages``. Other weights, settings or seeds are noticed; after a change of ``fit`` or ``evaluate``
            pass another file.
        progress: Whether to show a progress bar.

    Raises:
        ArgumentError: If the budget cannot be met, an argument is out of range, or the state is of another search.
        ModelError: If the state cannot be read or written, or the model's input shape is unknown.

    Examples:
        >>> found = search_partial_binarization(model, 0.5, fit=fit, evaluate=loss)  # doctest: +SKIP
        >>> found.apply_(model)  # doctest: +SKIP
    """
    if isinstance(method, str) and method not in METHODS:
        raise ArgumentError(f"unknown method {method!r}; pass {', '.join(METHODS)} or a Method object")
    if epochs < 1:
        raise ArgumentError(f"epochs must be 1 or more, but got {epochs}")
    components = Components.of(model, exclude, input_shape, measure)
    least = components.cost(components.names)
    if not least <= budget <= 1:
        raise ArgumentError(
            f"budget={budget} must be between {least:.4f}, the share of the float {measure} with all "
            f"{len(components.choices)} components binary, and 1"
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
        evaluator = MaskEvaluator(model, components, budget, config, fit, evaluate, epochs, seed, path, display)
        mask = searcher.search(evaluator)
        loss = evaluator.loss(mask)
    name = type(searcher).__name__.lower()
    tried = tuple(evaluator.tried.values())
    seconds = evaluator.stage_seconds + sum(each.seconds for each in tried)
    return PartialBinarization(name, budget, mask, components.cost(mask), loss, components, tried, seconds)
