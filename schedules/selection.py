"""Selections: each output channel is a channel of one of the inputs, each output row and column one of theirs.

Concatenation, split and shuffle of channels are special cases; so are crops, strided slices, upsampling and padding.
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
        sources: The input channel of each channel of the result; None for a channel of one number.

    Raises:
        ValueError: If a source does not exist in the inputs.
    """

    inputs: tuple[int, ...]
    sources: tuple[InputChannel | None, ...]

    def __post_init__(self) -> None:
        for source in self.sources:
            if source is not None and not (
                0 <= source.input < len(self.inputs) and 0 <= source.channel < self.inputs[source.input]
            ):
                raise ValueError(f"there is no channel {source.channel} of input {source.input} in {self.inputs}")

    @classmethod
    def concatenation(cls, channels: Sequence[int]) -> Selection:
        """The selection of all channels of all inputs, in order."""
        return cls(tuple(channels), tuple(InputChannel(i, c) for i, count in enumerate(channels) for c in range(count)))

    def __str__(self) -> str:
        if self == Selection.concatenation(self.inputs):
            return "concatenation"
        channels = [source.channel for source in self.sources if source is not None]
        if len(channels) < len(self.sources):
            return f"{len(channels)} of {len(self.sources)} channels, padded"
        if len(self.inputs) == 1 and channels == list(range(channels[0], channels[0] + len(channels))):
            return f"{channels[0]} to {channels[-1]}"
        return "permutation" if len(set(self.sources)) == sum(self.inputs) == len(channels) else "selection"

    def take(self, indices: Sequence[int]) -> Selection:
        """The selection of some channels of this one's result."""
        return Selection(self.inputs, tuple(self.sources[index] for index in indices))


OUTSIDE = -1
"""A row or column of a result that is none of the inputs."""


@dataclass(frozen=True)
class PixelSelection:
    """The source of each row and column of a result.

    Attributes:
        height: Rows of the inputs.
        width: Columns of the inputs.
        rows: The input row of each row of the result, or OUTSIDE.
        columns: The input column of each column of the result, or OUTSIDE.

    Raises:
        ValueError: If a row or column does not exist in the inputs.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        for what, size, digits in (("row", self.height, self.rows), ("column", self.width, self.columns)):
            for digit in digits:
                if not OUTSIDE <= digit < size:
                    raise ValueError(f"there is no {what} {digit} of {size}")

    @property
    def pads(self) -> bool:
        """Whether some pixels are outside of the inputs."""
        return OUTSIDE in self.rows or OUTSIDE in self.columns

    def __str__(self) -> str:
        return f"{len(self.rows)}x{len(self.columns)} of {self.height}x{self.width} pixels"
