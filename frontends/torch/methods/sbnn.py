"""SBNN: weights take any two values {alpha, beta}, and few of them are beta.

The values are the domain ``TwoValues``, the gradients are in ``estimators``. This file has the rest of the method: the
closed-form values, the penalty that makes a network sparse, and its hard variant.

References:
    Schiavone, Galati, Zuluaga, "Binary Domain Generalization for Sparsifying Binary Neural Networks", ECML-PKDD 2023,
    arXiv 2306.13515.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import LearnedValues, TwoValues, WeightValues
from ..layers.estimators import Identity, binarize
from ..layers.modules import BinaryLayer, binary_layers


@dataclass(frozen=True, eq=False)
class TwoMeans:
    """Rows of numbers, each number replaced by one of the two values of its row.

    Attributes:
        lo, hi: The values, [rows] each; ``lo <= hi``.
        bits: Whether a number is replaced by ``hi``, bool [rows, n].
    """

    lo: Tensor
    hi: Tensor
    bits: Tensor

    def values(self) -> Tensor:
        """The replaced numbers, [rows, n]."""
        return torch.where(self.bits, self.hi[:, None], self.lo[:, None])


def two_means(rows: Tensor, members: int | None = None) -> TwoMeans:
    """The two values nearest to the numbers of a row, in least squares: 1-D clustering with two means.

    For a set of k numbers with the mean m1 and the other n - k with the mean m2, the best two values are::

        (1)  m1 and m2, the means of the sets
        (2)  gain = s^2 * (1 / k + 1 / (n - k)), s = sum over the set of (x - mean of the row)

    where the gain is the squared error with one value, less the squared error with two. For a given k, (2) is largest
    where the set has the k smallest or the k largest numbers. A scan over the prefix sums of the sorted numbers
    therefore compares all candidates in O(n log n).

    Args:
        rows: [rows, n], n >= 2.
        members: The size of one of the two sets; None for the best size.

    Raises:
        ArgumentError: If there are fewer than two numbers, or ``members`` leaves one set empty.

    Examples:
        >>> fit = two_means(torch.tensor([[0.1, -0.1, 0.0, 1.0]]))
        >>> fit.lo.tolist(), fit.hi.tolist(), fit.bits.tolist()
        ([0.0], [1.0], [[False, False, False, True]])
    """
    n = rows.shape[1]
    if n < 2:
        raise ArgumentError(f"two values need at least two numbers per row, but got {n}")
    if members is not None and not 1 <= members < n:
        raise ArgumentError(f"one of two sets of {n} numbers has 1 to {n - 1} of them, but members={members}")
    ordered, order = rows.detach().double().sort(dim=1)
    mean = ordered.mean(1, keepdim=True)
    below = (ordered - mean).cumsum(1)[:, :-1]  # s of the 1, ..., n - 1 smallest; the others sum to -s
    size = torch.arange(1, n, device=rows.device)
    gain = below.square() * (1 / size + 1 / (n - size))  # equation (2)
    if members is not None:
        gain = torch.where((size == members) | (size == n - members), gain, -1)
    split = gain.argmax(1, keepdim=True)
    smaller = split + 1
    sum_below = below.gather(1, split)
    lo, hi = mean + sum_below / smaller, mean - sum_below / (n - smaller)
    above = torch.arange(n, device=rows.device) >= smaller
    bits = torch.zeros_like(above).scatter(1, order, above)
    return TwoMeans(lo[:, 0].to(rows.dtype), hi[:, 0].to(rows.dtype), bits)


def _largest(rows: Tensor, members: int) -> TwoMeans:
    """The mean of the ``members`` largest numbers of each row in their place, 0 in that of the others."""
    largest = rows.topk(members, dim=1)
    bits = torch.zeros_like(rows, dtype=torch.bool).scatter(1, largest.indices, True)
    return TwoMeans(rows.new_zeros(len(rows)), largest.values.mean(1), bits)


def fit_(layer: BinaryLayer, density: float | None = None, *, zero: bool = False) -> None:
    """Sets a layer with the domain TwoValues to the two-valued weights nearest to its latent ones, in least squares.

    tau and phi become those of the closed form. Latent weights are shifted so that their signs give its two sets. This
    starts a training from trained float weights, or converts them without training. Pruned weights stay in the lower
    set.

    To train a sparse layer, start with ``zero=True``. The closed form leaves the many weights at a small lower value
    alpha, and alpha times the sum of the window's inputs is a term that all channels share. There are so many such
    weights that the term outweighs what the few others compute, and the first steps learn nothing.

    Args:
        layer: Changed in place.
        density: The share of weights in the smaller set, for each layer or channel (``TwoValues.per``); None for the
            best.
        zero: Whether the lower value is 0, which needs a density. The upper set has the largest weights then, and the
            upper value is their mean, the nearest one in least squares.

    Raises:
        ArgumentError: If the layer has another domain, the density is not between 0 and 1, or ``zero`` has none.
    """
    domain = layer.domain
    if not isinstance(domain, TwoValues):
        raise ArgumentError(f"the closed form is for domain=TwoValues(...), but the layer has {domain}")
    if density is not None and not 0 < density < 1:
        raise ArgumentError(f"a density is between 0 and 1, but got {density}")
    if zero and density is None:
        raise ArgumentError("a lower value of 0 needs a density: give fit_(layer, density, zero=True)")
    with torch.no_grad():
        latent = layer.latent()
        mask = layer.mask()
        weight = latent if mask is None else latent * mask
        rows = weight.reshape(len(weight) if domain.per == "channel" else 1, -1)
        n = rows.shape[1]
        if n == 1:  # the number itself is both values
            fit = TwoMeans(rows[:, 0], rows[:, 0], torch.ones_like(rows, dtype=torch.bool))
        else:
            members = None if density is None else min(max(round(density * n), 1), n - 1)
            fit = _largest(rows, members) if zero and members is not None else two_means(rows, members)
        middle = ((fit.lo + fit.hi) / 2)[:, None]
        tiny = torch.finfo(rows.dtype).tiny
        # Clamped, since equal numbers may be in different sets, and a prescribed size moves the border off the middle.
        shifted = torch.where(fit.bits, (rows - middle).clamp_min(tiny), (rows - middle).clamp_max(0))
        latent.copy_(shifted.reshape(latent.shape))
        values = layer.values
        assert isinstance(values, LearnedValues) and values.phi is not None
        values.tau.copy_((fit.hi - fit.lo) / 2)
        values.phi.copy_((fit.hi + fit.lo) / 2)


def ones_ratio(model: nn.Module) -> Tensor:
    """The share of +1 among all binary weights of a model, differentiable.

    Its gradient with respect to a latent weight is 1 / (2 N), for N weights: that of ``(sign(w) + 1) / 2``, with the
    derivative of sign replaced by 1.

    Raises:
        ArgumentError: If the model has no binary layer.
    """
    layers = _layers_of_latent_density(model)
    ones = []
    for layer in layers:
        mask = layer.mask()
        weight = layer.latent() if mask is None else layer.latent() * mask
        ones.append((binarize(weight, 0.0, SIGN, Identity()) + 1).sum() / 2)
    return torch.stack(ones).sum() / sum(layer.latent().numel() for layer in layers)


class ExpectedConnections:
    """A penalty on more connections than expected: call it with the task's loss, and add the result to the loss.

    With r the share of +1 in the whole model and w the weight of the penalty::

        (1)  h = relu(r - expected)
        (2)  penalty = w * h
        (3)  w = gamma * loss / ((1 - gamma) * h)      set at every call, without a gradient, unless w is constant

    With (3) the penalty is ``gamma / (1 - gamma)`` of the loss, and its gradient lowers all latent weights by the same
    amount. The penalty vanishes with the loss. If a network fits its training set perfectly, mix the labels, choose a
    constant weight, or use ``keep_densest_``.

    Args:
        model: The penalty covers its binary layers.
        expected: The share of +1 to reach, over all layers together.
        gamma: The penalty's share of the total loss; at least 0 and less than 1.
        weight: A constant weight, in place of gamma.

    Raises:
        ArgumentError: If an argument is out of range, or not exactly one of gamma and weight is given.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryLinear
        >>> sparsify = ExpectedConnections(BinaryLinear(64, 8), 0.05, gamma=0.07)
        >>> loss = torch.tensor(2.0)
        >>> total = loss + sparsify(loss)
    """

    def __init__(
        self, model: nn.Module, expected: float, *, gamma: float | None = None, weight: float | None = None
    ) -> None:
        if not 0 <= expected <= 1:
            raise ArgumentError(f"expected is a share of the weights, from 0 to 1, but got {expected}")
        if (gamma is None) == (weight is None):
            raise ArgumentError(f"give either gamma or weight, but got gamma={gamma}, weight={weight}")
        if gamma is not None and not 0 <= gamma < 1:
            raise ArgumentError(
                f"gamma is the penalty's share of the total loss, from 0 up to but not 1, but got {gamma}"
            )
        self.model, self.expected, self.gamma, self.weight = model, expected, gamma, weight

    def __call__(self, loss: Tensor) -> Tensor:
        """The penalty, a scalar; ``loss`` is the task's loss."""
        excess = functional.relu(ones_ratio(self.model) - self.expected)
        if self.weight is not None:
            return self.weight * excess
        assert self.gamma is not None
        if excess.item() <= 1e-4:
            return 0 * excess
        return (self.gamma * loss.detach() / ((1 - self.gamma) * excess.detach())) * excess


def keep_densest_(model: nn.Module, density: float, per: Literal["channel", "layer", "model"] = "layer") -> None:
    """Shifts all latent weights so that exactly the largest ones, a given share, are positive and so +1.

    This is the hard variant of the penalty; call it after every optimiser step. Pruned weights are never +1, but the
    share is relative to all weights.

    Args:
        model: Its binary layers are changed in place.
        density: The share of +1.
        per: Whether the share holds in each output channel, in each layer, or in the model as a whole.

    Raises:
        ArgumentError: If the model has no binary layer, or the density is not between 0 and 1.
    """
    if not 0 < density < 1:
        raise ArgumentError(f"a density is between 0 and 1, but got {density}")
    if per not in ("channel", "layer", "model"):
        raise ArgumentError(f"per is 'channel', 'layer' or 'model', but got {per!r}")
    layers = _layers_of_latent_density(model)
    with torch.no_grad():
        for group in [layers] if per == "model" else [[layer] for layer in layers]:
            latents = [layer.latent() for layer in group]
            masks = [torch.ones_like(layer.weight) if (mask := layer.mask()) is None else mask for layer in group]
            rows = len(latents[0]) if per == "channel" else 1
            numbers, left = (torch.cat([w.flatten() for w in each]).reshape(rows, -1) for each in (latents, masks))
            shifted = _largest_positive(numbers, left > 0, density).flatten()
            for latent, part in zip(latents, shifted.split([latent.numel() for latent in latents]), strict=True):
                latent.copy_(part.reshape(latent.shape))


def _largest_positive(numbers: Tensor, left: Tensor, density: float) -> Tensor:
    """Numbers [rows, n], shifted so that a share of each row is positive, the largest of those that are ``left``."""
    n = numbers.shape[1]
    ones = left.sum(1, keepdim=True).clamp_max(min(max(round(density * n), 1), n))
    order = torch.where(left, numbers, -torch.inf).argsort(dim=1, descending=True)
    places = order.gather(
        1, torch.cat([ones - 1, ones], dim=1).clamp(0, n - 1)
    )  # of the last inside, the first outside
    border = numbers.gather(1, places).mean(1, keepdim=True)
    upper = torch.zeros_like(left).scatter(1, order, torch.arange(n, device=order.device) < ones)
    tiny = torch.finfo(numbers.dtype).tiny
    return torch.where(upper, (numbers - border).clamp_min(tiny), (numbers - border).clamp_max(0))


@dataclass(frozen=True)
class SBNNRecipe:
    """How the paper's authors train, as plain data; ``SBNN_CIFAR10`` and ``SBNN_CIFAR100`` are their two recipes.

    Both use Adam without weight decay, a rate that falls to 0 on a cosine, no float pretraining, and images that are
    shifted by up to four pixels and mirrored (for CIFAR-100 also rotated by up to 15 degrees).

    Attributes:
        domain: The two weight values; they start from -1 and +1.
        weight_estimator, estimator: The gradients of the weights' and of the activations' signs.
        learn_threshold: Whether every channel has a trained activation threshold (RSign).
        epochs, batch, rate: Of the training with Adam.
        mixup: Alpha of the Beta distribution by which images and labels are mixed.
        clamp: The bound of latent weights (clamp_latent_).
        gammas: Pairs of an expected share of +1 and the penalty's share of the loss; 0.5 has no penalty.

    References:
        arXiv 2306.13515; the values are those of its authors' code.

    Examples:
        >>> from sbnn_tvm.frontends.torch import resnet
        >>> recipe = SBNN_CIFAR10
        >>> model = resnet(
        ...     domain=recipe.domain,
        ...     weight_estimator=recipe.weight_estimator,
        ...     estimator=recipe.estimator,
        ...     learn_threshold=recipe.learn_threshold,
        ... )
        >>> recipe.penalty(model, 0.05).gamma
        0.07
    """

    weight_estimator: str
    estimator: str
    learn_threshold: bool
    epochs: int
    gammas: tuple[tuple[float, float], ...]
    domain: TwoValues = TwoValues(init="unit")  # noqa: RUF009 (frozen)
    batch: int = 512
    rate: float = 1e-3
    mixup: float = 1.0
    clamp: float = 1.5

    def gamma(self, expected: float) -> float:
        """The authors' gamma for an expected share of +1.

        Raises:
            ArgumentError: If they have none for that share.
        """
        found = dict(self.gammas)
        if expected not in found:
            raise ArgumentError(
                f"this recipe has a gamma for expected={', '.join(f'{each:g}' for each in found)}, but got {expected}; "
                f"for another share pass gamma to ExpectedConnections"
            )
        return found[expected]

    def penalty(self, model: nn.Module, expected: float) -> ExpectedConnections:
        """The penalty with the authors' gamma.

        Raises:
            ArgumentError: If they have none for that share, or the model has no binary layer.
        """
        return ExpectedConnections(model, expected, gamma=self.gamma(expected))


SBNN_CIFAR10 = SBNNRecipe(
    weight_estimator="ede",
    estimator="ede",
    learn_threshold=False,
    epochs=500,
    gammas=((0.5, 0), (0.25, 0.02), (0.1, 0.04), (0.05, 0.07), (0.04, 0.07), (0.03, 0.08), (0.02, 0.08), (0.01, 0.1)),
)
"""For a ResNet-18 with a shortcut around every two convolutions: EDE for weights and activations."""

SBNN_CIFAR100 = SBNNRecipe(
    weight_estimator="identity",
    estimator="polynomial",
    learn_threshold=True,
    epochs=300,
    gammas=((0.5, 0), (0.05, 0.05), (0.04, 0.05), (0.03, 0.05), (0.02, 0.06), (0.01, 0.07)),
)
"""For a ResNet-18 with ReActNet's blocks: identity for weights, Bi-Real Net's polynomial and RSign for activations."""


@dataclass(frozen=True, eq=False)
class Canonical:
    """The two values of a layer in the method's notation.

    Attributes:
        alpha: The more frequent value, [OC].
        beta: The rarer value, [OC].
        density: The share of weights that are beta.
    """

    alpha: Tensor
    beta: Tensor
    density: float


def canonical(layer: BinaryLayer) -> Canonical:
    """Alpha and beta of a layer; either may be the larger one, and either sign may be the more frequent.

    Frequencies are counted per channel; if all channels have the same two values, over the whole layer.
    """
    with torch.no_grad():
        scale, offset = layer.values(layer.weight)
        offset = torch.zeros_like(scale) if offset is None else offset
        ones = (layer.signs() > 0).flatten(1).float().mean(1)
        if bool((scale == scale[0]).all() and (offset == offset[0]).all()):
            ones = ones.mean().expand(len(scale))
        sign = torch.where(ones <= 0.5, 1.0, -1.0)
        return Canonical(offset - sign * scale, offset + sign * scale, float(torch.minimum(ones, 1 - ones).mean()))


def _layers_of_latent_density(model: nn.Module) -> list[BinaryLayer]:
    """The binary layers of a model, all of which take their signs from the latent weights alone."""
    layers = binary_layers(model)
    for layer in layers:
        if type(layer.values).signs is not WeightValues.signs:
            raise ArgumentError(
                f"domain={layer.domain} does not take its signs from the latent weights' signs, "
                f"so their density cannot be set"
            )
    return layers
