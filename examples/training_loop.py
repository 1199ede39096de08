"""An ordinary training loop, which the method examples share: images in memory, a recipe, an accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.frontends.torch import BinaryLayer, clamp_latent_, set_progress


@dataclass(frozen=True)
class Data:
    """Images float32 [N, C, H, W], and labels int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the common protocol.

    Attributes:
        epochs, batch, rate: For Adam, whose learning rate falls to 0 on a cosine.
        augment: Changes each batch of images.
        teacher: A trained model. The loss is then 0.3 of the labels' and 0.7 of the distance to the teacher's classes
            (Hinton et al., arXiv 1503.02531; temperature 2).
        latent_rate: Another learning rate for latent weights.
        optimizer: Makes another optimiser; its learning rates follow the same cosine.
        clamp: Latent weights are kept within [-clamp, clamp].
        mixup: Alpha of the Beta distribution by which images and labels are mixed; 0 does not mix.
        penalty: Computes from the loss what to add to it.
        before_step: Called before every step with the indices of its images, int64 [n].
        after_step: Called after every step.
        before_epoch: Called with the share of training that is done.
    """

    epochs: int = 50
    batch: int = 50
    rate: float = 5e-3
    augment: Callable[[Tensor], Tensor] | None = None
    teacher: nn.Module | None = None
    latent_rate: float | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    clamp: float = 1.5
    mixup: float = 0.0
    penalty: Callable[[Tensor], Tensor] | None = None
    before_step: Callable[[Tensor], None] | None = None
    after_step: Callable[[], None] | None = None
    before_epoch: Callable[[float], None] | None = None


def train(model: nn.Module, data: Data, recipe: Recipe = Recipe(), seed: int = 0) -> nn.Module:
    """An ordinary training loop; returns the model in eval mode."""
    torch.manual_seed(seed)
    if recipe.optimizer is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameter_groups(model, recipe), lr=recipe.rate)
    else:
        optimizer = recipe.optimizer(model)
    steps = recipe.epochs * math.ceil(len(data.train_images) / recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(recipe.epochs):
        set_progress(model, epoch / recipe.epochs)
        if recipe.before_epoch is not None:
            recipe.before_epoch(epoch / recipe.epochs)
        for chosen in torch.randperm(len(data.train_images)).split(recipe.batch):
            if recipe.before_step is not None:
                recipe.before_step(chosen)
            images, labels = data.train_images[chosen], data.train_labels[chosen]
            if recipe.augment is not None:
                images = recipe.augment(images)
            if recipe.mixup:
                share = float(np.random.default_rng(int(chosen[0])).beta(recipe.mixup, recipe.mixup))
                other = torch.randperm(len(images))
                scores = model(share * images + (1 - share) * images[other])
                loss = share * functional.cross_entropy(scores, labels)
                loss = loss + (1 - share) * functional.cross_entropy(scores, labels[other])
            else:
                scores = model(images)
                loss = functional.cross_entropy(scores, labels)
                if recipe.teacher is not None:
                    loss = 0.3 * loss + 0.7 * distillation(scores, recipe.teacher, images)
            if recipe.penalty is not None:
                loss = loss + recipe.penalty(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clamp_latent_(model, recipe.clamp)
            if recipe.after_step is not None:
                recipe.after_step()
    return model.eval()


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """The parameters for an optimiser: latent weights have a learning rate of their own."""
    latent = [layer.latent() for layer in model.modules() if isinstance(layer, BinaryLayer)]
    found = {id(parameter) for parameter in latent}
    others = [parameter for parameter in model.parameters() if id(parameter) not in found]
    return [{"params": others}, {"params": latent, "lr": recipe.latent_rate or recipe.rate}]


def distillation(scores: Tensor, teacher: nn.Module, images: Tensor, temperature: float = 2.0) -> Tensor:
    """The distance between the classes of the scores and of the teacher, a scalar (arXiv 1503.02531)."""
    with torch.no_grad():
        expected = functional.softmax(teacher(images) / temperature, dim=1)
    given = functional.log_softmax(scores / temperature, dim=1)
    return temperature**2 * functional.kl_div(given, expected, reduction="batchmean")


def accuracy(model: nn.Module, data: Data) -> float:
    """The share of correctly classified test images, in per cent."""
    with torch.no_grad():
        return 100 * float((model(data.test_images).argmax(1) == data.test_labels).float().mean())
