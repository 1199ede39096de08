"""Losses that compare with a float twin: a trained float network that sees the same images.

Make such a loss once and add it to the task's loss. It runs the teacher and compares features at named modules::

    distill = BlockDistillation(student, teacher, {"body.0": "body.0", "body.1": "body.1"})
    for images, labels in loader:
        loss = cross_entropy(student(images), labels)
        loss = loss + distill(loss)

These losses affect training only: the student alone is deployed. ``remove()`` removes the hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from sbnn_tvm.errors import ArgumentError


class Twin:
    """Runs a float teacher whenever the student runs in training mode, and keeps the features of both networks.

    The teacher stays in eval mode, gets no gradient and sees the student's inputs.

    Args:
        student: The network in training; if it is wrapped (DistributedDataParallel), the network inside.
        teacher: The float network, on the same device.
        places: Names of the student's modules, and the names of the corresponding modules of the teacher; a list if the
            names are equal. An empty name is the network itself.

    Raises:
        ArgumentError: If there is no place, or no module of that name.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, places: Mapping[str, str] | Iterable[str]) -> None:
        self.places = dict(places) if isinstance(places, Mapping) else {name: name for name in places}
        if not self.places:
            raise ArgumentError("there is nothing to compare: give the names of modules of the student and the teacher")
        for network, names, role in ((student, self.places, "student"), (teacher, self.places.values(), "teacher")):
            known = {name for name, _ in network.named_modules()}
            if missing := [name for name in names if name not in known]:
                raise ArgumentError(f"the {role} has no module {missing[0]!r}")
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self._student: dict[str, Tensor] = {}
        self._teacher: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = [student.register_forward_pre_hook(self._run_teacher)]
        for name, twin in self.places.items():
            self._hooks.append(self._keep(student.get_submodule(name), self._student, name))
            self._hooks.append(self._keep(teacher.get_submodule(twin), self._teacher, name))

    def features(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The student's and the teacher's feature at each place, from the latest forward pass.

        Raises:
            RuntimeError: If the student has not run in training mode.
        """
        if missing := [name for name in self.places if name not in self._student or name not in self._teacher]:
            raise RuntimeError(f"there is no feature of {missing[0]!r}: run the student in training mode first")
        return {name: (self._student[name], self._teacher[name]) for name in self.places}

    def remove(self) -> None:
        """Removes the hooks from both networks."""
        for hook in self._hooks:
            hook.remove()
        self._student.clear()
        self._teacher.clear()

    def _run_teacher(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._student.clear()
        self._teacher.clear()
        if module.training:
            with torch.no_grad():
                self.teacher(*inputs)

    def _keep(self, module: nn.Module, kept: dict[str, Tensor], name: str) -> RemovableHandle:
        def keep(_: nn.Module, inputs: object, output: Tensor) -> None:
            if self.student.training:
                kept[name] = output

        return module.register_forward_hook(keep)


class BlockDistillation:
    """Trains each block to compute the teacher's feature: ``weight * mean over blocks of the squared error``.

    The error of a block is divided by the mean square of the teacher's feature, so that all blocks count equally. The
    method's float shortcut branches (squeeze and interaction) are not implemented.

    Args:
        student, teacher, places: Same as in Twin; both features of a place have the same shape.
        weight: Factor of the loss.

    Raises:
        ArgumentError: Same as in Twin; and in a call, if features differ in shape.

    References:
        Ye, Zhang, Wang, "Distillation Guided Residual Learning for Binary Convolutional Neural Networks" (DGRL),
        arXiv 2007.05223.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        places: Mapping[str, str] | Iterable[str],
        weight: float = 1.0,
    ) -> None:
        self.twin = Twin(student, teacher, places)
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The loss of the latest forward pass, a scalar; ``loss``, the task's loss, is not used."""
        errors = []
        for name, (ours, theirs) in self.twin.features().items():
            if ours.shape != theirs.shape:
                raise ArgumentError(
                    f"at {name!r} the student gives {list(ours.shape)}, but the teacher {list(theirs.shape)}"
                )
            errors.append(functional.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(1e-12))
        return self.weight * torch.stack(errors).mean()

    def remove(self) -> None:
        """Removes the hooks from both networks."""
        self.twin.remove()
