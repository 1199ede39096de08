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
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import BinaryLayer
from .feature_pairs import Twin, corresponding
from .regularisers import latent_weights


class BlockDistillation:
    """Trains each block to compute the teacher's feature: ``weight * mean over blocks of the squared error``.

    The error of a block is divided by the mean square of the teacher's feature, so that all blocks count equally. There
    are two ways to run the blocks, usually one after the other:

    - ``distill.blockwise(images)``: each block alone, on the input of the teacher's block. Blocks learn independently
      of each other, and don't see what the binary blocks before them lose.
    - ``distill()``, after ``student(images)``: all blocks together, each on the output of the student's block before.

    Only the paper's abstract was available ("each binary convolutional block is optimised with a block-wise
    distillation loss derived from the float network"). The normalisation and the two stages are ours.

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
        """The loss of the student's latest forward pass, a scalar; ``loss``, the task's loss, is not used."""
        return self._error(self.twin.features())

    def blockwise(self, *inputs: Tensor) -> Tensor:
        """The loss of every block on the input of the teacher's block, a scalar.

        Args:
            inputs: What the teacher is called with. The student's blocks run, but not the student as a whole.
        """
        student, teacher = self.twin.network, self.twin.teacher
        given: dict[str, list[Tensor]] = {}
        taught: dict[str, Tensor] = {}

        def hooks(name: str, block: nn.Module) -> list[RemovableHandle]:
            def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                given[name] = [each.clone() for each in arguments]  # modules may change tensors in place

            def after(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                taught[name] = output.clone()

            return [block.register_forward_pre_hook(before), block.register_forward_hook(after)]

        handles = [
            handle for name, twin in self.twin.names.items() for handle in hooks(name, teacher.get_submodule(twin))
        ]
        with torch.no_grad():
            teacher(*inputs)
        for handle in handles:
            handle.remove()
        return self._error({name: (student.get_submodule(name)(*given[name]), taught[name]) for name in taught})

    def remove(self) -> None:
        """Removes the hooks from both networks."""
        self.twin.remove()

    def _error(self, features: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        errors = []
        for name, (ours, theirs) in features.items():
            if ours.shape != theirs.shape:
                raise ArgumentError(
                    f"at {name!r} the student gives {list(ours.shape)}, but the teacher {list(theirs.shape)}"
                )
            errors.append(functional.mse_loss(ours, theirs) / theirs.square().mean().clamp_min(1e-12))
        return self.weight * torch.stack(errors).mean()


class DistributionMimicking:
    """Teaches the distribution of a float network's weights and of its scores, by Kullback-Leibler divergences.

    With the teacher's and the student's latent weights v, w [out, in, ...] of a layer, its scores s, t [N, classes]
    and softmax over axis 1::

        loss = weights * sum over layers of KL(v, w) + logits * mean over images of (-sum softmax(s) log_softmax(t))

        KL(v, w) = T^2 mean(softmax(v / T) (log softmax(v / T) - log softmax(w / T)))        form "softmax"
        KL(v, w) = mean(exp(v) (v - w))                                                       form "released"

    The released training uses the second form, which takes raw weights for logarithms of probabilities. It is no
    divergence: its gradient doesn't depend on w, and pushes all weights up. The first form is in the same release, but
    not used there. Means are over all elements, so that the factor of the weights is large.

    The teacher of the paper is a float network of the same architecture, trained with a KurtosisPenalty. The student's
    loss has the cross-entropy and its own KurtosisPenalty too.

    Args:
        student, teacher: Same as in Twin.
        layers: Names of the student's layers, and of the corresponding layers of the teacher; a list if the names are
            equal. None for all binary layers of the student.
        weights, logits: Factors of the two parts.
        temperature: T.
        form: See above.

    Raises:
        ArgumentError: If a layer is missing, or its weights differ in shape from the teacher's.

    References:
        Rozen et al., "Bimodal Distributed Binarized Neural Networks" (BD-BNN), Mathematics 10(21), 2022, arXiv
        2204.02004.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        layers: Mapping[str, str] | Iterable[str] | None = None,
        *,
        weights: float = 200.0,
        logits: float = 0.9,
        temperature: float = 4.0,
        form: Literal["softmax", "released"] = "softmax",
    ) -> None:
        if form not in ("softmax", "released"):
            raise ArgumentError(f"form is 'softmax' or 'released', but got {form!r}")
        if not temperature > 0:
            raise ArgumentError(f"the temperature must be above 0, but is {temperature}")
        if layers is None:
            layers = [name for name, module in student.named_modules() if isinstance(module, BinaryLayer)]
        names = corresponding(student, teacher, layers)
        self.layers = [(student.get_submodule(ours), teacher.get_submodule(theirs)) for ours, theirs in names.items()]
        for (ours, theirs), (student_layer, teacher_layer) in zip(names.items(), self.layers, strict=True):
            shapes = [list(latent_weights(layer).shape) for layer in (student_layer, teacher_layer)]
            if shapes[0] != shapes[1]:
                raise ArgumentError(
                    f"the weights of {ours!r} have shape {shapes[0]}, but those of the teacher's {theirs!r} {shapes[1]}"
                )
        self.twin = Twin(student, teacher, [""])
        self.weights, self.logits, self.temperature, self.form = weights, logits, temperature, form

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The loss of the student's latest forward pass, a scalar; ``loss``, the task's loss, is not used."""
        ours, theirs = self.twin.features()[""]
        scores = -(functional.softmax(theirs, 1) * functional.log_softmax(ours, 1)).sum(1).mean()
        layers = [
            self._divergence(latent_weights(student), latent_weights(teacher)) for student, teacher in self.layers
        ]
        return self.weights * torch.stack(layers).sum() + self.logits * scores

    def remove(self) -> None:
        """Removes the hooks from both networks."""
        self.twin.remove()

    def _divergence(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.form == "released":
            return (theirs.exp() * (theirs - ours)).mean()
        ours, theirs = (functional.log_softmax(each / self.temperature, 1) for each in (ours, theirs))
        return self.temperature**2 * (theirs.exp() * (theirs - ours)).mean()
