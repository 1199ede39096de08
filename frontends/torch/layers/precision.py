"""The float types in which binary layers compute: never narrower than float32, whatever autocast and the model say.

A sum of signs is an integer, and bfloat16 holds integers exactly up to 256, float16 up to 2048; a window of 3x3x64
inputs has 576. So binary layers leave autocast, and widen narrow weights and inputs.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

_NARROW = (torch.float16, torch.bfloat16)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which torch computes in the types of its operands, on the device of ``x``."""
    # Not entered where it changes nothing: torch.export would make a graph of its own of what is inside.
    device = x.device.type
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def widened(x: Tensor) -> Tensor:
    """The tensor in float32 if its type is narrower."""
    return x.float() if x.dtype in _NARROW else x


def warn_of_narrow_weights(layer: nn.Module, weight: Tensor, rounded: str) -> None:
    """Warns, once for each description of a layer, that a model with these weights is not what will be exported.

    Args:
        layer, weight: The layer and its weights.
        rounded: What is not exact in such a layer.
    """
    if weight.dtype not in _NARROW or not layer.training or torch.compiler.is_compiling():
        return
    dtype = str(weight.dtype).removeprefix("torch.")
    warnings.warn(
        f"{type(layer).__name__}({layer.extra_repr()}) trains in {dtype}: {rounded}, and what "
        f"lies between the layers, are rounded to {dtype}, while an exported model computes in float32; keep the model "
        "in float32 and train it under torch.autocast instead",
        stacklevel=2,
    )
