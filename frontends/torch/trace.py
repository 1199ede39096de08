"""From a module to torch's ONNX translation of it: traced by torch.export, or else by running it once.

Before the translation the trace is simplified. torch translates a trace node by node, slowly, and keeps what a forward
pass does not need: the arithmetic of straight-through estimators, quantisers of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sbnn_tvm.errors import ModelError

from ..onnx import opset
from .fold_parameters import fold_parameters
from .frozen_trace import check_frozen, frozen_trace
from .layers.operators import traced_as_operators
from .masked_assignment import select_where_masked
from .module_state import unchanged
from .older_code import older_code_runs
from .straight_through import cancel_straight_through
from .user_code import reason_of


@dataclass(frozen=True, eq=False)
class Translation:
    """A traced module, and torch's translation of it to ONNX.

    Attributes:
        program: The trace whose operators were translated.
        model: The translation, not optimised.
        source: Sentences for the report: how the module was traced, if not by torch.export as it is; else empty.
    """

    program: ExportedProgram
    model: ir.Model
    source: str = ""


def translate(model: nn.Module, inputs: tuple[Tensor, ...], exact_weights: bool = False) -> Translation:
    """Trace a module and translate it to ONNX.

    Args:
        model: In eval mode, under ``torch.no_grad``. Left as it is.
        inputs: For the traces.
        exact_weights: Keep straight-through arithmetic, whose rounding changes weights by some units in the last place.

    Raises:
        ModelError: If no way works; names module, file and line where it is the module's code.
    """
    try:
        with unchanged(model), traced_as_operators():
            traced = torch.export.export(model, tuple(tensor.clone() for tensor in inputs))
        return _translated(traced, inputs, exact_weights)
    except Exception as error:
        first = error
    reason = reason_of(first, model)
    try:
        with older_code_runs(device_of(model)):
            with unchanged(model):
                graph = frozen_trace(model, inputs)
            with unchanged(model):
                check_frozen(model, graph, inputs)
            with unchanged(model), traced_as_operators():  # single operators of ours compute nothing in torch
                graph = frozen_trace(model, inputs)
        traced = torch.export.export(graph, inputs)
        return _translated(
            traced,
            inputs,
            exact_weights,
            f"traced by running it once, since torch.export says: {reason.split('. ')[0]}",
        )
    except ModelError:
        raise
    except Exception:
        raise ModelError(f"torch cannot export the model to ONNX: {reason}") from first


def device_of(model: nn.Module) -> torch.device:
    """Where a module's parameters are, or its buffers; a CPU if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _translated(
    traced: ExportedProgram, inputs: tuple[Tensor, ...], exact_weights: bool, *sentences: str
) -> Translation:
    _drop_assertions(traced)
    count = 0 if exact_weights else cancel_straight_through(traced)
    select_where_masked(traced)
    traced.graph_module.graph.eliminate_dead_code()
    fold_parameters(traced)
    traced.graph_module.recompile()
    if count:
        what = f"straight-through arithmetic such as (a - b).detach() + b is a, in {count} sums"
        sentences = (*sentences, f"{what}; exact_weights=True forbids it")
    program = torch.onnx.export(
        traced,
        dynamo=True,
        opset_version=opset.ONNX_OPSET,
        optimize=False,  # it would fold batch norms into convolutions
        verbose=False,
        input_names=["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))],
    )
    assert program is not None and program.exported_program is not None
    return Translation(program.exported_program, program.model, "; ".join(sentences))


def _drop_assertions(traced: ExportedProgram) -> None:
    """Removes what torch.export asserts about types, which nothing reads."""
    graph = traced.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
