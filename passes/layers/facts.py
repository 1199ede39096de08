"""Facts about a layer that its composite function does not show, stored as one typed attribute of the function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from sbnn_tvm.algebra.domain import BinaryDomain, Domain, Levels
from sbnn_tvm.schedules.epilogue.program import WindowThreshold
from sbnn_tvm.schedules.recurrent.sequence import Recurrence

from ..relax.facts import decoded_change, encoded_change
from ..relax.snapped_weights import WeightChange
from .recurrence import decoded_recurrence, encoded_recurrence

_ATTRIBUTE = "sbnn.facts"


@dataclass(frozen=True, eq=False)
class WindowTest:
    """An integer comparison that gives a layer's bits (phases/fold_window_sums.py).

    It compares the sum E over some of the weights and the sum T over the window.

    Attributes:
        operand: Index of the operand that holds T. A kernel that makes this comparison need not read it.
        of_set: True: E is the sum over the weights with the larger value. False: over the other weights.
        threshold: The comparison of ``2^shift * E + factor * T`` with a threshold per channel.
    """

    operand: int
    of_set: bool
    threshold: WindowThreshold


@dataclass(frozen=True, eq=False)
class LayerFacts:
    """Facts about a composite.

    Attributes:
        name: Name of the variable that the anchor computes.
        data_inputs: Number of parameters that the anchor reads; the others are operands of the epilogue.
        input_domain: The two values, or the levels of a few bits, of the data; None if not known.
        why_float: Why a linear layer is not binary, in one sentence.
        integer_sum_of: Name of the sum of float products that the anchor, an integer sum, replaces (relax/facts.py).
        members: Names of the values that the layer computes, in order; None stands for all variables of the function.
        window_sum: Index of the operand that is the sum over the layer's own window, if there is one.
        window_test: An integer comparison that gives the layer's bits, if there is one.
        factors: Scale and offset of the weights, float32 [OC] each, where the epilogue does not show them.
        weight_change: How the weights differ from those of the model, if they do.
        plane_of: What the weights are called that these are one of two planes of; "" for the first plane.
        recurrence: What a recurrent layer computes.
    """

    name: str
    data_inputs: int = 1
    input_domain: Domain | None = None
    why_float: str | None = None
    integer_sum_of: str | None = None
    members: tuple[str, ...] | None = None
    window_sum: int | None = None
    window_test: WindowTest | None = None
    factors: tuple[np.ndarray, np.ndarray] | None = None
    weight_change: WeightChange | None = None
    plane_of: str | None = None
    recurrence: Recurrence | None = None

    def attach(self, func: relax.Function) -> relax.Function:
        """The function with these facts; they replace earlier ones."""
        known: dict[str, Any] = {"name": self.name, "data_inputs": self.data_inputs}
        optional = {
            "input_domain": None if self.input_domain is None else _numbers_of(self.input_domain),
            "why_float": self.why_float,
            "integer_sum_of": self.integer_sum_of,
            "members": None if self.members is None else list(self.members),
            "window_sum": self.window_sum,
            "window_test": None if self.window_test is None else _encoded(self.window_test),
            "factors": None if self.factors is None else [tvm.runtime.tensor(each) for each in self.factors],
            "plane_of": self.plane_of,
            "weight_change": None if self.weight_change is None else encoded_change(self.weight_change),
            "recurrence": None if self.recurrence is None else encoded_recurrence(self.recurrence),
        }
        known |= {key: value for key, value in optional.items() if value is not None}
        return func.with_attr(_ATTRIBUTE, known)

    @classmethod
    def of(cls, func: relax.Function) -> LayerFacts:
        """The facts that are attached to a composite."""
        known = {str(key): value for key, value in func.attrs[_ATTRIBUTE].items()}

        def text(key: str) -> str | None:
            return None if key not in known else str(known[key])

        return cls(
            name=str(known["name"]),
            data_inputs=int(known["data_inputs"]),
            input_domain=_domain(known["input_domain"]) if "input_domain" in known else None,
            why_float=text("why_float"),
            integer_sum_of=text("integer_sum_of"),
            plane_of=text("plane_of"),
            members=tuple(map(str, known["members"])) if "members" in known else None,
            window_sum=int(known["window_sum"]) if "window_sum" in known else None,
            window_test=_decoded(known["window_test"]) if "window_test" in known else None,
            factors=(known["factors"][0].numpy(), known["factors"][1].numpy()) if "factors" in known else None,
            weight_change=decoded_change(known["weight_change"]) if "weight_change" in known else None,
            recurrence=decoded_recurrence(known["recurrence"]) if "recurrence" in known else None,
        )


def _numbers_of(domain: Domain) -> list[float]:
    return list(domain.levels) if isinstance(domain, Levels) else [domain.lo, domain.hi]


def _domain(numbers: Sequence[float]) -> Domain:
    values = [float(number) for number in numbers]
    return BinaryDomain(*values) if len(values) == 2 else Levels(tuple(values))


def _encoded(test: WindowTest) -> dict[str, Any]:
    return {
        "operand": test.operand,
        "of_set": test.of_set,
        "shift": test.threshold.shift,
        "factor": test.threshold.factor,
        "least": tvm.runtime.tensor(test.threshold.least),
        "inverted": tvm.runtime.tensor(test.threshold.inverted),
    }


def _decoded(known: Any) -> WindowTest:
    least, inverted = known["least"].numpy(), known["inverted"].numpy()
    threshold = WindowThreshold(int(known["shift"]), int(known["factor"]), least, inverted)
    return WindowTest(int(known["operand"]), bool(known["of_set"]), threshold)
