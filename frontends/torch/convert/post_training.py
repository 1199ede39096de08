"""Conversion of a trained float model without any further training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import BinaryDomain

from ..layers.domains import TwoValues
from ..layers.modules import BinaryLayer
from ..methods.sbnn import canonical, fit_
from .replace_layers import FIRST, LAST, Activations, BinaryConfig, LayerNote, Skip, binarize_


@dataclass(frozen=True)
class QuantizedLayer:
    """What became of one layer.

    Attributes:
        name, kind: Its qualified name in the model, and its class before.
        density: The share of weights that take the rarer of the two values.
        error: The distance of the two-valued weights to the float ones, relative to the length of these.
    """

    name: str
    kind: str
    density: float
    error: float


@dataclass(frozen=True)
class Quantization:
    """What quantize_ did: ``print`` it.

    Attributes:
        layers: Those that are two-valued now.
        kept: Linear layers that stayed float, with the reason.
        recalibrated: Batch norms whose statistics are new.
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
    """Gives a trained float model two-valued weights, in place, the nearest ones in least squares.

    Args:
        model: Changed in place.
        density: The share of weights that take the rarer value; None: whatever is nearest.
        per: One pair of values for each ``"channel"`` of the output, or for the ``"layer"``.
        activations: What inputs of converted layers are binarised to, as of BinaryConfig. None leaves them float, which
            keeps the accuracy, and the layer a float one to the compiler (its weights take a bit each in files).
        calibration: Inputs of the model, one batch or several, to estimate the statistics of its batch norms anew; None
            leaves them as they are.
        skip: What stays float, as of binarize_.

    Returns:
        What was converted, how well, and what was not and why.

    Raises:
        ValueError: If an argument is out of range, or there is calibration data and no batch norm.

    References:
        The closed form is in sbnn.two_means.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> len(quantize_(model, density=0.1).layers)
        1
    """
    if density is not None and not 0 < density < 1:
        raise ValueError(f"a density lies between 0 and 1, but got {density}")
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
    """Estimates the running statistics of a model's batch norms anew, and changes nothing else.

    Args:
        model: In eval mode but for its batch norms while the data runs.
        batches: Inputs, one batch or several; every batch counts the same.

    Returns:
        The names of the batch norms.

    Raises:
        ValueError: If there is no batch norm with running statistics, or no batch.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }
    if not norms:
        raise ValueError("the model has no batch norm to recalibrate")
    data = iter([batches] if isinstance(batches, Tensor) else batches)
    first = next(data, None)
    if first is None:
        raise ValueError("there is no calibration data: batches is empty")
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
