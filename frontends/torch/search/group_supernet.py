"""A network that holds all choices of the groups of its binary convolutions, with shared weights.

A convolution with g groups uses, of the weights of the convolution with one group, the g blocks on the diagonal: those
that connect a group of input channels with the group of output channels of the same number. So the weight between two
channels is the same number in every choice that has a connection between them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..export import Shape
from ..layers.modules import BinaryConv2d
from ..layers.operators import traces_operators
from .costs import MEASURES, layer_costs

Groups = tuple[int, ...]
"""The number of groups of each layer of a GroupSpace."""

_OPERATIONS = MEASURES["operations"]


@dataclass(frozen=True)
class GroupedLayer:
    """A convolution whose number of groups is searched.

    Attributes:
        name: Its qualified name.
        macs: Its multiply-accumulates for one image with one group.
        choices: The numbers of groups to choose from, in ascending order.
    """

    name: str
    macs: int
    choices: tuple[int, ...]


@dataclass(frozen=True)
class GroupSpace:
    """The layers whose groups are searched, and the operations of a network that has given groups.

    Attributes:
        layers: The layers, in the order of execution.
        fixed: Operations of all other layers, where 64 binary multiply-accumulates count as one.
    """

    layers: tuple[GroupedLayer, ...]
    fixed: float

    @staticmethod
    def of(
        model: nn.Module,
        choices: Collection[int],
        exclude: Collection[str] = (),
        input_shape: Shape | None = None,
    ) -> GroupSpace:
        """The binary convolutions of a model that have one group and kernels larger than 1x1.

        Args:
            model: Left unchanged.
            choices: Numbers of groups; a layer can choose those that divide its channels.
            exclude: Names or patterns of layers to leave out.
            input_shape: Same as in layer_costs.

        Raises:
            ArgumentError: If no layer has two choices.
        """
        if not choices or min(choices) < 1:
            raise ArgumentError(f"choices are numbers of groups, 1 or more, but got {tuple(choices)}")
        modules = dict(model.named_modules())
        layers, fixed = [], 0.0
        for cost in layer_costs(model, input_shape):
            layer = modules[cost.name]
            if (
                isinstance(layer, BinaryConv2d)
                and layer.groups == 1
                and layer.kernel_size != (1, 1)
                and not any(fnmatchcase(cost.name, pattern) for pattern in exclude)
            ):
                dividing = tuple(n for n in sorted({*choices}) if not layer.in_channels % n + layer.out_channels % n)
                if len(dividing) > 1:
                    layers.append(GroupedLayer(cost.name, cost.macs, dividing))
                    continue
            fixed += cost.macs * (_OPERATIONS.binary if cost.binary else 1)
        if not layers:
            raise ArgumentError(
                f"no layer has groups to choose: a binary convolution with one group, a kernel larger than 1x1 and "
                f"channels that two of choices={tuple(choices)} divide is needed"
            )
        return GroupSpace(tuple(layers), fixed)

    def cost(self, groups: Sequence[int]) -> float:
        """The operations with these groups, as a share of those with one group in every layer."""
        chosen = sum(layer.macs / n for layer, n in zip(self.layers, groups, strict=True))
        whole = sum(layer.macs for layer in self.layers)
        return (self.fixed + chosen * _OPERATIONS.binary) / (self.fixed + whole * _OPERATIONS.binary)

    @property
    def least(self) -> float:
        """The smallest possible cost."""
        return self.cost([layer.choices[-1] for layer in self.layers])

    def draw(self, rng: random.Random, budget: float) -> Groups:
        """Random groups that spend the budget (``spend``)."""
        return self.spend([rng.choice(layer.choices) for layer in self.layers], rng, budget)

    def spend(self, groups: Sequence[int], rng: random.Random, budget: float) -> Groups:
        """Changes groups until they cost at most the budget, and no layer could have fewer groups within it.

        While the cost is too high, a random layer takes its next larger choice. Then the layers, in a random order,
        take their smallest choices within the budget.
        """
        chosen = list(groups)
        while self.cost(chosen) > budget:
            places = [place for place, layer in enumerate(self.layers) if chosen[place] < layer.choices[-1]]
            place = rng.choice(places)
            chosen[place] = min(n for n in self.layers[place].choices if n > chosen[place])
        for place in rng.sample(range(len(chosen)), len(chosen)):
            for number in self.layers[place].choices:
                fewer = [*chosen[:place], number, *chosen[place + 1 :]]
                if number >= chosen[place] or self.cost(fewer) <= budget:
                    chosen[place] = min(number, chosen[place])
                    break
        return tuple(chosen)


class SharedGroups(nn.Module):
    """A binary convolution whose number of groups can be changed at any time.

    Attributes:
        layer: The convolution; its weights are those of one group.
    """

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Same as of a BinaryConv2d with ``layer.groups`` groups and the blocks of the weights."""
        if traces_operators():
            raise ArgumentError(
                "a network whose groups are still to choose cannot be exported; "
                "apply the groups that the search found to a network, and train that"
            )
        weight = diagonal_blocks(self.layer.weight, self.layer.groups)
        return torch.func.functional_call(self.layer, {"weight": weight}, (x,))


class GroupSupernet(nn.Module):
    """A network whose layers take random groups in each forward pass in training mode.

    In eval mode the groups are those of the last ``choose``. Train it in an ordinary loop.

    Args:
        model: The network with one group per layer; left unchanged.
        space: The layers to choose the groups of.

    Attributes:
        network: The network with SharedGroups in the place of these layers.
    """

    def __init__(self, model: nn.Module, space: GroupSpace) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        self.space = space
        self._shared = []
        for searched in space.layers:
            layer = self.network.get_submodule(searched.name)
            assert isinstance(layer, BinaryConv2d)
            self._shared.append(SharedGroups(layer))
            self.network.set_submodule(searched.name, self._shared[-1])

    def choose(self, groups: Sequence[int]) -> None:
        """Sets the groups of each layer."""
        for shared, number in zip(self._shared, groups, strict=True):
            shared.layer.groups = number

    def forward(self, x: Tensor) -> Tensor:
        """The result of the network."""
        if self.training:
            self.choose([layer.choices[int(torch.randint(len(layer.choices), ()))] for layer in self.space.layers])
        return self.network(x)


def diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """The weights of a convolution with groups, of those with one group.

    Args:
        weight: [OC, IC, kh, kw].
        groups: A number that divides both.

    Returns:
        [OC, IC / groups, kh, kw].
    """
    blocks = weight.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    return blocks.diagonal(0, 0, 2).movedim(-1, 0).flatten(0, 1)
