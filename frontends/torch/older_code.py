"""Modules written for a GPU, or for torch before 1.5, run as they are on a CPU while they are exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


@contextmanager
def older_code_runs(device: torch.device) -> Iterator[None]:
    """While this context is open, ``Function()(x)`` runs ``Function.forward``, and moves to a GPU do nothing.

    torch refuses autograd functions whose forward is no static method; what they compute is well defined.

    Args:
        device: Where the model is. Moves are left as they are unless it is a CPU.
    """
    call = torch.autograd.Function.__call__

    def run_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return type(self).forward(self, *args, **kwargs)

    torch.autograd.Function.__call__ = run_forward  # type: ignore[method-assign]
    try:
        if device.type == "cpu":
            with _StayOnCpu():
                yield
        else:
            yield
    finally:
        torch.autograd.Function.__call__ = call  # type: ignore[method-assign]


class _StayOnCpu(TorchFunctionMode):
    """Takes moves to a GPU out of calls of torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0]
        if func in (Tensor.to, Tensor.type) or "device" in kwargs:
            args, kwargs = tree_map(_on_cpu, (tuple(args), kwargs))
        return func(*args, **kwargs)


def _on_cpu(argument: Any) -> Any:
    """The same argument for a CPU: devices, and types of tensors such as torch.cuda.FloatTensor."""
    if isinstance(argument, torch.device):
        return torch.device("cpu") if argument.type == "cuda" else argument
    if isinstance(argument, str):
        if argument == "cuda" or argument.startswith("cuda:"):
            return "cpu"
        return argument.replace("torch.cuda.", "torch.")
    if isinstance(argument, type) and argument.__module__ == "torch.cuda":
        return getattr(torch, argument.__name__)
    return argument
