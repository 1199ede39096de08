"""Every weight domain, activation and kind of 8-bit layer of the front end, for tests that all of them must pass."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import WeightDomain

DOMAINS: dict[str, WeightDomain] = {
    "signs": sbnn.Signs(),
    "scaled signs": sbnn.ScaledSigns(),
    "learned scale": sbnn.ScaledSigns(learned=True),
    "two values": sbnn.TwoValues(),
    "two values per channel": sbnn.TwoValues("channel", "unit"),
    "bits": sbnn.Bits(),
    "scaled bits": sbnn.ScaledBits(),
    "magnitudes": sbnn.Magnitudes(),
    "optimal magnitudes": sbnn.Magnitudes("bits", "optimal"),
    "adaptive": sbnn.Adaptive(),
    "apb": sbnn.APB(),
    "rbonn": sbnn.RBONN(),
    "sub-bit": sbnn.SubBit(4, every=2),
    "selected kernels": sbnn.SelectedKernels(3),
    "two bits": sbnn.TwoBits(),
    "learned two bits": sbnn.TwoBits(learned=True),
}

ACTIVATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "sign": lambda channels, axis: sbnn.Binarize(),
    "learned thresholds": lambda channels, axis: sbnn.Binarize(channels, learned=True, channel_axis=axis),
    "ede": lambda channels, axis: sbnn.Binarize(estimator="ede"),
    "adaptive": lambda channels, axis: sbnn.AdaptiveBinarize(),
    "above mean": lambda channels, axis: sbnn.BinarizeAboveMean("ede"),
    "standardized": lambda channels, axis: sbnn.BinarizeStandardized(),
    "dorefa": lambda channels, axis: sbnn.DoReFa(2, learned=True),
    "symmetric": lambda channels, axis: sbnn.Symmetric(2, learned=True),
    "ewgs": lambda channels, axis: sbnn.EWGS(2),
}

EIGHT_BIT: dict[str, sbnn.EightBit] = {
    f"{activations} activations, {weights} weights": sbnn.EightBit(activations, weights)
    for activations in ("learned", "observed")
    for weights in ("learned", "observed")
}
