"""Import of ONNX models to Relax, in the form that the passes read.

``main`` is one dataflow block with static shapes. Each ONNX value that depends on an input becomes a separate variable,
which ``Imported.trace`` names, so that it can be compared with onnxruntime's value. Values that depend on constants
alone are computed here and leave no node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import tvm
from onnx import NodeProto, inliner, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map, onnx_input

from sbnn_tvm.errors import ModelError
from sbnn_tvm.runtime.metadata import TensorSpec

from . import opset
from .binary_converters import BINARY_CONVERTERS
from .fold_constants import fold, shape_like
from .node import Converter, Node, Value, as_expr, describe, dtype_of, is_static, shape_of
from .operators.table import CONVERTERS
from .static_shapes import check_element_type, model_inputs, tensor_spec, with_static_inputs

_STANDARD = ("", "ai.onnx")
_CONVERTERS = {"": CONVERTERS, "ai.onnx": CONVERTERS, opset.DOMAIN: BINARY_CONVERTERS}
_TVM_OPERATORS = frozenset(_get_convert_map())
_NODES_SHOWN = 3  # number of nodes that a message names for each unsupported operator


@dataclass(frozen=True, eq=False)
class Imported:
    """An ONNX model as a Relax module.

    Attributes:
        mod: The module; its function ``main`` returns a tensor, or a tuple if the model has several outputs.
        trace: By the name of a Relax variable, the ONNX value that it computes.
        nodes: By the name of a Relax variable, the ONNX node that it comes from. The name of an output stands for an
            output that no node computes.
        inputs: The inputs in the order of ``main``'s parameters.
        outputs: The outputs in order.
        model: The ONNX model that ``mod`` is equal to, with static input shapes and foreign functions inlined.
    """

    mod: tvm.IRModule
    trace: Mapping[str, str]
    nodes: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: onnx.ModelProto


def import_onnx(
    model: onnx.ModelProto, input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None
) -> Imported:
    """Turns an ONNX model into a Relax module.

    Args:
        model: A model that ``load_model`` accepts.
        input_shape: The shape of the only input, or shapes by input name, for dimensions that the model leaves open.

    Returns:
        The module, and the relation of its variables to the model.

    Raises:
        ModelError: If a shape stays dynamic, an operator is not supported (the message names all of them), or a node is
            inconsistent.
    """
    _check_domain_version(model)
    model = _inline_functions(with_static_inputs(model, input_shape))
    for output in model.graph.output:
        check_element_type("output", output)
    graph_import = _GraphImport(model)
    mod = graph_import.run()
    returned = graph_import.returned
    outputs = tuple(
        TensorSpec(output.name, shape_of(value), dtype_of(value))
        for output, value in zip(model.graph.output, returned, strict=True)
    )
    inputs = tuple(tensor_spec(value) for value in model_inputs(model.graph))
    nodes = _nodes_of_all(mod["main"], graph_import.nodes)
    return Imported(mod, graph_import.trace, nodes, inputs, outputs, model)


def _check_domain_version(model: onnx.ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain == opset.DOMAIN and entry.version > opset.VERSION:
            raise ModelError(
                f"the model uses version {entry.version} of the {opset.DOMAIN} operators, but this release knows them "
                f"up to version {opset.VERSION}; update sbnn_tvm or export for version {opset.VERSION}"
            )


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces calls of model-local functions by their bodies, except the ai.sbnn operators.

    Standard operators without a converter are replaced too, if ONNX defines them by other operators.
    """
    foreign = [(function.domain, function.name) for function in model.functions if function.domain != opset.DOMAIN]
    if foreign:
        model = inliner.inline_selected_functions(model, foreign)
    unknown = sorted({node.op_type for node in model.graph.node if node.domain in _STANDARD and not _supports(node)})
    if unknown:
        standard = [("", operator) for operator in unknown]
        model = inliner.inline_selected_functions(model, standard, inline_schema_functions=True)
    return model


def _supports(node: NodeProto) -> bool:
    own = node.op_type in _CONVERTERS.get(node.domain, {})
    return own or (node.domain in _STANDARD and node.op_type in _TVM_OPERATORS)


def _nodes_of_all(main: relax.Function, known: Mapping[str, str]) -> dict[str, str]:
    """Assigns the intermediate variables of a node to that node; they directly precede its result."""
    nodes: dict[str, str] = {}
    current = ""
    for block in reversed(main.body.blocks):
        for binding in reversed(block.bindings):
            current = known.get(binding.var.name, current)
            nodes[binding.var.name] = current
    return dict(reversed(nodes.items()))


class _GraphImport:
    """One walk over a graph with static input shapes and without foreign functions.

    Attributes:
        trace, nodes: Same as in ``Imported``; ``nodes`` has only the variables that are results of nodes.
        returned: The values that ``main`` returns.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.trace: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        self.returned: list[relax.Var] = []
        self._graph = model.graph
        self._builder = relax.BlockBuilder()
        self._values: dict[str, Value] = {}
        self._unknown: set[str] = set()  # values that depend on an unsupported operator
        self._unsupported: list[NodeProto] = []
        self._names: set[str] = set()
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self._opset = versions.get("", versions.get("ai.onnx", 1))
        self._opsets = {**versions, "": self._opset}
        self._output_names = {output.name for output in self._graph.output}
        for node in reversed(self._graph.node):
            if node.op_type in ("Identity", "Dropout") and node.output[0] in self._output_names:
                self._output_names.add(node.input[0])  # passes its input through, so the same variable is returned
        self._tvm = ONNXGraphImporter({}, None)
        self._tvm.bb, self._tvm.opset = self._builder, self._opset

    def run(self) -> tvm.IRModule:
        """Builds the module."""
        parameters = []
        for value in model_inputs(self._graph):
            spec = tensor_spec(value)
            parameters.append(relax.Var(self._fresh(spec.name), relax.TensorType(spec.shape, spec.dtype)))
            self._values[spec.name] = parameters[-1]
        failure: ModelError | None = None
        with self._builder.function("main", parameters, attrs={"num_input": len(parameters)}):
            with self._builder.dataflow():
                try:
                    self._walk(self._graph)
                    self.returned = [self._output(output.name) for output in self._graph.output]
                except ModelError as error:
                    failure = error  # raised below: an unfinished builder prints to stderr
                    self.returned = [self._builder.emit_output(relax.Tuple([]))]
            self._builder.emit_func_output(self.returned[0] if len(self.returned) == 1 else relax.Tuple(self.returned))
        if failure is not None:
            raise failure
        return self._builder.get()

    def _walk(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self._values[tensor.name] = _array(tensor)
        for sparse in graph.sparse_initializer:
            self._values[sparse.values.name] = _dense(sparse)
        for node in graph.node:
            self._visit(node)
        if graph is self._graph and self._unsupported:
            raise ModelError(_unsupported_message(self._unsupported))

    def _visit(self, node: NodeProto) -> None:
        if any(name in self._unknown for name in node.input):
            if not _supports(node):
                self._unsupported.append(node)
            self._unknown.update(node.output)
            return
        inputs = tuple(self._lookup(node, name) if name else None for name in node.input)
        if self._fold(node, inputs):
            return
        if node.op_type == "If" and node.domain in _STANDARD and isinstance(inputs[0], np.ndarray):
            self._take_branch(node, bool(inputs[0].item()))
            return
        if not _supports(node):
            self._unsupported.append(node)
            self._unknown.update(node.output)
            return
        try:
            results = self._convert(node, inputs)
        except ModelError:
            raise
        except Exception as error:  # TVM's converters and type inference raise any type
            shapes = ", ".join(_shape_text(value) for value in inputs if value is not None)
            raise ModelError(
                f"{describe(node)} on inputs of shape {shapes} cannot be imported: {_reason(error)}"
            ) from None
        self._bind(node, results)

    def _lookup(self, node: NodeProto, name: str) -> Value:
        if name not in self._values:
            raise ModelError(f"{describe(node)} reads {name!r}, which no earlier node computes")
        return self._values[name]

    def _fold(self, node: NodeProto, inputs: tuple[Value | None, ...]) -> bool:
        """Evaluates a node whose result depends on constants and static shapes alone."""
        if node.op_type in ("Shape", "Size") and node.domain in _STANDARD:
            inputs = tuple(value if value is None else shape_like(shape_of(value), dtype_of(value)) for value in inputs)
        constants = [value for value in inputs if value is None or isinstance(value, np.ndarray)]
        if len(constants) != len(inputs):
            return False
        results = fold(node, constants, self._opsets)
        if results is None:
            return False
        self._values.update(zip(node.output, results, strict=True))
        return True

    def _take_branch(self, node: NodeProto, condition: bool) -> None:
        wanted = "then_branch" if condition else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        self._walk(branch)
        for name, inner in zip(node.output, branch.output, strict=True):
            if inner.name in self._unknown:
                self._unknown.add(name)
            else:
                self._values[name] = self._lookup(node, inner.name)

    def _convert(self, node: NodeProto, inputs: tuple[Value | None, ...]) -> list[relax.Expr]:
        """The expressions of a node's outputs; all steps but the last are bound to variables already."""
        converter: Converter | None = _CONVERTERS[node.domain].get(node.op_type)
        version = self._opset if node.domain in _STANDARD else self._opsets[node.domain]
        hint = f"{node.output[0]}_part"
        result = None
        if converter is not None:
            result = converter(Node(node, inputs, version, lambda expr: self._emit(expr, hint)))
        if result is None:
            result = self._convert_by_tvm(node, inputs)
        result = self._builder.normalize(result)
        if isinstance(result, relax.Tuple):
            return list(result.fields)
        if isinstance(result.ty, relax.TupleType):
            parts = self._emit(result, hint)
            return [relax.TupleGetItem(parts, index) for index in range(len(parts.ty.fields))]
        return [result]

    def _convert_by_tvm(self, node: NodeProto, inputs: tuple[Value | None, ...]) -> relax.Expr:
        attributes = self._tvm._parse_attr(node.attribute)
        attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        operands = onnx_input([value if value is None else as_expr(value) for value in inputs])
        return self._tvm._convert_operator(node.op_type, operands, attributes, self._opset)

    def _bind(self, node: NodeProto, results: list[relax.Expr]) -> None:
        """Binds each output of a node to a variable."""
        if len(node.output) > len(results):
            raise ModelError(f"{describe(node)} has {len(node.output)} outputs, of which {len(results)} are supported")
        for name, result in zip(node.output, results, strict=False):
            if not name:
                continue
            if isinstance(result, tvm.ir.GenericConst):
                self._values[name] = result.value.numpy()
                continue
            if isinstance(result, relax.Var):
                variable = result  # an input of the node, or bound by TVM's converter
            elif name in self._output_names:
                variable = self._builder.emit_output(result, self._fresh(name))
            else:
                variable = self._emit(result, name)
            if not is_static(variable):
                raise ModelError(
                    f"{describe(node)} has an output whose shape depends on the data, "
                    "which is not supported; every shape must follow from the input shapes"
                )
            if isinstance(variable.ty, relax.TensorType) and min(shape_of(variable), default=1) < 1:
                shapes = ", ".join(_shape_text(value) for value in self._inputs_of(node))
                raise ModelError(
                    f"{describe(node)} has an output of shape {list(shape_of(variable))} for inputs of shape {shapes}; "
                    "the model needs a larger input"
                )
            self._values[name] = variable
            if not any(variable.same_as(value) for value in self._inputs_of(node)):
                self.trace[variable.name] = name
                self.nodes[variable.name] = node.name or node.output[0]

    def _inputs_of(self, node: NodeProto) -> Iterator[relax.Expr]:
        return (value for value in map(self._values.get, node.input) if isinstance(value, relax.Var))

    def _output(self, name: str) -> relax.Var:
        """A variable that ``main`` may return; the result of a node is one already."""
        value = self._values.get(name)
        if value is None:
            raise ModelError(f"the model returns {name!r}, which no node computes")
        if isinstance(value, relax.Var) and not isinstance(value, relax.DataflowVar) and value.name in self.trace:
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


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"the initializer {tensor.name!r} of shape {list(tensor.dims)} is damaged ({error}); export the model again"
        ) from error


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, indices = _array(sparse.values), _array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _shape_text(value: Value) -> str:
    return str(list(shape_of(value))) if isinstance(value, np.ndarray) or is_static(value) else str(value.ty)


def _reason(error: Exception) -> str:
    """The first sentence of a TVM error, without the dump of the operator's registration."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = re.sub(r"^In ir\.Op\(.*support_level=\d+\), ", "", line)
    line = re.sub(r"T\.int64\((-?\d+)\)", r"\1", line)
    return re.split(r"\.\s", line)[0].rstrip(".")


def _unsupported_message(nodes: Iterable[NodeProto]) -> str:
    by_operator: dict[str, list[str]] = {}
    for node in nodes:
        operator = node.op_type if node.domain in _STANDARD else f"{node.domain}::{node.op_type}"
        place = f"node {node.name!r}" if node.name else "the node"
        by_operator.setdefault(operator, []).append(f"{place} that computes {next(filter(None, node.output), '')!r}")
    parts = []
    for operator, places in by_operator.items():
        more = f" and {len(places) - _NODES_SHOWN} more" if len(places) > _NODES_SHOWN else ""
        parts.append(f"{operator} ({', '.join(places[:_NODES_SHOWN])}{more})")
    return (
        f"the model uses operators that are not supported: {'; '.join(parts)}; "
        "export the model with standard ONNX operators, or rewrite these nodes"
    )
