"""Small ONNX models written as text, the reference that runs them, and TVM's default lowering as an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import helper, numpy_helper, parser
from tvm import relax
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx import opset

Arrays = Mapping[str, np.ndarray]


def small_model(
    text: str,
    inputs: Mapping[str, Sequence[int] | tuple[Sequence[int], str]],
    constants: Mapping[str, object] | None = None,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A checked model of one node a line in ONNX's text format.

    Args:
        text: The nodes; each is named after its operator and its first output.
        inputs: Shapes, or (shape, dtype) where that is not float32.
        constants: Initialisers; Python numbers and float64 arrays become float32.
        outputs: Names of the values to return.
    """
    nodes = [parser.parse_node(line) for line in text.strip().splitlines()]
    for node in nodes:
        node.name = f"{node.op_type}:{node.output[0]}"
    values = []
    for name, spec in inputs.items():
        shape, dtype = (spec[0], spec[1]) if len(spec) == 2 and isinstance(spec[1], str) else (spec, "float32")
        values.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
    arrays = {name: np.asarray(value) for name, value in (constants or {}).items()}
    tensors = [
        numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)
        for name, array in arrays.items()
    ]
    graph = helper.make_graph(nodes, "small", values, [onnx.ValueInfoProto(name=name) for name in outputs], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if any(node.domain == opset.DOMAIN for node in nodes):
        opset.add_functions(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model)
    return model


def run_reference(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """The outputs of onnxruntime without graph optimisations, by name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_oracle(mod: IRModule, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a Relax module, lowered by TVM's default pipeline."""
    executable = tvm.compile(mod, tvm.target.Target({"kind": "llvm", "opt-level": 1}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(array) for array in feeds))
    return [tensor.numpy() for tensor in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def grid_inputs(model: onnx.ModelProto, seed: int = 0, step: float = 0.25) -> dict[str, np.ndarray]:
    """Random inputs on a coarse grid, so that thresholds (0 among them) are hit exactly."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = (np.round(rng.standard_normal(shape) / step) * step).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 2 if np.issubdtype(dtype, np.bool_) else 9, shape).astype(dtype)
    return feeds
