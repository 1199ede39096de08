"""Rewrites the nodes of other dialects of ONNX to standard operators, before the model is checked.

The dialects are QONNX, whose operators Brevitas and QKeras export, and FINN. The rewritten model is what is checked,
imported, and run by onnxruntime as the reference. The last of the nodes that replace another has its name and its
output; the names of the others begin with it. So reports and messages name the user's node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from sbnn_tvm.errors import ModelError

from ..model_parts import graphs_of, parts
from ..node import STANDARD, describe
from ..size_limits import ConstantBudget
from .constants import Constants
from .dialect_node import DialectNode
from .multi_threshold import multi_threshold
from .newer_opset import raise_opset
from .quant import bipolar_quant, float_quant, quant, trunc
from .ranks import ranks

OLDEST_OPSET = 9
"""The oldest version of the standard operators with ``Where`` and ``Sign``."""

_DOMAINS = ("qonnx.custom_op.general", "qonnx", "onnx.brevitas", "finn.custom_op.general", "finn", *STANDARD)
"""Names of the dialects; old files name none."""
_HARDWARE = "finn.custom_op.fpgadataflow"

_CONVERTERS: Mapping[str, Callable[[DialectNode], str]] = {
    "BipolarQuant": bipolar_quant,
    "FloatQuant": float_quant,
    "IntQuant": quant,
    "MultiThreshold": multi_threshold,
    "Quant": quant,
    "Trunc": trunc,
}
_OPERATORS = frozenset((domain, name) for domain in _DOMAINS for name in _CONVERTERS)


def in_standard_operators(model: ModelProto, where: str) -> ModelProto:
    """A model without nodes of known dialects.

    Args:
        model: A model whose names, constants and attributes are checked, with all its tensors in memory.
        where: What messages call it.

    Returns:
        A copy in which standard nodes compute the same; ``model`` itself if it has no such node.

    Raises:
        ModelError: If a node has inputs or attributes that its operator does not have, or that are not supported.
    """
    own = {(function.domain, function.name) for function in model.functions}
    dialect = _OPERATORS - own
    nodes = [node for part in parts(model) for node in part.body.node]
    _check_hardware(nodes, own)
    if not any((node.domain, node.op_type) in dialect for node in nodes):
        return model
    try:
        return _Rewriting(model, dialect).run()
    except ModelError as error:
        raise ModelError(f"{where} cannot be read: {error}") from None


def _check_hardware(nodes: Iterable[NodeProto], own: Iterable[tuple[str, str]]) -> None:
    for node in nodes:
        if node.domain.startswith(_HARDWARE) and (node.domain, node.op_type) not in own:
            raise ModelError(
                f"{describe(node)} is a hardware layer of FINN, which has no meaning on a CPU; pass the model from "
                "before FINN converts it to hardware layers"
            )


class _Rewriting:
    """One walk over a copy of a model."""

    def __init__(self, model: ModelProto, dialect: frozenset[tuple[str, str]]) -> None:
        self._given = model
        self._dialect = dialect
        self._budget = ConstantBudget(model)
        self._names = set(_names(model))

    def run(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self._given)
        raise_opset(model, self._dialect)
        opsets = _opsets(model)
        constants = Constants(opsets, self._budget)
        self._rewrite_graph(model.graph, constants, self._rank)
        for function in model.functions:
            inside = Constants({**opsets, **_opsets(function)}, self._budget)
            self._rewrite(function, inside, lambda name: None)
        left = {node.domain for part in parts(model) for node in part.body.node} | {f.domain for f in model.functions}
        kept = [
            entry
            for entry in model.opset_import
            if entry.domain in STANDARD or entry.domain in left or entry.domain not in _DOMAINS
        ]
        del model.opset_import[:]
        model.opset_import.extend(kept)
        return model

    def _rewrite_graph(self, graph: GraphProto, constants: Constants, rank: Callable[[str], int | None]) -> None:
        constants.add_initializers(graph)
        self._rewrite(graph, constants, rank)

    def _rewrite(
        self, body: GraphProto | FunctionProto, constants: Constants, rank: Callable[[str], int | None]
    ) -> None:
        rewritten: list[NodeProto] = []
        for node in body.node:
            for attribute in node.attribute:
                for graph in graphs_of(attribute):
                    inside = Constants(constants.opsets, self._budget, constants)
                    self._rewrite_graph(graph, inside, lambda name: None)
            if (node.domain, node.op_type) in self._dialect:
                rewritten += self._standard(node, constants, rank)
            else:
                constants.add(node)
                rewritten.append(node)
        del body.node[:]
        body.node.extend(rewritten)

    def _standard(self, node: NodeProto, constants: Constants, rank: Callable[[str], int | None]) -> list[NodeProto]:
        opset = constants.opsets[""]
        if opset < OLDEST_OPSET:
            raise ModelError(
                f"{describe(node)} needs operator set {OLDEST_OPSET} or newer, but the model uses {opset}; export it "
                "for a newer one"
            )
        if len(node.output) != 1 or not node.output[0]:
            raise ModelError(f"{describe(node)} has {len(node.output)} outputs; expected 1")
        read = DialectNode(node, opset, constants, rank, self._fresh)
        return read.finish(_CONVERTERS[node.op_type](read))

    def _fresh(self, hint: str) -> str:
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def _rank(self, name: str) -> int | None:
        return self._ranks.get(name)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return ranks(self._given, self._dialect)


def _opsets(owner: ModelProto | FunctionProto) -> dict[str, int]:
    versions = {entry.domain: entry.version for entry in owner.opset_import}
    return {**versions, "": versions.get("", versions.get("ai.onnx", 1))}


def _names(model: ModelProto) -> Iterator[str]:
    """All names of values and nodes."""
    for part in parts(model):
        if isinstance(part.body, GraphProto):
            yield from (tensor.name for tensor in part.body.initializer)
            yield from (value.name for value in (*part.body.input, *part.body.output))
        else:
            yield from (*part.body.input, *part.body.output)
        for node in part.body.node:
            yield from (node.name, *node.input, *node.output)
