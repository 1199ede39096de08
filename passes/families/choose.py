"""Choose the kernel of a layer: the family that the user forced, else the fastest measured, else the least cost."""

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
        member: Which member of it; None where there is but one.
        serial: Whether it runs on one thread, however much work it is.
    """

    family: Family
    member: Member = None
    serial: bool = False

    @property
    def name(self) -> str:
        """The name under which measurements are kept, for example ``"popcount 7x4"``."""
        member = "" if self.member is None else f" {self.member}"
        return f"{self.family}{member}{' serial' * self.serial}"

    def cost(self, layer: Layer, isa: Isa) -> float:
        """The expected time on one core (costs.py)."""
        return self.family.cost(layer, isa, self.member)

    def build(self, layer: Layer, isa: Isa) -> BuiltKernel:
        """The kernel, with the layer's weights and epilogue."""
        with one_thread() if self.serial else nullcontext():
            built = self.family.build(layer, isa, self.member)
        return replace(built, kernel=named(built.kernel, self.serial))

    def __str__(self) -> str:
        return self.name


def named(kernel: Kernel, serial: bool) -> Kernel:
    """The kernel, named after its use of threads."""
    return replace(kernel, name=f"{kernel.name} serial") if serial else kernel


def candidates(layer: Layer, isa: Isa) -> tuple[Candidate, ...]:
    """Every way to compute a layer, family by family; the first has the least cost."""
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
    """The result of tuning for a layer.

    Attributes:
        candidate: The fastest.
        gain: How many times faster it is than the untuned one.
    """

    candidate: Candidate
    gain: float


@dataclass(frozen=True, eq=False)
class Choice:
    """A kernel for a layer, and who chose it.

    Attributes:
        candidate: What was chosen.
        built: Its kernel.
        forced: Whether the user chose the family.
        tuned: The measurement, where that decided.
    """

    candidate: Candidate
    built: BuiltKernel
    forced: bool = False
    tuned: Tuned | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return self.built.kernel


@dataclass(frozen=True, eq=False)
class Decisions:
    """What overrules the costs.

    Attributes:
        forced: Families by the name of a layer, or a pattern of names as in a shell. Of several that match a layer and
            can compute it, the last counts.
        nodes: The ONNX node of each variable: layers are named after these.
        tuned: The best of a layer's candidates, as measured; None if they were not measured.
    """

    forced: tuple[tuple[str, Family], ...] = ()
    nodes: Mapping[str, str] = field(default_factory=dict)
    tuned: Callable[[Layer, Isa, Sequence[Candidate]], Tuned | None] = lambda layer, isa, space: None


LEAST_COST = Decisions()


def choose(layer: Layer, isa: Isa, decisions: Decisions) -> Choice:
    """The kernel that computes a layer."""
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
    """Refuse a decision that changes no layer.

    Raises:
        CompileError: If no layer has the name, or the family can compute none of those that have it.
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
