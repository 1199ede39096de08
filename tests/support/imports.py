"""Models in ONNX's text format, imported and compared with onnxruntime; unlike small_model, unchecked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper, parser
from tvm import relax

from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.small_models import run_reference

X = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32)
"""The input of most models: a feature map [2, 4, 7, 9]."""


def build(
    text: str,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    version: int = 21,
    shapes: Mapping[str, list[int | str]] | None = None,
    outputs: list[str] | None = None,
) -> onnx.ModelProto:
    """One node a line in ONNX's text format; the values that no node reads are the outputs, if none are named."""
    nodes = [parser.parse_node(line) for line in text.strip().splitlines()]
    for node in nodes:
        node.name = f"{node.op_type}:{node.output[0]}"
    read = {name for node in nodes for name in node.input}
    outputs = outputs or [name for node in nodes for name in node.output if name and name not in read]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), (shapes or {}).get(name, value.shape)
            )
            for name, value in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
    if any(node.domain == opset.DOMAIN for node in nodes):
        opset.add_functions(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def run_imported(imported: Imported, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of the module, lowered by TVM's default pipeline."""
    executable = tvm.compile(imported.mod, tvm.target.Target({"kind": "llvm", "opt-level": 1}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs))
    return [value.numpy() for value in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def check(
    text: str,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    version: int = 21,
    exact: bool = False,
) -> Imported:
    """Import, run by TVM's default lowering, compare every output with onnxruntime."""
    model = load_model(build(text, inputs, constants, version))
    imported = import_onnx(model)
    wanted, got = run_reference(model, inputs).values(), run_imported(imported, inputs)
    for spec, want, value in zip(imported.outputs, wanted, got, strict=True):
        assert (spec.shape, spec.dtype) == (want.shape, want.dtype.name), spec
        if exact:
            np.testing.assert_array_equal(value, want, err_msg=spec.name)
        else:
            np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5, err_msg=spec.name)
    return imported


def operators(imported: Imported) -> list[str]:
    """The Relax operators in order."""
    calls = (binding.value for binding in bindings(imported))
    return [str(call.op.name).removeprefix("relax.") for call in calls if isinstance(call, tvm.ir.Call)]


def bindings(imported: Imported) -> list[relax.Binding]:
    """The bindings of main, which is one dataflow block."""
    blocks = imported.mod["main"].body.blocks
    assert len(blocks) == 1 and isinstance(blocks[0], relax.DataflowBlock)
    return list(blocks[0].bindings)


def constants_of(imported: Imported) -> list[np.ndarray]:
    """The constants of main."""
    found: list[np.ndarray] = []
    relax.analysis.post_order_visit(
        imported.mod["main"],
        lambda expr: found.append(expr.value.numpy()) if isinstance(expr, tvm.ir.GenericConst) else None,
    )
    return found


def relu_model(**options: object) -> onnx.ModelProto:
    """``y = Relu(x)``; the options of :func:`build`."""
    return build("y = Relu(x)", {"x": X}, **options)  # type: ignore[arg-type]
