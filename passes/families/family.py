"""The door of a kernel family: the one interface through which the compiler, the tuner and the profiler see it.

A family is a way to compute a layer. Its members differ in parameters alone (the register tile of a direct convolution,
say), never in the result. A family is one frozen dataclass without fields in a file of its own; ``families.py`` lists
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel

from ..layers.forms import Form
from ..layers.kinds import Layer

Member: TypeAlias = object
"""Parameters of a kernel: a frozen dataclass whose text is short and has no spaces; None if a family has but one."""


class Resource(Enum):
    """What limits a kernel on one core. A probe measures each of them (sbnn_tvm/profiling/limits.py)."""

    POPCOUNT = "popcount"
    MULTIPLY_ADD = "float32"
    FULL_ADDER = "full adder"
    L2_LOADS = "loads, L2"


@dataclass(frozen=True)
class Bound:
    """The least work that a kernel must do.

    Attributes:
        resource: What it takes.
        work: How much: multiply-accumulates, those with counted weights for FULL_ADDER, bytes for L2_LOADS.
    """

    resource: Resource
    work: float


@dataclass(frozen=True, eq=False)
class BuiltKernel:
    """A kernel for a layer, and how it is called.

    Attributes:
        kernel: The kernel.
        reads: Form of its data.
        groups: In how many groups of channels packed data are packed.
        folded: Whether the whole epilogue became an integer comparison.
        reads_operands: Whether it reads the layer's operands beside the data.
    """

    kernel: Kernel
    reads: Form = Form.CHANNELS_LAST
    groups: int = 1
    folded: bool = False
    reads_operands: bool = True

    @property
    def stores(self) -> Form:
        """Form of its packed outputs."""
        return Form.PLANES if self.reads == Form.PLANES and self.folded else Form.BITS


@dataclass(frozen=True)
class Family(ABC):
    """A way to compute layers.

    Attributes:
        name: For users: in reports, in ``compile(kernels=...)``, in the tuning database.
        skips_zeros: Whether its time depends on the number of weights that are not 0.
    """

    name: ClassVar[str]
    skips_zeros: ClassVar[bool] = False

    @abstractmethod
    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """The members that can compute a layer, the untuned default first; none if the family cannot compute it."""

    @abstractmethod
    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """The time of a member on one core, on the scale of costs.py that all families share."""

    @abstractmethod
    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """The kernel of a member, with the layer's weights and epilogue."""

    def bound(self, layer: Layer) -> Bound | None:
        """The least work for a layer; None if memory is its limit."""
        return None

    def __str__(self) -> str:
        return self.name
