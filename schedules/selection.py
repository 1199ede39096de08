"""Concatenation, split and shuffle of channels are one thing: every output channel is a channel of some input."""

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
    """Where the channels of a result come from.

    Attributes:
        inputs: Channels of each input.
        sources: One for each channel of the result.

    Raises:
        ValueError: If there is no such channel.
    """

    inputs: tuple[int, ...]
    sources: tuple[InputChannel, ...]

    def __post_init__(self) -> None:
        for source in self.sources:
            if not (0 <= source.input < len(self.inputs) and 0 <= source.channel < self.inputs[source.input]):
                raise ValueError(f"there is no channel {source.channel} of input {source.input} in {self.inputs}")

    @classmethod
    def concatenation(cls, channels: Sequence[int]) -> Selection:
        """All channels of all inputs in order."""
        return cls(tuple(channels), tuple(InputChannel(i, c) for i, count in enumerate(channels) for c in range(count)))

    def __str__(self) -> str:
        if self == Selection.concatenation(self.inputs):
            return "concatenation"
        channels = [source.channel for source in self.sources]
        if len(self.inputs) == 1 and channels == list(range(channels[0], channels[0] + len(channels))):
            return f"{channels[0]} to {channels[-1]}"
        return "permutation" if len(set(self.sources)) == sum(self.inputs) == len(channels) else "selection"

    def take(self, indices: Sequence[int]) -> Selection:
        """Some channels of what this one selects."""
        return Selection(self.inputs, tuple(self.sources[index] for index in indices))
