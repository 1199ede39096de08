"""The module inside the wrappers that training puts around it.

Training wraps a model to run it on several devices, in a narrower float type, or compiled. None of that belongs to the
model: an exported file computes what the module inside computes in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.optim.swa_utils import AveragedModel

_ACCELERATE = ("forward", "_original_forward")  # the attributes by which accelerate puts its forward over a module's


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, AveragedModel, torch.compile and Lightning's Fabric."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, OptimizedModule):
        return model._orig_mod
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return model.module
    # By name, so that lightning need not be imported, nor installed.
    return model.module if type(model).__name__ == "_FabricModule" else None  # type: ignore[return-value]


@contextmanager
def as_it_is(model: nn.Module) -> Iterator[None]:
    """While this context is open, nothing around or inside a model changes how it computes.

    It computes without autocast, neither that around the call (with a warning) nor accelerate's, and submodules that
    torch.compile has wrapped are themselves.
    """
    with ExitStack() as stack:
        for device in {"cpu", *(parameter.device.type for parameter in model.parameters())} - {"meta"}:
            if torch.is_autocast_enabled(device):
                warnings.warn(
                    "autocast is on around the export, but an exported model computes in float32, as the model does "
                    "outside of it; results of float layers may differ",
                    stacklevel=2,
                )
                stack.enter_context(torch.autocast(device, enabled=False))
        for module in list(model.modules()):
            stack.enter_context(_own_forward(module))
            for name, child in list(module._modules.items()):
                if child is not None and isinstance(child, OptimizedModule):
                    stack.callback(module._modules.__setitem__, name, child)
                    module._modules[name] = unwrapped(child)
        yield


@contextmanager
def _own_forward(module: nn.Module) -> Iterator[None]:
    """Takes off accelerate's forward, which runs the module's own under autocast."""
    own = module.__dict__
    if "_original_forward" not in own:
        yield
        return
    held = {name: own[name] for name in _ACCELERATE if name in own}
    original = own.pop("_original_forward")
    own.pop("forward", None)
    if module.forward != original:  # the module had a forward of its own before
        own["forward"] = original
    try:
        yield
    finally:
        own.pop("forward", None)
        own.update(held)
