"""docs/operators.md: which standard operators compile, how, and what is refused for which reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import onnx

from sbnn_tvm.frontends.onnx.control_flow import CONTROL_FLOW
from sbnn_tvm.frontends.onnx.function_bodies import schema_of
from sbnn_tvm.frontends.onnx.operators import contributed
from sbnn_tvm.frontends.onnx.operators.table import CONVERTERS
from sbnn_tvm.frontends.onnx.refused_operators import REFUSED
from sbnn_tvm.frontends.onnx.tvm_converters import HONOURED

from .outcome import Outcome, Verdict

_HEAD = """# Operators

Standard ONNX operators, of operator sets 7 to {newest}. This page is made by `make conformance`, which compiles and
runs ONNX's own conformance cases: {right} of {all} give the right values, {refused} are refused with a sentence.

*Imported by* says who turns the operator into Relax: **us** (`frontends/onnx/operators/`), **TVM**'s converter, for
nodes that say no more than it honours (`frontends/onnx/tvm_converters.py`), ONNX's **definition** of the operator by
others, or **unrolling** of its subgraph. Nodes whose inputs are constants, or whose results follow from shapes, are
computed at **import**. An operator can have several of these; the first that knows the node is taken.

The inputs that say what an operator does (axes, shapes, sizes, pads) must be constants, or follow from constants and
shapes.

## All operators

| operator | imported by | cases right | refused |
|---|---|---|---|
"""
_ONLY_CONSTANT = frozenset({"Constant", "ConstantOfShape", "EyeLike", "MelWeightMatrix", "Shape", "Size"})
"""Operators that are always computed at import."""

_CONTRIBUTED = """
## Operators of onnxruntime

Of the domain `com.microsoft`, what its quantiser writes, with the codes of its kernels for x86 with AVX2, on int8 and
uint8 (`frontends/onnx/operators/contributed.py`):
"""

_REFUSALS = """
## What is refused, and why

The reason is the end of the sentence that the compiler writes about the node.

| operator | cases | reason |
|---|---|---|
"""


def page(outcomes: Iterable[Outcome]) -> str:
    """The page for the outcomes of all cases, in Markdown."""
    outcomes = list(outcomes)
    counts: dict[str, Counter[Verdict]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.operator][outcome.verdict] += 1
        if outcome.verdict is Verdict.REFUSED:
            reasons[outcome.operator][_reason(outcome.reason)] += 1
    total = Counter(outcome.verdict for outcome in outcomes)
    text = _HEAD.format(
        newest=onnx.defs.onnx_opset_version(),
        right=total[Verdict.RIGHT],
        all=total.total(),
        refused=total[Verdict.REFUSED],
    )
    for operator in operators():
        found = counts[operator]
        text += f"| {operator} | {imported_by(operator)} | {found[Verdict.RIGHT]} | {found[Verdict.REFUSED]} |\n"
    text += _CONTRIBUTED + "".join(f"- {operator}\n" for operator in sorted(contributed.CONVERTERS))
    text += _REFUSALS
    for operator in sorted(reasons):
        for reason, count in reasons[operator].most_common():
            text += f"| {operator} | {count} | {reason} |\n"
    return text


def operators() -> list[str]:
    """The standard operators of the newest operator set."""
    newest = onnx.defs.onnx_opset_version()
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}
    return sorted(name for name in names if schema_of(name, newest) is not None)


def imported_by(operator: str) -> str:
    """Who turns an operator into Relax."""
    if operator in REFUSED and operator not in _ONLY_CONSTANT:
        return "refused"
    schema = schema_of(operator, onnx.defs.onnx_opset_version())
    ways = {
        "us": operator in CONVERTERS,
        "TVM": operator in HONOURED,
        "definition": schema.has_function or schema.has_context_dependent_function,
        "unrolling": operator in CONTROL_FLOW,
        "import": operator in _ONLY_CONSTANT,
    }
    return ", ".join(way for way, there in ways.items() if there) or "not supported"


def _reason(sentence: str) -> str:
    """A refusal without the names of one model."""
    text = re.sub(r"^the \w+ node that computes '[^']*'( on inputs of shape [\[\]\d, ]+)? ", "", sentence)
    text = re.sub(r"'[^']*'", "…", text).replace("|", "\\|")
    text = re.sub(r"\[[\d?, ]*\]|\(\d[\d, ]*\)", "[…]", text)
    text = re.sub(r"^(input|output) … has the element type \w+,", "an input or output has an element type", text)
    return re.sub(r"\s+", " ", text)
