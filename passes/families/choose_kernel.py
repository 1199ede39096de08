"""Choose the kernel of a layer: what the user forced, else what was measured, else what the cost model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from sbnn_tvm.errors import CompileError
from sbnn_tvm.schedules.isa import Isa

from ..layers.layer import Layer
from .build_kernel import Choice, build
from .candidates import Candidate, Family, Tuned, candidates, families


@dataclass(frozen=True, eq=False)
class Decisions:
    """What overrules the cost model.

    Attributes:
        forced: Families by the name of a layer, or a pattern of names as in a shell. Of several that fit a layer, and
            whose family is possible there, the last counts.
        nodes: The ONNX node behind each variable: layers have these names.
        tuned: The best of a layer's candidates, as measured; None if they were not.
    """

    forced: tuple[tuple[str, Family], ...] = ()
    nodes: Mapping[str, str] = field(default_factory=dict)
    tuned: Callable[[Layer, Isa, Sequence[Candidate]], Tuned | None] = lambda layer, isa, space: None


COST_MODEL_ALONE = Decisions()


def choose_kernel(layer: Layer, isa: Isa, decisions: Decisions) -> Choice:
    """The kernel that computes a layer."""
    space = candidates(layer, isa)
    wanted = [family for pattern, family in decisions.forced if _fits(pattern, layer, decisions)]
    possible = {each.family for each in space}
    forced = next((family for family in reversed(wanted) if family in possible), None)
    if forced is not None:
        space = tuple(each for each in space if each.family == forced)
    tuned = decisions.tuned(layer, isa, space)
    choice = build(layer, space[0] if tuned is None else tuned.candidate, isa)
    return replace(choice, forced=forced is not None, tuned=tuned)


def check_forced(decisions: Decisions, layers: Iterable[Layer], isa: Isa) -> None:
    """Refuse a decision that changes no layer.

    Raises:
        CompileError: If no layer has the name, or none of those that have it can be computed by the family.
    """
    layers = list(layers)
    for pattern, family in decisions.forced:
        named = [layer for layer in layers if _fits(pattern, layer, decisions)]
        if not named:
            names = ", ".join(dict.fromkeys(layer.node(decisions.nodes) for layer in layers))
            raise CompileError(f"kernels: no layer is called {pattern!r}; the layers are {names}")
        possible = dict.fromkeys(each for layer in named for each in families(layer, isa))
        if family not in possible:
            names = ", ".join(each.value for each in possible)
            raise CompileError(
                f"kernels: {pattern!r} ({named[0].kind}) cannot be computed by the family {family.value!r}; "
                f"possible there: {names}"
            )


def _fits(pattern: str, layer: Layer, decisions: Decisions) -> bool:
    name = layer.node(decisions.nodes)
    return name == pattern or fnmatchcase(name, pattern)
