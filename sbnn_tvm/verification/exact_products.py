"""Products of unsigned and signed bytes in onnxruntime that do not saturate.

On x86 without VNNI onnxruntime adds two products of an unsigned and a signed byte in 16 bits, which saturate where the
weights use all 8 bits. Products of two unsigned bytes are exact. So signed weights become unsigned ones, whose zero
point is higher by 128: the same numbers, by the definition of the operators. Products of two signed bytes are exact as
they are, and onnxruntime has none of signed data and unsigned weights (its ConvInteger computes them wrongly).
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np
import onnx
from onnx import numpy_helper

_STANDARD = ("", "ai.onnx")
_WEIGHT = {
    **{(domain, "QLinearConv"): (0, 2, 3, 5) for domain in _STANDARD},
    **{(domain, "QLinearMatMul"): (0, 2, 3, 5) for domain in _STANDARD},
    **{(domain, "ConvInteger"): (0, 2, 1, 3) for domain in _STANDARD},
    **{(domain, "MatMulInteger"): (0, 2, 1, 3) for domain in _STANDARD},
    ("com.microsoft", "QGemm"): (0, 2, 3, 5),
    ("com.microsoft", "MatMulIntegerToFloat"): (0, 4, 1, 5),
    ("com.microsoft", "DynamicQuantizeMatMul"): (0, -1, 1, 3),
}
"""For each operator the positions of the data and its zero point, of the weight and its zero point; -1 for none."""


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with unsigned weights instead of signed ones; itself if there is nothing to change."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays |= {name: tensor for node in model.graph.node for name, tensor in _constant(node)}
    unsigned = _unsigned_values(model.graph)
    chosen = [_signed(node, arrays) and _reads_unsigned(node, unsigned) for node in model.graph.node]
    if not any(chosen):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for number, node in enumerate(changed.graph.node):
        if not chosen[number]:
            continue
        place, point = _WEIGHT[node.domain, node.op_type][2:]
        name = f"{node.input[place]}_unsigned_{number}"
        weight = numpy_helper.to_array(arrays[node.input[place]])
        given = node.input[point] if len(node.input) > point else ""
        zero = numpy_helper.to_array(arrays[given]) if given else np.zeros((), np.int8)
        node.input[place] = name
        while len(node.input) <= point:
            node.input.append("")
        node.input[point] = f"{name}_zero_point"
        for of, array in ((name, weight), (f"{name}_zero_point", zero)):
            shifted = (array.astype(np.int16) + 128).astype(np.uint8)
            changed.graph.initializer.append(numpy_helper.from_array(shifted, of))
    return changed


def _signed(node: onnx.NodeProto, arrays: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node has signed weights that are constant."""
    if (node.domain, node.op_type) not in _WEIGHT:
        return False
    place, point = _WEIGHT[node.domain, node.op_type][2:]
    weight = arrays.get(node.input[place])
    known = len(node.input) <= point or not node.input[point] or node.input[point] in arrays
    return weight is not None and weight.data_type == onnx.TensorProto.INT8 and known


def _reads_unsigned(node: onnx.NodeProto, unsigned: Set[str]) -> bool:
    """Whether the data of a product are known to be uint8, from their own type or that of their zero point."""
    data, point = _WEIGHT[node.domain, node.op_type][:2]
    return point == -1 or node.input[data] in unsigned or (len(node.input) > point and node.input[point] in unsigned)


def _unsigned_values(graph: onnx.GraphProto) -> set[str]:
    """The values that are declared as uint8, or quantised to it at run time."""
    element = onnx.TensorProto.UINT8
    declared = {
        value.name for value in (*graph.input, *graph.value_info) if value.type.tensor_type.elem_type == element
    }
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == element}
    for node in graph.node:
        constants |= {name for name, tensor in _constant(node) if tensor.data_type == element}
        if node.op_type == "DynamicQuantizeLinear":
            constants |= {node.output[0], *node.output[2:]}
    return declared | constants


def _constant(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    if node.op_type == "Constant":
        yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
