"""The part of a traced model that depends on parameters only, computed once.

torch.onnx would translate it node by node: the quantisers of weights are often half of a model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.utils._pytree import tree_map_only

from .trace_memory import changed_in_place

_SMALL = 4096  # elements; larger results than this must not be larger than what they are made of


def fold_parameters(program: ExportedProgram) -> None:
    """Replaces what follows from parameters, buffers and constants by constants, in place."""
    graph, signature = program.graph_module.graph, program.graph_signature
    changed = changed_in_place(graph)
    values = {node: value for node, value in _values(program).items() if node not in changed}
    folded: list[fx.Node] = []
    for node in graph.nodes:
        if node.op == "call_function" and node not in changed and all(each in values for each in node.all_input_nodes):
            value = _computed(node, values)
            if value is not None:
                values[node] = value
                folded.append(node)
    known = set(folded)
    first = next((node for node in graph.nodes if node.name in signature.user_inputs), None)
    if first is None:
        return
    index = [spec.arg.name for spec in signature.input_specs].index(first.name)
    for number, node in enumerate(folded):
        if all(user in known for user in node.users):
            continue
        with graph.inserting_before(first):
            constant = graph.placeholder(f"folded_{number}")
        constant.meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
        spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(constant.name), constant.name)
        signature.input_specs.insert(index, spec)
        index += 1
        program.constants[constant.name] = values[node].contiguous().clone()
    for node in reversed(folded):
        if not node.users:
            graph.erase_node(node)


def _values(program: ExportedProgram) -> dict[fx.Node, Tensor]:
    """The parameters, buffers and constants among the inputs of the trace."""
    state: dict[str, Any] = {**program.constants, **program.state_dict}
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    held = {
        node: state.get(targets.get(node.name) or "")
        for node in program.graph_module.graph.nodes
        if node.op == "placeholder"
    }
    return {node: value.detach() for node, value in held.items() if isinstance(value, Tensor)}


def _computed(node: fx.Node, values: dict[fx.Node, Tensor]) -> Tensor | None:
    """The value of a node, None if it has to stay.

    It stays if it is random, no tensor, much larger than what it is made of, or weights whose codes a file should have.
    """
    func: Any = node.target
    schema = getattr(func, "_schema", None)
    want = node.meta.get("val")
    if schema is None or schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags:
        return None
    read = sum(values[each].numel() for each in node.all_input_nodes)
    if not isinstance(want, Tensor) or want.numel() > max(_SMALL, read) or func.namespace == "onnx_symbolic":
        return None
    if func.namespace == "quantized_decomposed" and func._opname.startswith("dequantize"):
        return None
    args, kwargs = tree_map_only(fx.Node, values.__getitem__, (node.args, dict(node.kwargs)))
    with torch.no_grad():
        value: Tensor = func(*args, **kwargs)
    return value
