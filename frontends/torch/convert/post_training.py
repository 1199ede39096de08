"""Conversion of a trained float model without further training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.errors import ArgumentError

from ..export import eval_mode
from ..layers.affine_quantizers import AffineQuantizer
from ..layers.domains import TwoValues
from ..layers.modules import BinaryLayer
from ..layers.quantized import EightBit
from ..methods.sbnn import canonical, fit_
from .replace_layers import DEPTHWISE, FIRST, LAST, POINTWISE, Activations, BinaryConfig, LayerNote, Skip, binarize_


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
        eight_bit: The layers that have 8 bits now.
    """

    layers: tuple[QuantizedLayer, ...]
    kept: tuple[LayerNote, ...]
    recalibrated: tuple[str, ...]
    eight_bit: tuple[LayerNote, ...] = ()

    def __str__(self) -> str:
        eight = f"{len(self.eight_bit)} of 8 bits, " if self.eight_bit else ""
        lines = [
            f"{len(self.layers)} layers two-valued, {eight}{len(self.kept)} float, "
            f"{len(self.recalibrated)} batch norms recalibrated"
        ]
        width = max((len(note.name) for note in self.layers + self.eight_bit + self.kept), default=0)
        lines += [
            f"  {note.name:{width}}  {note.kind} -> {note.density:.1%} of the rarer value, "
            f"relative error {note.error:.3f}"
            for note in self.layers
        ]
        lines += [f"  {note.name:{width}}  {note.kind} -> 8 bits" for note in self.eight_bit]
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
    eight_bit: EightBit | None = None,
    eight_bit_layers: Skip = (FIRST, LAST, POINTWISE, DEPTHWISE),
) -> Quantization:
    """Sets the weights of a trained float model to two values, the nearest ones in least squares, in place.

    Args:
        model: Changed in place.
        density: The share of weights that take the rarer value; None for the nearest values.
        per: One pair of values for each output ``"channel"``, or for the ``"layer"``.
        activations: How inputs of converted layers are binarised, same as in BinaryConfig. None leaves them float. That
            keeps the accuracy, but the compiler then treats the layer as a float layer; files store one bit per weight.
        calibration: Inputs of the model, one batch or several, to estimate the statistics of its batch norms again;
            None leaves the statistics as they are. It also gives 8-bit layers their ranges.
        skip: The layers that stay float, same as in binarize_.
        eight_bit, eight_bit_layers: Same as in BinaryConfig. With ``skip=("*",)`` all other layers stay float.

    Returns:
        The converted layers with their errors, those of 8 bits, and the others with the reason.

    Raises:
        ArgumentError: If an argument is out of range, there is calibration data and neither a batch norm nor a layer of
            8 bits, or there are layers of 8 bits and no calibration data.

    References:
        The closed form is in sbnn.two_means.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> len(quantize_(model, density=0.1).layers)
        1
    """
    if density is not None and not 0 < density < 1:
        raise ArgumentError(f"a density is between 0 and 1, but got {density}")
    if eight_bit is not None and calibration is None:
        raise ArgumentError("8-bit layers take their ranges from data: pass calibration=")
    config = BinaryConfig(
        TwoValues(per=per), activations=activations, eight_bit=eight_bit, eight_bit_layers=eight_bit_layers
    )
    conversion = binarize_(model, config, skip)
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
    recalibrated: tuple[str, ...] = ()
    if conversion.eight_bit and calibration is not None:
        calibration = [calibration] if isinstance(calibration, Tensor) else list(calibration)
        calibrate_(model, calibration)
    if calibration is not None and (_batch_norms(model) or not conversion.eight_bit):
        recalibrated = recalibrate_(model, calibration)
        if conversion.eight_bit:
            calibrate_(model, calibration)  # for what the new statistics give
    return Quantization(tuple(layers), conversion.kept, recalibrated, conversion.eight_bit)


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
    norms = _batch_norms(model)
    if not norms:
        raise ArgumentError("the model has no batch norm to recalibrate")
    data = _started(batches)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms.values()]
    try:
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        with torch.no_grad():
            for batch in data:
                model(batch)
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return tuple(norms)


def calibrate_(model: nn.Module, batches: Tensor | Iterable[Tensor]) -> tuple[str, ...]:
    """Gives the quantisers of 8 and 16 bits of a model the range of their input, and changes nothing else.

    The model runs in eval mode, without these quantisers. Ranges are those of all data together, without a moving
    average: nothing of the data is clipped.

    Args:
        model: With LSQ or MovingAverage, in 8-bit layers or by themselves.
        batches: Inputs, one batch or several.

    Returns:
        The names of the quantisers.

    Raises:
        ArgumentError: If there is no such quantiser, or no batch; if a quantiser gets no data, or nothing but 0.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, AffineQuantizer)}
    if not quantizers:
        raise ArgumentError("the model has no quantiser to calibrate; LSQ and MovingAverage are some")
    data = _started(batches)
    with eval_mode(model), torch.no_grad(), ExitStack() as stack:
        for name, quantizer in quantizers.items():
            stack.enter_context(_named(name))
            stack.enter_context(quantizer.observing())
        for batch in data:
            model(batch)
    return tuple(quantizers)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"quantiser {name!r} cannot be calibrated: {error}") from error


def _batch_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def _started(batches: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches, of which there is at least one."""
    data = iter([batches] if isinstance(batches, Tensor) else batches)
    first = next(data, None)
    if first is None:
        raise ArgumentError("there is no calibration data: batches is empty")
    return chain([first], data)
