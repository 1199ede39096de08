"""What a training must remember to continue as if it had not stopped: its progress, its passes, its random draws.

All of it is in buffers, so a ``state_dict`` holds it, and DistributedDataParallel makes it equal over ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError


class TrainingState(nn.Module):
    """A module whose own buffers only matter in training: a state dict without them loads, and leaves them as they are.

    Files of versions that did not save them have none.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            if name not in self._non_persistent_buffers_set:
                state_dict.setdefault(f"{prefix}{name}", buffer)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Scheduled(TrainingState):
    """A module that changes in the course of training; ``set_progress`` updates it.

    Attributes:
        progress: The share of training that is done, from 0 to 1: a float32 scalar.
    """

    progress: Tensor

    def __init__(self, progress: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("progress", torch.tensor(float(progress)))


def set_progress(model: nn.Module, progress: float) -> None:
    """Tells the scheduled parts of a model (EDE, SiMaN's clamp, the selection of kernels) how much training is done.

    Call it at the beginning of every epoch. The progress is part of the model's state dict.

    Args:
        model: Its modules that are ``Scheduled`` are updated.
        progress: From 0 (begin) to 1 (end).

    Raises:
        ArgumentError: If the progress is not between 0 and 1.
    """
    if not 0 <= progress <= 1:
        raise ArgumentError(f"progress is the share of training that is done, from 0 to 1, but got {progress}")
    for module in model.modules():
        if isinstance(module, Scheduled):
            module.progress.fill_(progress)


class RandomDraws(TrainingState):
    """Random numbers that depend on nothing but a seed and the number of earlier draws, both in the state dict.

    So a resumed training draws what an uninterrupted one does, and the ranks of a distributed training draw the same.
    The seed comes from torch's default generator.
    """

    seed: Tensor
    draws: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.randint(1 << 62, (), device="cpu"))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device="cpu"))

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one draw, of as many numbers as needed; they depend on the device, too."""
        self.draws += 1
        return torch.Generator(device).manual_seed(int(self.seed + self.draws))
