"""Selections of channels: each output channel is a channel of one of the inputs.

Concatenation, split and shuffle of channels are special cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InputChannel:
    """A channel of one of the inputs."""

    input: int
    channel: int


@dataclass(frozen=True)
class Selection:
    """The source of each channel of a result.

    Attributes:
        inputs: Number of channels of each input.
        sources: The input channel of each channel of the result.

    Raises:
        ValueError: If a source does not exist in the inputs.
    """

    inputs: tuple[int, ...]
    sources: tuple[InputChannel, ...]

    def __post_init__(self) -> None:
        for source in self.sources:
            if not (0 <= source.input < len(self.inputs) and 0 <= source.channel < self.inputs[source.input]):
                raise ValueError(f"there is no channel {source.channel} of input {source.input} in {self.inputs}")

    @classmethod
    def concatenation(cls, channels: Sequence[int]) -> Selection:
        """The selection of all channels of all inputs, in order."""
        return cls(tuple(channels), tuple(InputChannel(i, c) for i, count in enumerate(channels) for c in range(count)))

    def __str__(self) -> str:
        if self == Selection.concatenation(self.inputs):
            return "concatenation"
        channels = [source.channel for source in self.sources]
        if len(self.inputs) == 1 and channels == list(range(channels[0], channels[0] + len(channels))):
            return f"{channels[0]} to {channels[-1]}"
        return "permutation" if len(set(self.sources)) == sum(self.inputs) == len(channels) else "selection"

    def take(self, indices: Sequence[int]) -> Selection:
        """The selection of some channels of this one's result."""
        return Selection(self.inputs, tuple(self.sources[index] for index in indices))
