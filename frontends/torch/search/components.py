"""The layers of a float network that a search may make binary, and the cost of making some of them binary."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from sbnn_tvm.errors import ArgumentError

from ..convert.replace_layers import FIRST, LAST, obstacle
from ..export import Shape
from .costs import MEASURES, layer_costs

EXCLUDED = (FIRST, LAST, "*downsample*", "*shortcut*")
"""Layers that stay float by default: stem, head, and projections of shortcuts, which are found by name."""

Mask = tuple[str, ...]
"""The names of the components that are binary, in the order of execution."""


@dataclass(frozen=True)
class Component:
    """A layer that may become binary.

    Attributes:
        name: Its qualified name.
        macs: Its multiply-accumulates for one image.
        weights: The number of its weights.
    """

    name: str
    macs: int
    weights: int


@dataclass(frozen=True)
class Components:
    """The layers that a search chooses from.

    Attributes:
        choices: The components, in the order of execution.
        fixed_macs, fixed_weights: Multiply-accumulates and weights of all other layers, which stay float.
        measure: What a cost counts: a name from MEASURES.
    """

    choices: tuple[Component, ...]
    fixed_macs: int
    fixed_weights: int
    measure: str = "operations"

    @staticmethod
    def of(
        model: nn.Module,
        exclude: Collection[str] = EXCLUDED,
        input_shape: Shape | None = None,
        measure: str = "operations",
    ) -> Components:
        """The convolutions of a float model that binarize_ can convert.

        Args:
            model: Left unchanged.
            exclude: Names or patterns of layers that stay float; FIRST and LAST are the first and last layer with
                weights.
            input_shape: Same as in layer_costs.
            measure: What a cost counts: a name from MEASURES.

        Raises:
            ArgumentError: If no convolution is left, some layer is binary already, or the measure is unknown.
        """
        if measure not in MEASURES:
            raise ArgumentError(f"unknown measure {measure!r}; pass {', '.join(MEASURES)}")
        layers = layer_costs(model, input_shape)
        if binary := [layer.name for layer in layers if layer.binary]:
            raise ArgumentError(f"the search starts from a float model, but {binary[0]!r} is binary already")
        modules = dict(model.named_modules())
        ends = {FIRST: layers[:1], LAST: layers[-1:]}
        fixed = {layer.name for pattern in exclude for layer in ends.get(pattern, ())}
        choices = tuple(
            Component(layer.name, layer.macs, layer.weights)
            for layer in layers
            if type(modules[layer.name]) is nn.Conv2d
            and not obstacle(modules[layer.name])
            and layer.name not in fixed
            and not any(fnmatchcase(layer.name, pattern) for pattern in exclude)
        )
        if not choices:
            raise ArgumentError(
                f"no convolution is left to make binary: the layers are {', '.join(layer.name for layer in layers)}, "
                f"and exclude={tuple(exclude)}"
            )
        fixed_layers = [layer for layer in layers if layer.name not in {choice.name for choice in choices}]
        return Components(
            choices,
            sum(layer.macs for layer in fixed_layers),
            sum(layer.weights for layer in fixed_layers),
            measure,
        )

    @property
    def names(self) -> Mask:
        """The names of all components."""
        return tuple(choice.name for choice in self.choices)

    def mask(self, names: Iterable[str]) -> Mask:
        """The given names in the order of execution."""
        chosen = set(names)
        return tuple(name for name in self.names if name in chosen)

    def cost(self, binary: Collection[str]) -> float:
        """The cost with the given components binary, as a share of the float network's cost."""
        chosen = set(binary)
        return 1 - sum(saved for name, saved in self.savings().items() if name in chosen)

    def savings(self) -> dict[str, float]:
        """For each component, the share of the float network's cost that it saves when it becomes binary."""
        measure = MEASURES[self.measure]
        if measure.of == "macs":
            fixed, amounts = self.fixed_macs, [choice.macs for choice in self.choices]
        else:
            fixed, amounts = self.fixed_weights, [choice.weights for choice in self.choices]
        total = fixed + sum(amounts)
        return {name: amount * (1 - measure.binary) / total for name, amount in zip(self.names, amounts, strict=True)}

    def until_within(self, budget: float, order: Sequence[str], start: Iterable[str] = ()) -> Mask:
        """Makes components binary in the given order until the cost is within the budget.

        Then components that need not be binary become float again, the last in the order first.
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
