"""APB: binarise most weights of a layer, and keep the few that binarise badly in full precision.

A weight inside an *interval* around the binary value becomes ``-alpha`` or ``+alpha``. Any other weight stays as it is.
The deployed layer is the sum of a binary layer and a sparse float32 layer on the same activations::

    W = alpha * S + R        y = alpha * conv(x, S) + conv(x, R)

S has a sign for every weight. R is 0 except at the float weights. PyTorch computes with the alpha, S and R that the
file holds, in this order of float32 operations, so both give the same W. R is ``w - alpha * S`` rounded to float32, so
W differs from the latent w by rounding alone.

References:
    Rulli et al., "APB: Automatic Prune Binarization" (arXiv 2306.08960), Information Sciences 716, 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.coding import SparseArray
from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, Polynomial, binarize
from ..layers.modules import BinaryLayer
from ..layers.operators import symbolic, traces_operators

Interval = Literal["one-sided", "two-sided"]

_SMALLEST = 1e-8  # the smallest alpha and delta, whatever their parameters are
_EPSILON = 1e-5  # added to a variance


@dataclass(frozen=True)
class APB:
    """A WeightDomain: ``-alpha`` and ``+alpha``, one alpha per layer; weights outside an interval stay float.

    alpha and delta, half the width of the interval, are trained. They start from ``mean |w|`` and from three standard
    deviations of the weights, so at first nearly all weights are binary: start from a trained float network. Weight
    decay on the latent weights then controls how many stay float: the stronger the decay, the fewer. Train alpha and
    delta with plain SGD and no weight decay (:func:`apb_parameter_groups`), and freeze them halfway
    (:class:`FreezeAPB`).

    A latent weight of exactly 0 becomes ``-alpha``, same as in all other layers here; the authors' code makes it
    ``+alpha``.

    Attributes:
        interval: ``"two-sided"``, as in the authors' code: weights are binary where ``|w|`` is less than delta away
            from alpha, so weights near 0 may stay float too, once delta is below alpha. ``"one-sided"``: weights are
            binary where ``|w| <= alpha + delta``, so only large ones stay float.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryConfig, binarize_
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> _ = binarize_(model, BinaryConfig(weights=APB()))
    """

    interval: Interval = "two-sided"

    def __post_init__(self) -> None:
        if self.interval not in ("one-sided", "two-sided"):
            raise ArgumentError(f"APB takes interval='one-sided' or 'two-sided', but got {self.interval!r}")

    def build(self, weight: Tensor) -> WeightValues:
        """Builds two parameters: alpha and delta."""
        return APBValues(weight, self.interval)


class APBValues(WeightValues):
    """alpha, delta, and which weights stay float.

    Attributes:
        alpha, delta: Parameters, float32 scalars; values below 1e-8 count as 1e-8.
        interval: Same as in APB.
        kept: Which weights stay float, bool of the weights' shape, once this is frozen; empty before.
    """

    kept: Tensor

    def __init__(self, weight: Tensor, interval: Interval) -> None:
        super().__init__()
        weight = weight.detach()
        self.interval: Interval = interval
        self.alpha = nn.Parameter(weight.abs().mean())
        self.delta = nn.Parameter(3 * weight.std(correction=min(1, weight.numel() - 1)))
        self.register_buffer("kept", weight.new_empty(0, dtype=torch.bool))

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """S without a gradient: the whole gradient flows through the residual."""
        return _signs(weight.detach())

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """Alpha [OC], without a gradient, and no offset."""
        return self.alpha.detach().clamp_min(_SMALLEST).expand(len(weight)), None

    def residual(self, weight: Tensor) -> Tensor:
        """R, with the gradients of the method: see :class:`_Residual`."""
        kept = self.kept if self.kept.numel() else None
        return _Residual.apply(weight, self.alpha, self.delta, kept, self.interval)

    def stop(self, weight: Tensor, mask: bool) -> None:
        """Ends the training of alpha and delta; with ``mask`` also fixes which weights stay float."""
        self.alpha.requires_grad_(False)
        self.delta.requires_grad_(False)
        if mask and not self.kept.numel():
            self.kept = ~_inside(weight.detach(), *self._interval(), self.interval)

    def _interval(self) -> tuple[Tensor, Tensor]:
        return self.alpha.detach().clamp_min(_SMALLEST), self.delta.detach().clamp_min(_SMALLEST)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}kept")
        if saved is not None:  # empty in a checkpoint without a frozen mask
            self.kept = torch.empty_like(saved, device=self.alpha.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Alpha, delta, and whether they are frozen."""
        frozen = "" if self.alpha.requires_grad else ", frozen"
        return f"alpha={self.alpha.item():.4g}, delta={self.delta.item():.4g}{frozen}"


class _Residual(torch.autograd.Function):
    """R, with the gradients of arXiv 2306.08960 and its authors' code; automatic differentiation would give others.

    With g = dL/dW, s the signs of the weights, n the number of weights, and 1_bin where a weight is binary::

        (1)  dL/dw     = g                                    for all weights, inside the interval too
        (2)  dL/dalpha = -1/n sum(g * s * 1_bin)
        (3)  dL/ddelta = 1/(n * delta) sum(g * s * (alpha - |w|) * 1_bin)
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, alpha: Tensor, delta: Tensor, kept: Tensor | None, interval: Interval
    ) -> Tensor:
        alpha, delta = alpha.clamp_min(_SMALLEST), delta.clamp_min(_SMALLEST)
        binary = _inside(weight, alpha, delta, interval) if kept is None else ~kept
        ctx.save_for_backward(weight, alpha, delta, binary)
        return torch.where(binary, 0, weight - alpha * _signs(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, alpha, delta, binary = ctx.saved_tensors
        signed = grads[0] * _signs(weight) * binary
        of_alpha = -signed.mean() if ctx.needs_input_grad[1] else None
        of_delta = (signed * (alpha - weight.abs())).mean() / delta if ctx.needs_input_grad[2] else None
        return grads[0], of_alpha, of_delta, None, None


class BinarizeStandardized(nn.Module):
    """Signs with a gradient whose window fits the spread of every sample: the 1-bit activation of APB's authors.

    ::

        training      y = sign(x / sqrt(var(x) + 1e-5)), with Bi-Real Net's polynomial as the derivative of sign
        evaluation    y = sign(x)

    The variance is that of a sample: over all axes but the first. The division changes no sign, so the values of both
    are equal, and files hold a Binarize with threshold 0. The gradient flows through the variance too. Nothing is
    subtracted; BinarizeAboveMean subtracts the mean.

    Shapes:
        float32 [N, ...] to the same.

    References:
        The mode "binary-recu" of the authors' code; the idea is from Xu et al., "ReCU: Reviving the Dead Weights in
        Binary Neural Networks", ICCV 2021, arXiv 2103.12369.

    Examples:
        >>> BinarizeStandardized()(torch.tensor([[-200.0, 0.0, 100.0]]))
        tensor([[-1., -1.,  1.]])
    """

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Binarises x."""
        if traces_operators():
            return symbolic("Binarize", [x, self.threshold], {"lo": -1.0, "hi": 1.0}, x.shape)
        if self.training:
            axes = tuple(range(1, x.ndim))
            x = x / (x.var(axes, correction=min(1, x[0].numel() - 1), keepdim=True) + _EPSILON).sqrt()
        return binarize(x, 0.0, SIGN, Polynomial())


def _signs(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight.new_tensor(1.0), weight.new_tensor(-1.0))


def _inside(weight: Tensor, alpha: Tensor, delta: Tensor, interval: Interval) -> Tensor:
    """Which weights are binary."""
    distance = (weight.abs() - alpha) / delta
    return distance <= 1 if interval == "one-sided" else distance.abs() < 1


def apb_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer, APBValues]]:
    """Yields the name, the layer and the values of every APB layer of a model."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer) and isinstance(module.values, APBValues):
            yield name, module, module.values


def apb_parameter_groups(model: nn.Module, weight_decay: float, rate: float | None = None) -> list[dict[str, Any]]:
    """A model's parameters for torch.optim.SGD, with alpha and delta in a group without weight decay and momentum.

    The gradients of alpha and delta are means over a layer, so plain SGD changes them slowly. Adam would change them as
    fast as weights, until most weights are float.

    Args:
        model: A model with APB layers.
        weight_decay: Weight decay of all other parameters; the larger, the fewer weights stay float.
        rate: Learning rate of alpha and delta; None for the optimiser's rate.

    Returns:
        Two groups; the second has alpha and delta.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryConv2d
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), BinaryConv2d(8, 8, 3, domain=APB()))
        >>> optimizer = torch.optim.SGD(apb_parameter_groups(model, 1e-3), lr=0.02, momentum=0.9)
    """
    own = [parameter for _, _, values in apb_layers(model) for parameter in (values.alpha, values.delta)]
    known = {id(parameter) for parameter in own}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [
        {"params": rest, "weight_decay": weight_decay},
        {"params": own, "weight_decay": 0.0, "momentum": 0.0},
    ]
    if rate is not None:
        groups[1]["lr"] = rate
    return groups


@dataclass(frozen=True)
class FreezeAPB:
    """Freezes the intervals of a model's APB layers, and optionally their masks, at given points of the training.

    Call it at the beginning of every epoch.

    Attributes:
        interval: Share of training after which alpha and delta stop; 1 trains them to the end.
        mask: Share of training after which the choice of float weights stops. With None, a weight may still cross the
            end of the interval later.

    Examples:
        >>> freeze = FreezeAPB(interval=0.5)
        >>> for epoch in range(epochs):  # doctest: +SKIP
        ...     freeze(model, epoch / epochs)
    """

    interval: float = 0.5
    mask: float | None = None

    def __call__(self, model: nn.Module, progress: float) -> None:
        """Freezes what is due.

        Args:
            model: Its APB layers are changed in place.
            progress: From 0 (begin) to 1 (end).
        """
        mask = self.mask is not None and progress >= self.mask
        if mask or progress >= self.interval:
            for _, layer, values in apb_layers(model):
                values.stop(layer.weight, mask)


@dataclass(frozen=True)
class APBMemory:
    """The size of a layer's weights.

    Attributes:
        name: The layer's name.
        weights: n, the number of weights.
        floats: s, the number of weights that stay float.
        exported: Bytes of signs, positions and values in an ONNX file.
    """

    name: str
    weights: int
    floats: int
    exported: int

    def bits(self, index_bits: int) -> int:
        """The paper's formula (equation 10) in bits: ``n + s * (32 + index_bits)``."""
        return self.weights + self.floats * (32 + index_bits)

    def __str__(self) -> str:
        share, bits = self.floats / self.weights, 8 * self.exported / self.weights
        return f"{self.name}: {share:.2%} of {self.weights} weights are float, {bits:.2f} bits per weight"


def apb_memory(model: nn.Module) -> list[APBMemory]:
    """The sizes of the APB layers of a model; ``print`` the entries.

    Files hold a sign for every weight, and 5 bytes for each float weight: its value, and one byte for the gap to the
    previous float weight. A gap longer than 254 takes another byte. So with 8 index bits the formula gives the exported
    bytes, except for long gaps and padding at the ends of rows.
    """
    entries = []
    for name, layer, values in apb_layers(model):
        with torch.no_grad():
            rest = values.residual(layer.weight).cpu().numpy()
        rows, columns = len(rest), rest[0].size
        floats = int((rest != 0).sum())
        coded = SparseArray.encode(rest).nbytes if floats else 0
        entries.append(APBMemory(name, rest.size, floats, rows * -(-columns // 8) + coded))
    return entries
