"""One walk over an ONNX graph: each node becomes Relax, by the first way that knows it."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import tvm
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from tvm import relax

from sbnn_tvm.errors import ModelError

from . import opset
from .binary_converters import BINARY_CONVERTERS
from .control_flow import CONTROL_FLOW
from .decoder_operators import DECODER_OPERATORS, decoded_shape
from .float16 import in_float32
from .fold_constants import fold, shape_like
from .function_bodies import body, has_body, off_default, schema_of
from .inferred_types import InferredType, contradiction, infer_types, type_proto
from .node import STANDARD, Converter, Node, Value, as_expr, describe, dtype_of, is_static, shape_of
from .operators import contributed
from .operators.table import CONVERTERS
from .refused_operators import REFUSED
from .size_limits import ConstantBudget, check_shape
from .static_shapes import check_declared, check_numpy_type, model_inputs, tensor_spec
from .tvm_converters import HONOURED, TvmConverters

_CONVERTERS = {
    "": CONVERTERS,
    "ai.onnx": CONVERTERS,
    contributed.DOMAIN: contributed.CONVERTERS,
    opset.DOMAIN: BINARY_CONVERTERS,
}
_POOLINGS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_WINDOWED = _POOLINGS | {"Conv", "ConvTranspose"}  # without any output, the input is too small
LARGEST_NODE_COUNT = 10_000
"""Largest number of nodes that unrolled loops, branches and definitions of operators add: seconds of import."""
_READ_SHAPES_ALONE = frozenset({"EyeLike", "Shape", "Size"})  # and the element type
_NODES_SHOWN = 3  # number of nodes that a message names for each unsupported operator


class _Unknown:
    """The value of a node that is not supported; it only serves to find all such nodes before the import fails."""


_UNKNOWN = _Unknown()


@dataclass(frozen=True, eq=False)
class _Scope:
    """The values that a node can read, by name.

    Attributes:
        values: Values by ONNX name; None for an optional input of a function that is omitted.
        opsets: The operator set versions that apply, by domain.
        inside: The node of the model whose definition or subgraph this is; None for the model's own graph.
    """

    values: MutableMapping[str, Value | _Unknown | None]
    opsets: Mapping[str, int]
    inside: NodeProto | None = None


class GraphImport:
    """One walk over a graph with static input shapes and without foreign functions.

    Attributes:
        trace, nodes: Same as in ``Imported``; ``nodes`` has only the variables that are results of nodes.
        returned: The values that ``main`` returns.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.trace: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        self.returned: list[relax.Var] = []
        self._declared = model.graph
        self._graph = in_float32(model).graph
        self._builder = relax.BlockBuilder()
        self._unsupported: list[tuple[NodeProto, NodeProto]] = []  # a node of the model, and the one that it needs
        self._names: set[str] = set()
        self._visits = 0
        self._budget = ConstantBudget(model.ByteSize())
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self._scope = _Scope(ChainMap(), {**versions, "": versions.get("", versions.get("ai.onnx", 1))})
        self._tvm = TvmConverters(self._builder)
        self._output_names = {output.name for output in self._graph.output}
        for node in reversed(self._graph.node):
            if node.op_type in ("Identity", "Dropout") and node.output[0] in self._output_names:
                self._output_names.add(node.input[0])  # passes its input through, so the same variable is returned

    def run(self) -> tvm.IRModule:
        """Builds the module."""
        names, parameters = [], []
        for value in model_inputs(self._declared):
            spec = tensor_spec(value)
            names.append(spec.name)
            parameters.append(relax.Var(self._fresh(spec.name), relax.TensorType(spec.shape, spec.dtype)))
            self._scope.values[spec.name] = parameters[-1]
        failure: Exception | None = None
        with self._builder.function("main", parameters, attrs={"num_input": len(parameters)}):
            with self._builder.dataflow():
                try:
                    for name, parameter in zip(names, parameters, strict=True):
                        if dtype_of(parameter) == "float16":
                            wide = relax.op.astype(parameter, "float32")
                            self._scope.values[name] = self._emit(wide, f"{name}_float32")
                    self._walk(self._graph, self._scope)
                    if self._unsupported:
                        raise ModelError(_unsupported_message(self._unsupported))
                    self.returned = list(map(self._output, self._graph.output, self._declared.output))
                except Exception as error:
                    failure = error  # raised below: an unfinished builder prints to stderr
                    self.returned = [self._builder.emit_output(relax.Tuple([]))]
            self._builder.emit_func_output(self.returned[0] if len(self.returned) == 1 else relax.Tuple(self.returned))
        if failure is not None:
            raise failure
        return self._builder.get()

    def _walk(self, graph: GraphProto, scope: _Scope) -> None:
        for tensor in graph.initializer:
            scope.values[tensor.name] = _array(tensor)
        for sparse in graph.sparse_initializer:
            scope.values[sparse.values.name] = _dense(sparse, self._budget)
        for node in graph.node:
            self._visit(node, scope)

    def _visit(self, node: NodeProto, scope: _Scope) -> None:
        self._visits += scope.inside is not None
        if self._visits > LARGEST_NODE_COUNT:
            raise ModelError(
                f"{describe(scope.inside or node)} adds more than {LARGEST_NODE_COUNT} nodes to the model once loops "
                "are unrolled; export the model with fewer iterations"
            )
        read = [self._lookup(node, name, scope) if name else None for name in node.input]
        if any(value is _UNKNOWN for value in read):
            if not _supports(node, scope):
                self._leave_out(node, scope)
            scope.values.update(dict.fromkeys(node.output, _UNKNOWN))
            return
        inputs = tuple(value for value in read if not isinstance(value, _Unknown))
        if node.op_type == "Range" and node.domain in STANDARD:  # ONNX's own definitions pass vectors of one element
            inputs = tuple(
                value.reshape(()) if isinstance(value, np.ndarray) and value.size == 1 else value for value in inputs
            )
        if self._fold(node, inputs, scope):
            return
        if not _supports(node, scope):
            self._leave_out(node, scope)
            return
        try:
            types = self._infer(node, inputs, scope)
            results = self._convert(node, inputs, types, scope)
        except ModelError:
            raise
        except Exception as error:  # TVM's converters and type inference raise any type
            raise ModelError(f"{_on_inputs(node, inputs)} cannot be imported: {reason_of(error)}") from error
        if results is None:
            self._leave_out(node, scope)
        else:
            self._bind(node, results, types, scope)

    def _leave_out(self, node: NodeProto, scope: _Scope) -> None:
        if node.domain in STANDARD and node.op_type in REFUSED:
            raise ModelError(f"{describe(scope.inside or node)} {REFUSED[node.op_type]}")
        self._unsupported.append((scope.inside or node, node))
        scope.values.update(dict.fromkeys(node.output, _UNKNOWN))

    def _lookup(self, node: NodeProto, name: str, scope: _Scope) -> Value | _Unknown | None:
        if name not in scope.values:
            raise ModelError(f"{describe(node)} reads {name!r}, which no earlier node computes")
        return scope.values[name]

    def _fold(self, node: NodeProto, inputs: Sequence[Value | None], scope: _Scope) -> bool:
        """Evaluates a node whose result depends on constants and static shapes alone."""
        if node.op_type in _READ_SHAPES_ALONE and node.domain in STANDARD:
            inputs = [value if value is None else shape_like(shape_of(value), dtype_of(value)) for value in inputs]
        constants = [value for value in inputs if value is None or isinstance(value, np.ndarray)]
        if len(constants) != len(inputs):
            return False
        results = fold(node, constants, scope.opsets, self._budget)
        if results is None:
            return False
        scope.values.update(zip(node.output, results, strict=True))
        return True

    def _infer(self, node: NodeProto, inputs: Sequence[Value | None], scope: _Scope) -> dict[str, InferredType]:
        """The types that ONNX gives to the outputs of a standard node; none for those with subgraphs."""
        if node.domain not in STANDARD or node.op_type in CONTROL_FLOW:
            return {}
        try:
            types = infer_types(node, inputs, scope.opsets)
        except (InferenceError, ValidationError) as error:
            raise ModelError(f"{_on_inputs(node, inputs)} is not valid ONNX: {contradiction(error)}") from None
        for name, found in types.items():
            check_numpy_type(f"{describe(node)} computes {name!r}, which", found.dtype)
        return types

    def _convert(
        self, node: NodeProto, inputs: Sequence[Value | None], types: Mapping[str, InferredType], scope: _Scope
    ) -> list[Value] | None:
        """The expressions of a node's outputs; all steps but the last are bound to variables already."""
        named = [name for name in node.output if name]
        if all(name in types and types[name].empty for name in named) and node.op_type not in _WINDOWED:
            return [types[name].without_elements() if name else np.empty(0) for name in node.output]
        version = scope.opsets["" if node.domain in STANDARD else node.domain]
        if node.op_type in CONTROL_FLOW and node.domain in STANDARD:
            unroll = CONTROL_FLOW[node.op_type]
            return unroll(node, version, inputs, lambda graph, given: self._run(graph, given, node, scope))
        converter: Converter | None = _CONVERTERS[node.domain].get(node.op_type)
        if node.domain == opset.DOMAIN and node.op_type in DECODER_OPERATORS:
            self._budget.take(describe(node), decoded_shape(node), np.dtype(np.float32).itemsize)
        hint = f"{node.output[0]}_part"
        result = None
        if converter is not None:
            bound, define = self._builder.lookup_binding, self._builder.add_func
            read = Node(node, tuple(inputs), version, lambda expr: self._emit(expr, hint), define, bound)
            result = converter(read)
            unread = off_default(node, version, read.read) if result is not None and node.domain != opset.DOMAIN else ""
            if unread:
                raise read.error(f"has {unread}, which is not supported; export the model without it")
        if result is None and node.domain in STANDARD:
            problem = self._tvm.problem(node, inputs, version)
            if problem is None:
                result = self._tvm.convert(node, inputs, version)
            else:
                results = self._expand(node, inputs, scope)
                if results is None and problem:
                    raise ModelError(f"{describe(node)} {problem}")
                return results
        result = self._builder.normalize(result)
        if isinstance(result, relax.Tuple):
            return list(result.fields)
        if isinstance(result.ty, relax.TupleType):
            parts = self._emit(result, hint)
            return [relax.TupleGetItem(parts, index) for index in range(len(parts.ty.fields))]
        return [result]

    def _expand(self, node: NodeProto, inputs: Sequence[Value | None], scope: _Scope) -> list[Value] | None:
        """The outputs of a node by ONNX's definition of it; None if it has none, or needs what is not supported."""
        types = [None if value is None else type_proto(value) for value in inputs]
        function = body(node, types, scope.opsets[""])
        if function is None:
            return None
        given: dict[str, Value | _Unknown | None] = dict.fromkeys(function.input)
        given.update(zip(function.input, inputs, strict=False))
        inner = _Scope(given, scope.opsets, scope.inside or node)
        try:
            for part in function.node:
                self._visit(part, inner)
        except ModelError as error:
            raise ModelError(f"{describe(node)} is imported by ONNX's definition of it, in which {error}") from None
        wanted = list(zip(function.output, node.output, strict=False))  # a body lacks outputs that nobody names
        results = [inner.values[name] if used else np.empty(0) for name, used in wanted]
        return None if any(value is _UNKNOWN for value in results) else results  # type: ignore[return-value]

    def _run(self, graph: GraphProto, given: Mapping[str, Value], node: NodeProto, scope: _Scope) -> list[Value] | None:
        """The outputs of a subgraph; None if it needs what is not supported."""
        known = (np.ndarray, relax.Var)
        local = {name: value if isinstance(value, known) else self._emit(value, name) for name, value in given.items()}
        inner = _Scope(ChainMap(local, scope.values), scope.opsets, scope.inside or node)
        self._walk(graph, inner)
        results = [self._lookup(node, output.name, inner) for output in graph.output]
        return None if any(value is _UNKNOWN for value in results) else results  # type: ignore[return-value]

    def _bind(
        self, node: NodeProto, results: Sequence[Value], types: Mapping[str, InferredType], scope: _Scope
    ) -> None:
        """Binds each output of a node to a variable."""
        if len(node.output) > len(results):
            raise ModelError(f"{describe(node)} has {len(node.output)} outputs, of which {len(results)} are supported")
        top = scope.inside is None
        inputs = [value for value in map(scope.values.get, node.input) if isinstance(value, relax.Var)]
        for name, result in zip(node.output, results, strict=False):
            if not name:
                continue
            if isinstance(result, tvm.ir.GenericConst):
                result = result.value.numpy()
            if isinstance(result, np.ndarray):
                _check_type(node, name, result, types)
                scope.values[name] = result
                continue
            if isinstance(result, relax.Var) and not (top and name in self._output_names and not _is_output(result)):
                variable = result  # an input of the node, or bound already
            elif top and name in self._output_names and not any(result.same_as(value) for value in inputs):
                variable = self._builder.emit_output(result, self._fresh(name))
            else:
                variable = result if isinstance(result, relax.Var) else self._emit(result, name)
            if not is_static(variable):
                raise ModelError(
                    f"{describe(node)} has an output whose shape depends on the data, "
                    "which is not supported; every shape must follow from the input shapes"
                )
            if isinstance(variable.ty, relax.TensorType):
                shape = shape_of(variable)
                if min(shape, default=1) == 0 and node.op_type not in _WINDOWED:
                    scope.values[name] = np.empty(shape, dtype_of(variable))  # known, as it has no elements
                    continue
                if min(shape, default=1) < 1:
                    shapes = ", ".join(_shape_text(value) for value in inputs)
                    raise ModelError(
                        f"{describe(node)} has an output of shape {list(shape)} for inputs of shape "
                        f"{shapes}; the model needs a larger input"
                    )
                _check_type(node, name, variable, types)
                check_shape(f"the result of {describe(node)}", shape)
                if not inputs:  # TVM computes it, later in the compilation
                    self._budget.take(describe(node), shape, np.dtype(dtype_of(variable)).itemsize)
            scope.values[name] = variable
            if top and not any(variable.same_as(value) for value in inputs):
                self.trace[variable.name] = name
                self.nodes[variable.name] = node.name or node.output[0]

    def _output(self, output: onnx.ValueInfoProto, declared: onnx.ValueInfoProto) -> relax.Var:
        """A variable that ``main`` may return; the result of a node is one already, unless the model has float16."""
        name = output.name
        value = self._scope.values.get(name)
        if value is None or isinstance(value, _Unknown):
            raise ModelError(f"the model returns {name!r}, which no node computes")
        if not any(_rounds_up(node) for node in self._graph.node if name in node.output):
            check_declared(output, dtype_of(value), shape_of(value))
        if 0 in shape_of(value):
            raise ModelError(
                f"the model returns {name!r} of shape {list(shape_of(value))}, which has no elements; "
                "remove that output"
            )
        if declared.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value = relax.op.astype(as_expr(value), "float16")
        elif isinstance(value, relax.Var) and _is_output(value) and value.name in self.trace:
            return value
        variable = self._builder.emit_output(as_expr(value), self._fresh(name))
        self.trace[variable.name] = name
        self.nodes[variable.name] = name
        return variable

    def _emit(self, expr: relax.Expr, hint: str) -> relax.Var:
        return self._builder.emit(expr, self._fresh(hint))

    def _fresh(self, hint: str) -> str:
        """A new variable name that resembles an ONNX name; the builder does not check against parameters."""
        base = re.sub(r"\W", "_", hint, flags=re.ASCII).lstrip("_") or "value"
        base = base if base[0].isalpha() else f"v{base}"
        name, count = base, 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name


def _is_output(variable: relax.Var) -> bool:
    return not isinstance(variable, relax.DataflowVar)


def _supports(node: NodeProto, scope: _Scope) -> bool:
    """Whether there may be a way to import a node; whether there is one depends on its attributes and inputs."""
    if node.domain not in STANDARD:
        return node.op_type in _CONVERTERS.get(node.domain, {})
    version = scope.opsets[""]
    if schema_of(node.op_type, version) is None:
        return False
    own = node.op_type in CONVERTERS or node.op_type in CONTROL_FLOW
    return own or node.op_type in HONOURED or has_body(node, version)


def _rounds_up(node: NodeProto) -> bool:
    """Whether ONNX's inference may count windows that begin in the padding, as it did before operator set 22.

    Nobody computes these.
    """
    return node.op_type in _POOLINGS and any(each.name == "ceil_mode" and each.i for each in node.attribute)


def _check_type(node: NodeProto, name: str, value: Value, types: Mapping[str, InferredType]) -> None:
    """Raises ModelError if a value does not have the type that ONNX infers: no wrong converter goes unnoticed."""
    inferred = types.get(name)
    if inferred is not None and not _rounds_up(node) and not inferred.holds(dtype_of(value), shape_of(value)):
        raise ModelError(
            f"{describe(node)} would be compiled to {dtype_of(value)}{list(shape_of(value))}, but ONNX says that "
            f"{name!r} is {inferred}: this form of the operator is not supported; export the model without it"
        )


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the initializer {tensor.name!r} of shape {list(tensor.dims)} is damaged ({error}); export the model again"
        ) from error


def _dense(sparse: onnx.SparseTensorProto, budget: ConstantBudget) -> np.ndarray:
    values, indices = _array(sparse.values), _array(sparse.indices)
    budget.take(f"the sparse initializer {sparse.values.name!r}", sparse.dims, values.itemsize)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _on_inputs(node: NodeProto, inputs: Iterable[Value | None]) -> str:
    shapes = [_shape_text(value) for value in inputs if value is not None]
    return f"{describe(node)} on inputs of shape {', '.join(shapes)}" if shapes else describe(node)


def _shape_text(value: Value) -> str:
    return str(list(shape_of(value))) if isinstance(value, np.ndarray) or is_static(value) else str(value.ty)


def reason_of(error: Exception) -> str:
    """The first sentence of a TVM error, without the dump of the operator's registration."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = re.sub(r"^In ir\.Op\(.*support_level=\d+\), ", "", line)
    line = re.sub(r"T\.int64\((-?\d+)\)", r"\1", line)
    return re.split(r"\.\s", line)[0].rstrip(".")


def _unsupported_message(nodes: Iterable[tuple[NodeProto, NodeProto]]) -> str:
    by_operator: dict[str, list[str]] = {}
    for node, needed in nodes:
        operator = node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"
        place = f"node {node.name!r}" if node.name else "the node"
        if needed is not node:
            operator += f", which needs {needed.op_type},"
        by_operator.setdefault(operator, []).append(f"{place} that computes {next(filter(None, node.output), '')!r}")
    parts = []
    for operator, places in by_operator.items():
        more = f" and {len(places) - _NODES_SHOWN} more" if len(places) > _NODES_SHOWN else ""
        parts.append(f"{operator} ({', '.join(places[:_NODES_SHOWN])}{more})")
    return (
        f"the model uses operators that are not supported: {'; '.join(parts)}; "
        "export the model with standard ONNX operators, or rewrite these nodes"
    )
