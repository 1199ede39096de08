"""Replaces weight constants of a model by decoder nodes if that makes the file smaller."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sbnn_tvm.algebra.coding import Bitmap, Coding, SparseArray, smallest

from . import opset
from .decoder_operators import Decoder, decoder_of

_NODE_BYTES = 256
"""Approximate size in a file of a node and the names of its constants."""


def encode_weights(model: ModelProto) -> ModelProto:
    """Encodes the weights of ai.sbnn operators, and float32 weights that are mostly 0, if that makes the file smaller.

    All values and names stay the same: the output of the decoder has the name of the constant that it replaces.

    Args:
        model: A model whose default opset is ``opset.ONNX_OPSET``; changed in place.

    Returns:
        The same model.
    """
    kernels = {
        node.input[1]: _kernel_bits(node)
        for node in model.graph.node
        if node.domain == opset.DOMAIN and node.op_type in ("BinaryConv2d", "BinaryLinear")
    }
    decoders: dict[str, Decoder] = {}
    savings: dict[str, int] = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        coding = _coding(array, kernels.get(tensor.name))
        if coding is not None and coding.nbytes + _NODE_BYTES < array.nbytes:
            decoders[tensor.name] = decoder = decoder_of(coding)
            saved = array.nbytes - coding.nbytes - _NODE_BYTES
            savings[decoder.operator] = savings.get(decoder.operator, 0) + saved
    # The file also has to hold the body of each operator.
    worth = {operator for operator, saved in savings.items() if saved > opset.function(operator).ByteSize()}
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in decoders or decoders[tensor.name].operator not in worth:
            kept.append(tensor)
            continue
        decoder = decoders[tensor.name]
        constants = {f"{tensor.name}.{role}": array for role, array in decoder.inputs.items()}
        kept += [numpy_helper.from_array(array, name) for name, array in constants.items()]
        nodes.append(
            helper.make_node(
                decoder.operator,
                list(constants),
                [tensor.name],
                tensor.name,
                domain=opset.DOMAIN,
                **decoder.attributes,
            )
        )
        model.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    nodes += model.graph.node
    for field, entries in ((model.graph.initializer, kept), (model.graph.node, nodes)):
        del field[:]
        field.extend(entries)
    return opset.add_functions(model)


def _kernel_bits(node: NodeProto) -> tuple[int, int | None]:
    """The number of bits in a row of an operator's weights, and in each kernel of the row (None for a linear layer)."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "BinaryLinear":
        return attributes["in_features"], None
    _, channels, height, width = attributes["weight_shape"]
    return channels * height * width, height * width


def _coding(array: np.ndarray, packed: tuple[int, int | None] | None) -> Coding | SparseArray | None:
    """The smallest coding of an array; None if it has no coding smaller than a bitmap."""
    if packed is not None:
        row, kernel = packed
        coding = smallest(opset.unpack_bits(array, (len(array), row)), kernel)
        return None if isinstance(coding, Bitmap) else coding
    return SparseArray.encode(array) if array.dtype == np.float32 and array.ndim > 1 else None
