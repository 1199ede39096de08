"""The interface of a kernel family. The compiler, the tuner and the profiler use families only through it.

A family is a way to compute a layer. Its members differ only in parameters, for example the register tile of a direct
convolution, and never in the result. Each family is one frozen dataclass without fields, in a file of its own.
``families.py`` lists all families.
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
"""Parameters of a kernel: a frozen dataclass with a short str() without spaces; None if the family has one member."""


class Resource(Enum):
    """A resource that can limit a kernel on one core. A probe measures each (sbnn_tvm/profiling/limits.py)."""

    POPCOUNT = "popcount"
    MULTIPLY_ADD = "float32"
    INT8 = "int8"
    FULL_ADDER = "full adder"
    L2_LOADS = "loads, L2"


@dataclass(frozen=True)
class Bound:
    """The least work that a kernel must do, from which the profiler computes a lower bound of its time.

    Attributes:
        resource: The resource that the work needs.
        work: Amount of work: bytes for L2_LOADS, else multiply-accumulates. FULL_ADDER has only those with counted
            weights.
    """

    resource: Resource
    work: float


@dataclass(frozen=True, eq=False)
class BuiltKernel:
    """A kernel for a layer, and how it is called.

    Attributes:
        kernel: The kernel.
        reads: Memory layout of its data.
        groups: Number of channel groups in which packed data are packed.
        folded: Whether the whole epilogue became an integer comparison.
        reads_operands: Whether it reads the operands of the layer, in addition to the data.
    """

    kernel: Kernel
    reads: Form = Form.CHANNELS_LAST
    groups: int = 1
    folded: bool = False
    reads_operands: bool = True

    @property
    def stores_floats(self) -> Form:
        """Memory layout of its float outputs: as in ONNX if it reads that, else channels last."""
        return Form.PLAIN if self.reads == Form.PLAIN else Form.CHANNELS_LAST

    @property
    def stores(self) -> Form:
        """Memory layout of its packed outputs: planes if it reads planes and compares integers, else words."""
        return Form.PLANES if self.reads == Form.PLANES and self.folded else Form.BITS


@dataclass(frozen=True)
class Family(ABC):
    """A way to compute layers.

    Attributes:
        name: The name for users, in reports, in ``compile(kernels=...)`` and in the tuning database.
        skips_zeros: Whether its time depends on the number of weights that are not 0.
    """

    name: ClassVar[str]
    skips_zeros: ClassVar[bool] = False

    @abstractmethod
    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """The members that can compute a layer, the untuned default first; empty if the family cannot compute it."""

    @abstractmethod
    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """The expected time of a member on one core, in the unit of costs.py."""

    @abstractmethod
    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build the kernel of a member, with the layer's weights and epilogue."""

    def bound(self, layer: Layer) -> Bound | None:
        """The least work for a layer; None if memory bandwidth limits it."""
        return None

    def __str__(self) -> str:
        return self.name
