"""Products of unsigned and signed bytes in onnxruntime that do not saturate.

On x86 without VNNI onnxruntime adds two products of an unsigned and a signed byte in 16 bits, which saturate where the
weights use all 8 bits. Products of two unsigned bytes are exact. So signed weights become unsigned ones, whose zero
point is higher by 128: the same numbers, by the definition of the operators.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

_WEIGHT = {"QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "ConvInteger": (1, 3), "MatMulInteger": (1, 3)}
"""For each operator the positions of the weight and of its zero point."""


def with_exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with unsigned weights instead of signed ones; itself if there is nothing to change."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays |= {name: tensor for node in model.graph.node for name, tensor in _constant(node)}
    if not any(_signed(node, arrays) for node in model.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for number, node in enumerate(changed.graph.node):
        if not _signed(node, arrays):
            continue
        place, point = _WEIGHT[node.op_type]
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
    if node.op_type not in _WEIGHT or node.domain not in ("", "ai.onnx"):
        return False
    place, point = _WEIGHT[node.op_type]
    weight = arrays.get(node.input[place])
    known = len(node.input) <= point or not node.input[point] or node.input[point] in arrays
    return weight is not None and weight.data_type == onnx.TensorProto.INT8 and known


def _constant(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    if node.op_type == "Constant":
        yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
