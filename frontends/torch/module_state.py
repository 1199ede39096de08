"""The state of a module, put back after its forward has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, dict, set)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Afterwards the model is as before, whatever its forward did: parameters, buffers, modes and attributes.

    Attributes are put back, and what a list, dict or set among them held. Objects of the user's that a forward changes
    inside keep the change.

    Yields:
        Puts the model back at once.
    """
    states = [_Attributes.of(module) for module in model.modules()]
    tensors = {id(tensor): tensor for state in states for tensor in state.tensors()}
    values = [_Value.of(tensor) for tensor in tensors.values()]

    def restore() -> None:
        for state in states:
            state.restore()
        for value in values:
            value.restore()

    try:
        yield restore
    finally:
        restore()


@dataclass(frozen=True, eq=False)
class _Attributes:
    """The attributes of a module, and copies of the containers among them."""

    module: nn.Module
    attributes: dict[str, Any]
    containers: list[tuple[Any, Any]]

    @classmethod
    def of(cls, module: nn.Module) -> _Attributes:
        attributes = dict(module.__dict__)
        containers = [value for value in attributes.values() if isinstance(value, _CONTAINERS)]
        return cls(module, attributes, [(held, held.copy()) for held in containers])

    def tensors(self) -> list[Tensor]:
        held = [value for _, copy in self.containers for value in (copy.values() if isinstance(copy, dict) else copy)]
        return [value for value in (*held, *self.attributes.values()) if isinstance(value, Tensor)]

    def restore(self) -> None:
        own = self.module.__dict__
        for name in own.keys() - self.attributes.keys():
            del own[name]
        own.update(self.attributes)
        for held, copy in self.containers:
            if isinstance(held, list):
                held[:] = copy
            else:
                held.clear()
                held.update(copy)


@dataclass(frozen=True, eq=False)
class _Value:
    """What a tensor held, and the memory it held it in: a forward may assign to ``.data``."""

    tensor: Tensor
    memory: Tensor
    copy: Tensor
    attributes: dict[str, Any]

    @classmethod
    def of(cls, tensor: Tensor) -> _Value:
        return cls(tensor, tensor.data, tensor.detach().clone(), dict(getattr(tensor, "__dict__", {})))

    def restore(self) -> None:
        with torch.no_grad():
            if not _equal_bits(self.memory, self.copy):
                self.memory.copy_(self.copy)
            if not _same_memory(self.tensor, self.memory):
                self.tensor.data = self.memory
        if hasattr(self.tensor, "__dict__"):
            for name in self.tensor.__dict__.keys() - self.attributes.keys():
                del self.tensor.__dict__[name]
            self.tensor.__dict__.update(self.attributes)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    shapes = [(each.dtype, each.shape, each.stride(), each.storage_offset()) for each in (one, other)]
    return shapes[0] == shapes[1] and one.untyped_storage()._cdata == other.untyped_storage()._cdata


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    return bool((same | ((one != one) & (other != other))).all()) if one.numel() else True
