"""Pairs of features that a loss compares: of the network and a float twin, or after and before a binariser.

Hooks record the features in every forward pass in training mode; those of the latest pass are kept. ``remove()``
removes the hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sbnn_tvm.errors import ArgumentError


class FeaturePairs:
    """The base of Twin and BinarizerPairs: records two features at each place of a network.

    Attributes:
        network: The network in training.
        places: Names of its modules at which features are compared.
    """

    def __init__(self, network: nn.Module, places: Iterable[str]) -> None:
        self.network, self.places = network, tuple(places)
        self._kept: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._versions: dict[tuple[int, str], int] = {}
        self._hooks: list[RemovableHandle] = [network.register_forward_pre_hook(self._begin)]

    def features(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The two features of each place, from the latest forward pass.

        Raises:
            RuntimeError: If the network has not run in training mode, or a later module changed a feature in place.
        """
        first, second = self._kept
        if missing := [name for name in self.places if name not in first or name not in second]:
            raise RuntimeError(f"there is no feature of {missing[0]!r}: run the network in training mode first")
        for (slot, name), version in self._versions.items():
            if self._kept[slot][name]._version != version:
                raise RuntimeError(
                    f"the feature of {name!r} was changed in place by a later module: give it inplace=False, "
                    f"or name that module instead"
                )
        return {name: (first[name], second[name]) for name in self.places}

    def remove(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._forget()

    def _record(self, module: nn.Module, name: str, slot: int, feature: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Keeps ``feature(input, output)`` of a module as the first or the second feature of a place."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self.network.training:
                kept = feature(inputs[0], output)
                self._kept[slot][name], self._versions[slot, name] = kept, kept._version

        self._hooks.append(module.register_forward_hook(hook))

    def _begin(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Runs before every forward pass of the network."""
        self._forget()

    def _forget(self) -> None:
        for kept in self._kept:
            kept.clear()
        self._versions.clear()


class Twin(FeaturePairs):
    """Runs a float teacher whenever the student runs in training mode, and pairs the outputs of their modules.

    The first feature of a pair is the student's. The teacher stays in eval mode, gets no gradient and sees the
    student's inputs.

    Args:
        student: The network in training; if it is wrapped (DistributedDataParallel), the network inside.
        teacher: The float network, on the same device.
        places: Names of the student's modules, and the names of the corresponding modules of the teacher; a list if the
            names are equal. An empty name is the network itself.

    Raises:
        ArgumentError: If there is no place, or no module of that name.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, places: Mapping[str, str] | Iterable[str]) -> None:
        self.names = corresponding(student, teacher, places)
        super().__init__(student, self.names)
        self.teacher = teacher.eval().requires_grad_(False)
        for name, twin in self.names.items():
            self._record(student.get_submodule(name), name, 0, _output)
            self._record(teacher.get_submodule(twin), name, 1, _output)

    def _begin(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super()._begin(network, inputs)
        if network.training:
            with torch.no_grad():
                self.teacher(*inputs)


class BinarizerPairs(FeaturePairs):
    """Pairs the output of a binariser with its input: binary and latent float activations of one forward pass.

    Args:
        network: The network in training.
        places: Names of its binarisers, for example ``"body.0.layer.binarize"``.

    Raises:
        ArgumentError: If there is no place, or no module of that name.
    """

    def __init__(self, network: nn.Module, places: Iterable[str]) -> None:
        super().__init__(network, places)
        _check_names(network, self.places, "network")
        for name in self.places:
            self._record(network.get_submodule(name), name, 0, _output)
            self._record(network.get_submodule(name), name, 1, _input)


def corresponding(student: nn.Module, teacher: nn.Module, places: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """The teacher's name for each of the student's modules, all of which exist.

    Args:
        student, teacher, places: Same as in Twin.

    Raises:
        ArgumentError: If there is no place, or no module of that name.
    """
    names = dict(places) if isinstance(places, Mapping) else {name: name for name in places}
    _check_names(student, names, "student")
    _check_names(teacher, names.values(), "teacher")
    return names


def _input(x: Tensor, y: Tensor) -> Tensor:
    return x


def _output(x: Tensor, y: Tensor) -> Tensor:
    return y


def _check_names(network: nn.Module, names: Iterable[str], role: str) -> None:
    names = list(names)
    if not names:
        raise ArgumentError(f"there is nothing to compare: give the names of modules of the {role}")
    known = {name for name, _ in network.named_modules()}
    if missing := [name for name in names if name not in known]:
        raise ArgumentError(f"the {role} has no module {missing[0]!r}")
