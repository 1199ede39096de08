"""Rewrites the nodes of other dialects of ONNX to standard operators, before the model is checked.

The dialects are QONNX, whose operators Brevitas and QKeras export, and FINN. The rewritten model is what is checked,
imported, and run by onnxruntime as the reference. The last of the nodes that replace another has its output, and
the last or the main one its name; the names of the others begin with it. So reports and messages name the user's node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import cached_property
from typing import TypeAlias

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from sbnn_tvm.errors import ModelError

from ..model_parts import graphs_of, parts
from ..node import STANDARD, describe
from ..size_limits import ConstantBudget
from .channels_last import (
    batch_normalization,
    columns_product,
    conv,
    debug_marker,
    max_pool,
    quant_avg_pool,
    xnor_popcount,
)
from .constants import Constants
from .dialect_node import DialectNode
from .multi_threshold import multi_threshold
from .newer_opset import raise_opset
from .quant import bipolar_quant, float_quant, quant, trunc
from .ranks import ranks

OLDEST_OPSET = 9
"""The oldest version of the standard operators with ``Where`` and ``Sign``."""

_GENERAL = ("qonnx.custom_op.general", "qonnx", "onnx.brevitas", "finn.custom_op.general", "finn", *STANDARD)
"""Names of the domain of quantisers; old files name none."""
_CHANNELS_LAST = "qonnx.custom_op.channels_last"
_FAMILIES = ("qonnx", "finn", "onnx.brevitas")
"""How the names of all domains of these dialects begin."""

_Operator: TypeAlias = tuple[str, str]
"""Domain and name of an operator."""

_CONVERTERS: Mapping[_Operator, Callable[[DialectNode], str]] = {
    (_CHANNELS_LAST, "BatchNormalization"): batch_normalization,
    (_CHANNELS_LAST, "Conv"): conv,
    (_CHANNELS_LAST, "MaxPool"): max_pool,
} | {
    (domain, name): converter
    for domain in _GENERAL
    for name, converter in {
        "BipolarQuant": bipolar_quant,
        "DebugMarker": debug_marker,
        "FloatQuant": float_quant,
        "IntQuant": quant,
        "MaxPoolNHWC": max_pool,
        "MultiThreshold": multi_threshold,
        "Quant": quant,
        "QuantAvgPool2d": quant_avg_pool,
        "Trunc": trunc,
        "XnorPopcountMatMul": xnor_popcount,
    }.items()
}
_COLUMNS = frozenset((domain, "Im2Col") for domain in _GENERAL)
_PRODUCTS = ("MatMul", "XnorPopcountMatMul")


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
    dialect = (_CONVERTERS.keys() | _COLUMNS) - own
    nodes = [node for part in parts(model) for node in part.body.node]
    try:
        for node in nodes:
            if node.domain.startswith(_FAMILIES) and _operator(node) not in dialect | own:
                raise _unknown(node)
        return _Rewriting(model, dialect).run() if any(_operator(node) in dialect for node in nodes) else model
    except ModelError as error:
        raise ModelError(f"{where} cannot be read: {error}") from None


def _operator(node: NodeProto) -> _Operator:
    return node.domain, node.op_type


def _unknown(node: NodeProto) -> ModelError:
    if any(attribute.name == "backend" for attribute in node.attribute) or "fpgadataflow" in node.domain:
        return ModelError(
            f"{describe(node)} is a hardware layer of FINN, which has no meaning on a CPU; pass the model from before "
            "FINN converts it to hardware layers"
        )
    known = ", ".join(sorted({name for _, name in _CONVERTERS} | {"Im2Col"}))
    return ModelError(f"{describe(node)} is not supported; of QONNX and FINN, these operators are: {known}")


class _Rewriting:
    """One walk over a copy of a model."""

    def __init__(self, model: ModelProto, dialect: Set[_Operator]) -> None:
        self._given = model
        self._dialect = dialect
        self._budget = ConstantBudget(model.ByteSize())
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
        unused = {domain for domain, _ in self._dialect} - left - set(STANDARD)
        kept = [entry for entry in model.opset_import if entry.domain not in unused]
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
        columns: dict[str, DialectNode] = {}
        for node in body.node:
            for attribute in node.attribute:
                for graph in graphs_of(attribute):
                    inside = Constants(constants.opsets, self._budget, constants)
                    self._rewrite_graph(graph, inside, lambda name: None)
            read = DialectNode(node, constants.opsets[""], constants, rank, self._fresh)
            read_columns = [columns[name] for name in node.input if name in columns]
            if read_columns and node.op_type in _PRODUCTS and node.input[0] in columns:
                rewritten += read.finish(columns_product(read, read_columns[0]))
            elif read_columns:
                raise read_columns[0].error(f"is read by {describe(node)}, but is supported before a MatMul alone")
            elif _operator(node) in self._dialect:
                _check(read)
                if _operator(node) in _COLUMNS:
                    columns[node.output[0]] = read
                else:
                    rewritten += read.finish(_CONVERTERS[_operator(node)](read))
            else:
                constants.add(node)
                rewritten.append(node)
        for output in body.output:
            name = output if isinstance(output, str) else output.name
            if name in columns:
                raise columns[name].error("is an output of the model, but is supported before a MatMul alone")
        del body.node[:]
        body.node.extend(rewritten)

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


def _check(node: DialectNode) -> None:
    if node.opset < OLDEST_OPSET:
        raise node.error(
            f"needs operator set {OLDEST_OPSET} or newer, but the model uses {node.opset}; export it for a newer one"
        )
    if len(node.proto.output) != 1 or not node.proto.output[0]:
        raise node.error(f"has {len(node.proto.output)} outputs; expected 1")


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
