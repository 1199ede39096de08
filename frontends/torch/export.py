"""Export of a torch model to ONNX: binary layers become ai.sbnn operators with packed weights.

torch.onnx (dynamo) traces the model once, in eval mode. Nodes are named after their modules (``features.3``), so that
reports use the user's names. Batch norms are not folded: the compiler does that, and it has to keep their rounding.
"""

from __future__ import annotations

import ast
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript import optimizer
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from sbnn_tvm.atomic_file import check_destination, replacing
from sbnn_tvm.errors import ModelError

from ..onnx import opset
from ..onnx.encode_weights import encode_weights
from .compare_export import Probe, compare_with_module, module_calls
from .layers.affine_quantizers import AffineQuantizer
from .layers.estimators import Estimator
from .layers.modules import BinaryLayer, Freezes
from .layers.quantized import QuantizedConv2d, QuantizedLinear
from .layers.quantizers import Quantizer
from .layers.two_bits import TwoBitValues
from .module_state import unchanged
from .older_code import older_code_runs
from .torch_quantization import ranges_as_they_are, refuse_integer_tensors
from .trace import device_of, translate
from .unwrap import as_it_is, unwrapped
from .user_code import reason_of

Shape = Sequence[int]

_WHOLE = (BinaryLayer, QuantizedConv2d, QuantizedLinear)
"""Layers whose first node has the layer's name, though parts of them are modules, too."""


def export_onnx(
    model: nn.Module | ExportedProgram,
    path: str | os.PathLike[str],
    input_shape: Shape | None = None,
    *,
    compare_export: bool = True,
    exact_weights: bool = False,
) -> None:
    """Writes a torch model as an ONNX file that stock onnxruntime runs.

    Args:
        model: Any module; its BinaryConv2d, BinaryLinear and Binarize become ai.sbnn operators. Left unchanged. The
            module inside wrappers is taken (unwrap.py). Or what torch.export made of a module in eval mode, where
            layers are the operations that they consist of.
        path: Written in one step: an existing file stays whole if the export fails.
        input_shape: Shape of the single float32 input, with the batch. None uses ``model.example_input_array``, a
            tensor or a tuple of tensors, or what an ExportedProgram was made with.
        compare_export: Run the model and the file once on the same input, and refuse a file that computes something
            else (compare_export.py). onnxruntime runs it if it is installed, else onnx's reference implementation,
            which takes some seconds for a ResNet-18.
        exact_weights: Keep straight-through arithmetic as it is. Otherwise ``(a - b).detach() + b`` is exported as
            ``a``, which may differ by some units in the last place.

    Raises:
        ModelError: If the model cannot be exported, has no known input shape, or the path cannot be written; if the
            file computes something else than the model.

    Examples:
        >>> export_onnx(model, "model.onnx", (1, 3, 32, 32))  # doctest: +SKIP
    """
    check_destination(path, ModelError)
    proto = to_onnx(model, input_shape, compare_export=compare_export, exact_weights=exact_weights)
    with replacing(path, ModelError) as draft:
        draft.write_bytes(proto.SerializeToString())


def to_onnx(
    model: nn.Module | ExportedProgram,
    input_shape: Shape | None = None,
    *,
    compare_export: bool = True,
    exact_weights: bool = False,
) -> onnx.ModelProto:
    """The ONNX model that export_onnx writes.

    Args:
        model, input_shape, compare_export, exact_weights: Same as in export_onnx.

    Returns:
        A checked model with static shapes, opset 21, and the bodies of the ai.sbnn operators it uses.

    Raises:
        ModelError: Same as in export_onnx, except for the path.
    """
    if isinstance(model, ExportedProgram):
        if input_shape is None:
            input_shape = _shape_of(model)
        model = model.module()
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module to export, but got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        model = nn.Sequential(model)  # TorchScript is no place for hooks and attributes
    model = unwrapped(model)
    refuse_integer_tensors(model)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ModelError(f"{name!r} of the model is {_dtype(tensor)}, not float32; call model.float() first")
    inputs = example_inputs(model, input_shape)
    with as_it_is(model), ranges_as_they_are(model), eval_mode(model), torch.no_grad():
        probe = _probe(model, inputs)
        with _packed_weights(model), _quiet():
            translation = translate(model, probe.inputs, exact_weights)
            _refuse_bfloat16(translation.program)
            graph = translation.model
            optimizer.fold_constants(graph, onnx_shape_inference=True)
            _drop_zero_biases(graph)
            RemoveUnusedNodesPass()(graph)
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
            traced_values = _values(graph)
            _name_after_modules(graph, model)
            _drop_metadata(graph)
        proto = encode_weights(opset.add_functions(ir.to_proto(graph)))
        proto.producer_name = "sbnn_tvm"
        onnx.checker.check_model(proto)
        if compare_export:
            names = {name: str(value.name) for name, value in traced_values.items()}
            with unchanged(model), older_code_runs(device_of(model)):
                model(*(tensor.clone() for tensor in probe.inputs))  # so that the comparison is of later calls
                compare_with_module(model, probe, proto, module_calls(translation.program, names))
    sentences = [translation.source, *(getattr(module, "stays_float", "") for module in model.modules())]
    if source := "; ".join(filter(None, sentences)):
        onnx.helper.set_model_props(proto, {opset.SOURCE: source})
    return proto


def _probe(model: nn.Module, examples: tuple[Tensor, ...]) -> Probe:
    try:
        with unchanged(model), older_code_runs(device_of(model)):
            return Probe.run(model, examples)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in examples)
        raise ModelError(f"the model does not run on an input of shape {shapes}: {reason_of(error, model)}") from error


def _values(graph: ir.Model) -> dict[str, ir.Value]:
    """The inputs and computed values of a graph, by their present names."""
    values = [*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs)]
    return {str(value.name): value for value in values}


def example_inputs(model: nn.Module, input_shape: Shape | None) -> tuple[Tensor, ...]:
    """Inputs to run a model on: zeros of ``input_shape``, or its ``example_input_array``.

    Raises:
        ModelError: If the shape is unknown or invalid.
    """
    parameter = next(model.parameters(), torch.empty(0))
    if input_shape is not None:
        shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
        if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ModelError(
                f"input_shape must be positive integers with the batch, such as (1, 3, 32, 32), but got {input_shape!r}"
            )
        return (torch.zeros(shape, device=parameter.device),)
    example = getattr(model, "example_input_array", None)
    if example is None:
        raise ModelError(
            "the model's input shape is unknown: pass input_shape=(1, 3, 32, 32), for example, "
            "or set model.example_input_array"
        )
    example = example if isinstance(example, tuple | list) else (example,)
    if not all(isinstance(tensor, Tensor) for tensor in example):
        raise ModelError("model.example_input_array must be a tensor or a tuple of tensors")
    return tuple(tensor.detach().to(parameter.device) for tensor in example)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """While this context is open, the model is in eval mode; afterwards each module is in its previous mode.

    Raises:
        ModelError: If the model is a graph that torch.export made, which has no modes, of a model in training mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
    except NotImplementedError:  # says torch.export of its graphs
        assert isinstance(model, torch.fx.GraphModule)
        if any(_trains(node) for node in model.graph.nodes):
            raise ModelError(
                "torch.export made this graph of a model in training mode, whose batch norms and dropouts stay so; "
                "call model.eval() before torch.export.export"
            ) from None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _trains(node: torch.fx.Node) -> bool:
    """Whether a node is a batch norm or a dropout in training mode."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return given.get("training") is True or given.get("train") is True


def _shape_of(program: ExportedProgram) -> Shape | None:
    """The shape of the only input that a program was exported with; None if it has others."""
    leaves = tree_leaves(program.example_inputs)
    return tuple(leaves[0].shape) if len(leaves) == 1 and isinstance(leaves[0], Tensor) else None


def _refuse_bfloat16(program: ExportedProgram) -> None:
    """Refuses autocast in a forward, whose operators stock onnxruntime cannot run."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and value.dtype == torch.bfloat16:
            scopes = list((node.meta.get("nn_module_stack") or {}).values())
            place = f" in {scopes[-1][0]!r}" if scopes and scopes[-1][0] else ""
            raise ModelError(
                f"the model computes in bfloat16{place}, but an exported model computes in float32; enter autocast "
                "around the model in the training loop, or with enabled=self.training in its forward"
            )


@contextmanager
def _packed_weights(model: nn.Module) -> Iterator[None]:
    """Attaches the constants of the ai.sbnn operators to the modules, as buffers, while a trace runs."""
    attached: list[tuple[nn.Module, str]] = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, Freezes):
                try:
                    module.freeze()
                except ValueError as error:
                    raise ModelError(f"layer {name!r} cannot be exported: {error}") from error
        for name, module in model.named_modules():
            constants: dict[str, Tensor] = {}
            if isinstance(module, BinaryLayer):
                constants = packed_constants(module, name)
            elif isinstance(module, Quantizer):
                constants = {"thresholds": _thresholds(name, module)}
            elif isinstance(module, AffineQuantizer):
                _check_scale(f"quantiser {name!r}", module.affine()[0])
            elif isinstance(module, QuantizedConv2d | QuantizedLinear):
                _check_scale(f"layer {name!r}", module.weight_quantizer.scale(module.weight))
            for key, value in constants.items():
                module.register_buffer(f"packed_{key}", value, persistent=False)
                attached.append((module, f"packed_{key}"))
        yield
    finally:
        for module, key in attached:
            module._buffers.pop(key, None)
            module._non_persistent_buffers_set.discard(key)


def packed_constants(layer: BinaryLayer, name: str = "") -> dict[str, Tensor]:
    """The constants of a binary layer in a file.

    Args:
        layer: In eval mode.
        name: Used in error messages.

    Returns:
        weight, uint8 [OC, ceil(K / 8)]; scale and offset, float32 [OC]. For two-bit weights also low_weight, and the
            scales
        of both parts, twos and ones. For weights that are not all binary also residual, float32 of the weights' shape.

    Raises:
        ModelError: If a value is not finite.
    """
    scale, offset = layer.affine()
    offset = torch.zeros_like(scale) if offset is None else offset
    rest = layer.residual()
    if not all(torch.isfinite(each).all() for each in (scale, offset, *([] if rest is None else [rest]))):
        raise ModelError(f"layer {name!r} has weight values that are not finite; the training has diverged")
    constants = {"scale": scale.abs().clone(), "offset": offset.clone()}
    if isinstance(layer.values, TwoBitValues):
        high, low = layer.values.planes(layer.weight)
        ones = torch.ones_like(scale)
        return {**constants, "weight": _packed(high), "low_weight": _packed(low), "twos": ones * 2, "ones": ones}
    if rest is not None and rest.any():
        constants["residual"] = rest.detach().clone()
    # A learned scale may be negative. The weights are the same with the opposite scale and all signs flipped.
    flipped = (scale < 0).reshape(-1, *[1] * (layer.weight.ndim - 1))
    return {**constants, "weight": _packed((layer.signs() > 0) ^ flipped)}


def _packed(bits: Tensor) -> Tensor:
    return torch.from_numpy(opset.pack_bits(bits.cpu().numpy())).to(bits.device)


def _thresholds(name: str, quantizer: Quantizer) -> Tensor:
    thresholds, scale = quantizer.thresholds(), quantizer.scale()
    if not (torch.isfinite(thresholds).all() and (thresholds.diff() > 0).all() and 0 < scale < torch.inf):
        raise ModelError(
            f"quantiser {name!r} has thresholds {thresholds.tolist()} and scale {scale:g}; expected ascending ones and "
            "a positive scale: the training has diverged"
        )
    return thresholds.clone()


def _check_scale(place: str, scale: Tensor) -> None:
    if not torch.isfinite(scale).all():
        raise ModelError(f"{place} has a scale that is not finite; the training has diverged")


def _drop_zero_biases(graph: ir.Model) -> None:
    """Removes the biases of zeros that the exporter gives to convolutions without a bias."""
    for node in graph.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is not None and bias.const_value is not None and not bias.const_value.numpy().any():
            node.resize_inputs(2)


def _name_after_modules(graph: ir.Model, model: nn.Module) -> None:
    """Names nodes, their outputs and their constants after the modules that they come from.

    The first node of a module without children, or of a binary or 8-bit layer, gets the module's name. Others get
    ``module/Operator``, with a number if there are several.
    """
    modules = dict(model.named_modules())
    outputs = {id(value) for value in graph.graph.outputs}
    state = set(model.state_dict())
    taken = {str(value.name) for value in graph.graph.inputs} | set(graph.graph.initializers)
    used: set[str] = set()
    for node in graph.graph:
        scopes = _scopes(node)
        path = scopes[-2] if len(scopes) > 1 else ""
        module = modules.get(path)
        whole = path and module is not None and (isinstance(module, _WHOLE) or _is_leaf(module))
        long_name = f"{path}/{node.op_type}" if path else node.op_type
        node.name = _unused(path if whole and path not in used else long_name, used)
        for value in node.outputs:
            if id(value) not in outputs:
                value.name = _unused(node.name, taken)
    for index, result in enumerate(graph.graph.outputs):
        if result.producer() is not None:
            result.name = _unused("output" if len(graph.graph.outputs) == 1 else f"output_{index}", taken)
    for node in graph.graph:
        for source, role in zip(node.inputs, _input_names(node), strict=False):
            if source is not None and source.name in graph.graph.initializers and source.name not in state:
                source.name = _unused(f"{node.name}.{role}", taken)
                state.add(source.name)  # the first node that reads it gives the name


def _is_leaf(module: nn.Module) -> bool:
    """Whether nothing but the module itself computes in its forward pass."""
    return all(isinstance(child, Estimator) for child in module.children())


def _input_names(node: ir.Node) -> list[str]:
    if node.domain == opset.DOMAIN:
        return list(opset.function(node.op_type).input)
    return [entry.name for entry in onnx.defs.get_schema(node.op_type, opset.ONNX_OPSET, node.domain).inputs]


def _scopes(node: ir.Node) -> list[str]:
    return ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number from 2 if it is taken; adds the result to ``taken``."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _drop_metadata(graph: ir.Model) -> None:
    """Removes the stack traces and file names of this machine that the exporter stores everywhere."""
    for holder in (graph, graph.graph, *graph.graph, *graph.graph.inputs, *graph.graph.initializers.values()):
        holder.metadata_props.clear()
        holder.meta.clear()
    for node in graph.graph:
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the messages of torch.onnx; its errors are exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
