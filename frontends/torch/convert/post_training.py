"""Conversion of a trained float model without further training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.errors import ArgumentError

from ..layers.domains import TwoValues
from ..layers.modules import BinaryLayer
from ..methods.sbnn import canonical, fit_
from .replace_layers import FIRST, LAST, Activations, BinaryConfig, LayerNote, Skip, binarize_


@dataclass(frozen=True)
class QuantizedLayer:
    """The result for one layer.

    Attributes:
        name, kind: Its qualified name in the model, and its class before the conversion.
        density: The share of weights that take the rarer of the two values.
        error: The distance of the two-valued weights from the float ones, divided by the norm of the float ones.
    """

    name: str
    kind: str
    density: float
    error: float


@dataclass(frozen=True)
class Quantization:
    """The result of quantize_, which can be printed.

    Attributes:
        layers: The layers that are two-valued now.
        kept: The linear layers that stayed float, with the reason.
        recalibrated: The batch norms with new statistics.
    """

    layers: tuple[QuantizedLayer, ...]
    kept: tuple[LayerNote, ...]
    recalibrated: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{len(self.layers)} layers two-valued, {len(self.kept)} float, "
            f"{len(self.recalibrated)} batch norms recalibrated"
        ]
        width = max((len(note.name) for note in self.layers + self.kept), default=0)
        lines += [
            f"  {note.name:{width}}  {note.kind} -> {note.density:.1%} of the rarer value, "
            f"relative error {note.error:.3f}"
            for note in self.layers
        ]
        lines += [f"  {note.name:{width}}  {note.kind} stays float: {note.reason}" for note in self.kept]
        return "\n".join(lines)


def quantize_(
    model: nn.Module,
    *,
    density: float | None = None,
    per: Literal["layer", "channel"] = "channel",
    activations: BinaryDomain | Activations | None = None,
    calibration: Tensor | Iterable[Tensor] | None = None,
    skip: Skip = (FIRST, LAST),
) -> Quantization:
    """Sets the weights of a trained float model to two values, the nearest ones in least squares, in place.

    Args:
        model: Changed in place.
        density: The share of weights that take the rarer value; None for the nearest values.
        per: One pair of values for each output ``"channel"``, or for the ``"layer"``.
        activations: How inputs of converted layers are binarised, same as in BinaryConfig. None leaves them float. That
            keeps the accuracy, but the compiler then treats the layer as a float layer; files store one bit per weight.
        calibration: Inputs of the model, one batch or several, to estimate the statistics of its batch norms again;
            None leaves the statistics as they are.
        skip: The layers that stay float, same as in binarize_.

    Returns:
        The converted layers with their errors, and the others with the reason.

    Raises:
        ArgumentError: If an argument is out of range, or there is calibration data and no batch norm.

    References:
        The closed form is in sbnn.two_means.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> len(quantize_(model, density=0.1).layers)
        1
    """
    if density is not None and not 0 < density < 1:
        raise ArgumentError(f"a density is between 0 and 1, but got {density}")
    conversion = binarize_(model, BinaryConfig(weights=TwoValues(per=per), activations=activations), skip)
    layers = []
    for note in conversion.converted:
        layer = model.get_submodule(note.name)
        assert isinstance(layer, BinaryLayer)
        mask = layer.mask()
        before = layer.latent().detach() * (1 if mask is None else mask)
        fit_(layer, density)
        with torch.no_grad():
            scale, offset = (number.reshape(-1, *[1] * (before.ndim - 1)) for number in layer.values(before))
            distance = (scale * layer.signs() + offset - before).norm() / before.norm()
        layers.append(QuantizedLayer(note.name, note.kind, canonical(layer).density, float(distance)))
    recalibrated = () if calibration is None else recalibrate_(model, calibration)
    return Quantization(tuple(layers), conversion.kept, recalibrated)


def recalibrate_(model: nn.Module, batches: Tensor | Iterable[Tensor]) -> tuple[str, ...]:
    """Estimates the running statistics of a model's batch norms again, and changes nothing else.

    Args:
        model: All modules but the batch norms are in eval mode while the data runs.
        batches: Inputs, one batch or several; every batch counts equally.

    Returns:
        The names of the batch norms.

    Raises:
        ArgumentError: If there is no batch norm with running statistics, or no batch.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }
    if not norms:
        raise ArgumentError("the model has no batch norm to recalibrate")
    data = iter([batches] if isinstance(batches, Tensor) else batches)
    first = next(data, None)
    if first is None:
        raise ArgumentError("there is no calibration data: batches is empty")
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms.values()]
    try:
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        with torch.no_grad():
            for batch in chain([first], data):
                model(batch)
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return tuple(norms)
