"""Choose the kernel of a layer.

1. List all candidates: each family that can compute the layer, with each of its members, parallel or serial.
2. If the user forced a family that is possible, keep only its candidates.
3. If tuning measured them, take the fastest. Otherwise take the candidate with the least cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from sbnn_tvm.errors import CompileError
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.tir.loops import one_thread

from ..layers.kinds import Layer
from .families import FAMILIES
from .family import BuiltKernel, Family, Member


@dataclass(frozen=True)
class Candidate:
    """One way to compute a layer.

    Attributes:
        family: The kernel family.
        member: The member of the family; None if the family has only one.
        serial: Whether it always runs on one thread, regardless of the amount of work.
    """

    family: Family
    member: Member = None
    serial: bool = False

    @property
    def name(self) -> str:
        """The name in the tuning database, for example ``"popcount 7x4"`` or ``"popcount 7x4 serial"``."""
        member = "" if self.member is None else f" {self.member}"
        return f"{self.family}{member}{' serial' * self.serial}"

    def cost(self, layer: Layer, isa: Isa) -> float:
        """The expected time on one core, in the unit of costs.py."""
        return self.family.cost(layer, isa, self.member)

    def build(self, layer: Layer, isa: Isa) -> BuiltKernel:
        """The kernel, with the layer's weights and epilogue."""
        with one_thread() if self.serial else nullcontext():
            built = self.family.build(layer, isa, self.member)
        return replace(built, kernel=named(built.kernel, self.serial))

    def __str__(self) -> str:
        return self.name


def named(kernel: Kernel, serial: bool) -> Kernel:
    """The kernel, with ``serial`` appended to its name if it runs on one thread."""
    return replace(kernel, name=f"{kernel.name} serial") if serial else kernel


def candidates(layer: Layer, isa: Isa) -> tuple[Candidate, ...]:
    """Every way to compute a layer, grouped by family, cheapest family first. The first candidate is the default."""
    members = {family: tuple(family.members(layer, isa)) for family in FAMILIES}
    possible = [family for family in FAMILIES if members[family]]
    if len(possible) > 1:
        possible.sort(key=lambda family: family.cost(layer, isa, members[family][0]))
    return tuple(
        Candidate(family, member, serial)
        for family in possible
        for serial in (False, True)
        for member in members[family]
    )


@dataclass(frozen=True)
class Tuned:
    """The result of tuning for one layer.

    Attributes:
        candidate: The fastest candidate.
        gain: Time of the untuned default, divided by the time of this candidate.
    """

    candidate: Candidate
    gain: float


@dataclass(frozen=True, eq=False)
class Choice:
    """The kernel chosen for a layer, and the reason for the choice.

    Attributes:
        candidate: The chosen candidate.
        built: Its kernel.
        forced: Whether the user forced the family.
        tuned: The result of tuning, if that decided; else None.
    """

    candidate: Candidate
    built: BuiltKernel
    forced: bool = False
    tuned: Tuned | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel to call; ``built`` has it together with the form of its data."""
        return self.built.kernel


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions that overrule the cost model.

    Attributes:
        forced: Pairs of a pattern of layer names (as in a shell) and a family. If several match a layer and can compute
            it, the last one counts. Example: ``(("*", FLOAT), ("layers.0.conv", COUNTERS))``.
        nodes: The ONNX node of each variable. Layers are named after these.
        tuned: Returns the fastest of a layer's candidates, as measured; None if they were not measured.
    """

    forced: tuple[tuple[str, Family], ...] = ()
    nodes: Mapping[str, str] = field(default_factory=dict)
    tuned: Callable[[Layer, Isa, Sequence[Candidate]], Tuned | None] = lambda layer, isa, space: None


LEAST_COST = Decisions()


def choose(layer: Layer, isa: Isa, decisions: Decisions) -> Choice:
    """Choose the kernel of a layer, and build it."""
    space = candidates(layer, isa)
    wanted = [family for pattern, family in decisions.forced if _matches(pattern, layer, decisions)]
    possible = {each.family for each in space}
    forced = next((family for family in reversed(wanted) if family in possible), None)
    if forced is not None:
        space = tuple(each for each in space if each.family == forced)
    tuned = decisions.tuned(layer, isa, space)
    candidate = space[0] if tuned is None else tuned.candidate
    return Choice(candidate, candidate.build(layer, isa), forced is not None, tuned)


def check_forced(decisions: Decisions, layers: Iterable[Layer], isa: Isa) -> None:
    """Check that every forced family applies to some layer.

    Raises:
        CompileError: If a pattern matches no layer, or if its family can compute none of the layers that match.
    """
    layers = list(layers)
    for pattern, family in decisions.forced:
        named_layers = [layer for layer in layers if _matches(pattern, layer, decisions)]
        if not named_layers:
            names = ", ".join(dict.fromkeys(layer.node(decisions.nodes) for layer in layers))
            raise CompileError(f"kernels: no layer is called {pattern!r}; the layers are {names}")
        possible = dict.fromkeys(each.family for layer in named_layers for each in candidates(layer, isa))
        if family not in possible:
            names = ", ".join(map(str, possible))
            raise CompileError(
                f"kernels: {pattern!r} ({named_layers[0].kind}) cannot be computed by the family '{family}'; "
                f"possible there: {names}"
            )


def _matches(pattern: str, layer: Layer, decisions: Decisions) -> bool:
    name = layer.node(decisions.nodes)
    return name == pattern or fnmatchcase(name, pattern)
