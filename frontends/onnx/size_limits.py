"""Bounds on the sizes of values: a small file must not make the compiler allocate much.

A value has at most ``MOST_ELEMENTS`` elements, since kernels count them in 32 bits. Constants may be as large as the
file that holds them, and grow by constant folding up to ``ConstantBudget.allowance``. Sizes are known before memory
is allocated: from ONNX's shape inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper
from tvm import relax

from sbnn_tvm.errors import ModelError

from .inferred_types import infer_types
from .node import describe, dtype_of, shape_of

MOST_ELEMENTS = 2**30
"""Most elements of a tensor."""
MOST_AXES = 32
"""Most dimensions of a tensor."""
MOST_LIVE_BYTES = 2**36
"""Most bytes of the values that a model holds at the same time when it runs."""

_FROM_NOTHING = 2**28
"""Bytes that constant folding may allocate, however small the file is."""
_GROWTH = 64
"""Bytes that constant folding may allocate per byte of the file: a bit becomes a float32, and that is copied."""
_SMALL = 4096
"""Most elements of an operand whose values shape inference looks at: a shape, a count, paddings."""
_WORK = 2**33
"""Most multiplications of constants; several seconds."""
_INTERPRETED_ELEMENTS = 2**20
"""Most elements that ONNX's reference implementation visits one by one, in Python; several seconds."""

_INTERPRETED = frozenset(
    {
        *("AffineGrid", "AveragePool", "CenterCropPad", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "DeformConv"),
        *("Erf", "GatherElements", "GatherND", "Gelu", "GridSample", "GRU", "LinearAttention", "LpPool", "LRN", "LSTM"),
        *("MaxPool", "MaxUnpool", "MelWeightMatrix", "NegativeLogLikelihoodLoss", "NonMaxSuppression", "QLinearConv"),
        *("Resize", "ReverseSequence", "RNN", "RoiAlign", "ScatterElements", "ScatterND", "SoftmaxCrossEntropyLoss"),
        *("STFT", "TensorScatter", "TfIdfVectorizer", "TopK", "Upsample"),
    }
)
"""Operators that ONNX's reference implementation computes with loops in Python."""
_OF_INPUT_SIZE = frozenset({"Compress", "NonZero", "Unique"})
"""Operators whose outputs have at most 64-bit numbers for each element and axis of their input."""
_PRODUCTS = frozenset({"Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})


def check_shape(what: str, shape: Sequence[int]) -> None:
    """Raises ModelError if a tensor has too many elements or dimensions, or a negative one; ``what`` names it."""
    if min(shape, default=0) < 0:
        raise ModelError(f"{what} has the shape {_text(shape)}, with a negative dimension; export the model again")
    if len(shape) > MOST_AXES or math.prod(shape) > MOST_ELEMENTS:
        raise ModelError(
            f"{what} has the shape {_text(shape)}, but at most {MOST_ELEMENTS:,} elements and {MOST_AXES} dimensions "
            "are supported; make the input or the batch smaller"
        )


def tensor_bytes(what: str, tensor: TensorProto) -> int:
    """The size of a tensor's data in a file.

    Raises:
        ModelError: If the tensor has no numeric type, or is too large.
    """
    check_shape(what, tensor.dims)
    elements = math.prod(tensor.dims)
    bits = _bits(tensor.data_type)
    if bits is None:
        raise ModelError(f"{what} has the element type {type_name(tensor.data_type)}, which is not supported here")
    return -(-elements * bits // 8)


def type_name(element: int) -> str:
    """ONNX's name of an element type; its number if there is none."""
    return TensorProto.DataType.Name(element) if element in TensorProto.DataType.values() else f"number {element}"


def check_live_bytes(main: relax.Function) -> None:
    """Raises ModelError if the values that are needed at the same time take too much memory when the model runs.

    Args:
        main: A function of one dataflow block whose values have static shapes; values are views of others at most once,
            so the sum is no more than twice what the memory plan allocates.
    """
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    last: dict[relax.Var, int] = {}
    for place, binding in enumerate(bindings):
        last.update(dict.fromkeys((*relax.analysis.free_vars(binding.value), binding.var), place))
    last.update(dict.fromkeys(relax.analysis.free_vars(main.body.body), len(bindings)))
    ending: dict[int, int] = {}
    for var, place in last.items():
        ending[place] = ending.get(place, 0) + _bytes_of(var)
    live = sum(_bytes_of(var) for var in main.params)
    for place, binding in enumerate(bindings):
        live += _bytes_of(binding.var)
        if live > MOST_LIVE_BYTES:
            raise ModelError(
                f"the model needs more than {MOST_LIVE_BYTES:,} bytes for the values that it holds when it computes "
                f"{binding.var.name!r}; make its input or its batch smaller"
            )
        live -= ending.get(place, 0)


def _bytes_of(var: relax.Var) -> int:
    if not isinstance(var.ty, relax.TensorType):
        return 0  # a tuple, whose parts are values of their own
    return math.prod(shape_of(var)) * np.dtype(dtype_of(var)).itemsize


class ConstantBudget:
    """What computing constants at import may cost.

    Attributes:
        allowance: Most bytes of these constants.
        used: Bytes so far.
        work: Multiplications so far.
        interpreted: Elements so far that Python loops visit.
    """

    def __init__(self, file_bytes: int) -> None:
        """A budget for a model of this size."""
        self.allowance = _FROM_NOTHING + _GROWTH * file_bytes
        self.used = self.work = self.interpreted = 0

    def take(self, what: str, shape: Sequence[int], itemsize: int) -> None:
        """Counts one array before it is allocated.

        Args:
            what: The node or constant, for the message.
            shape: The shape of the array.
            itemsize: Bytes of an element.

        Raises:
            ModelError: If it is too large.
        """
        check_shape(what, shape)
        size = math.prod(shape) * itemsize
        self.used += size
        if self.used > self.allowance:
            raise ModelError(
                f"{what} computes a constant of {size:,} bytes; the constants that a model of this size computes from "
                f"its own are limited to {self.allowance:,} bytes together; store them in the file instead"
            )

    def admits(self, node: NodeProto, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]) -> bool:
        """Whether a node with constant inputs may be evaluated: its size is known, and it takes seconds at most.

        Args:
            node: A standard node.
            inputs: The values of its inputs in order; None for an omitted one.
            opsets: The operator set versions of the model, by domain.

        Raises:
            ModelError: If its outputs are too large, or it takes long whoever evaluates it.
        """
        if node.op_type in ("Shape", "Size"):
            return True
        outputs = _output_types(node, inputs, opsets)
        given = [value for value in inputs if value is not None]
        elements = sum(value.size for value in given)
        if outputs is None:
            if node.op_type not in _OF_INPUT_SIZE:
                return False
            axes = max((value.ndim for value in given), default=1)
            self.take(describe(node), (len(node.output), elements, axes + 1), 8)
            return True
        for shape, itemsize in outputs:
            self.take(describe(node), shape, itemsize)
            elements += math.prod(shape)
        self._check_work(node, given, [shape for shape, _ in outputs])
        if node.op_type not in _INTERPRETED:
            return True
        self.interpreted += elements
        return self.interpreted <= _INTERPRETED_ELEMENTS and _modest(node)

    def _check_work(self, node: NodeProto, inputs: Sequence[np.ndarray], outputs: Sequence[tuple[int, ...]]) -> None:
        results = sum(math.prod(shape) for shape in outputs)
        if node.op_type == "Einsum":
            work = math.prod(value.size for value in inputs)
            work = min(work, results * math.prod(max((v.shape for v in inputs), key=math.prod, default=())))
        elif node.op_type in _PRODUCTS:
            work = results * max((dim for value in inputs for dim in value.shape), default=1)
        elif node.op_type.startswith("Conv") and len(inputs) > 1:
            work = results * max(1, inputs[1].size // max(1, inputs[1].shape[0] if inputs[1].ndim else 1))
        else:
            return
        self.work += work
        if self.work > _WORK:
            raise ModelError(
                f"{describe(node)} multiplies constants {work:,} times, which import computes; all nodes together may "
                f"do that {_WORK:,} times: store its result in the file instead"
            )


def _output_types(
    node: NodeProto, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]
) -> list[tuple[tuple[int, ...], int]] | None:
    """Shape and bytes of an element of each output; None if ONNX's inference does not know one of them."""
    try:
        inferred = infer_types(node, inputs, opsets)
    except Exception:  # an unknown operator or a wrong operand: it raises any type
        return None
    found = []
    for name in filter(None, node.output):
        known = inferred.get(name)
        bits = None if known is None else _bits(known.dtype)
        if known is None or bits is None or known.shape is None or None in known.shape:
            return None
        found.append((tuple(dim for dim in known.shape if dim is not None), -(-bits // 8)))
    return found


def _modest(node: NodeProto) -> bool:
    """Whether all numbers among the attributes are small: sizes of windows, counts of samples."""
    numbers = [number for attribute in node.attribute for number in (attribute.i, *attribute.ints)]
    return max(map(abs, numbers), default=0) <= _SMALL


def _bits(element: int) -> int | None:
    """Bits of an element of a numeric type; None for a type that is not numeric or not known."""
    if element in (TensorProto.UNDEFINED, TensorProto.STRING) or element not in TensorProto.DataType.values():
        return None
    name = TensorProto.DataType.Name(element)
    for bits in (2, 4):
        if name in (f"INT{bits}", f"UINT{bits}") or name.startswith(f"FLOAT{bits}E"):
            return bits
    return None if name.startswith("FLOAT6E") else 8 * helper.tensor_dtype_to_np_dtype(element).itemsize


def _text(shape: Sequence[int]) -> str:
    shown = ", ".join(str(dim) for dim in shape[:8])
    return f"[{shown}, ... ({len(shape)} dimensions)]" if len(shape) > 8 else f"[{shown}]"
