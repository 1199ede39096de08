"""Layers of 8 bits: values, what is exported, and what people do with layers while they train them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from sbnn_tvm.frontends.torch import (
    LSQ,
    BinaryConfig,
    BinaryConv2d,
    EightBit,
    QuantizedConv2d,
    QuantizedLinear,
    binarize_,
    to_onnx,
)
from sbnn_tvm.frontends.torch.compare_export import run_file

CONFIGS = {"learned": EightBit("learned", "learned"), "observed": EightBit("observed", "observed")}


def network(config: EightBit) -> nn.Sequential:
    """A network whose quantisers have ranges."""
    model = nn.Sequential(
        config.conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        config.conv2d(8, 8, 3, 2, (1, 0), groups=8, padding_mode="reflect"), nn.BatchNorm2d(8), nn.PReLU(),
        config.conv2d(8, 4, 1), nn.Flatten(), config.linear(48, 5),
    )  # fmt: skip
    model(torch.randn(8, 3, 8, 8)).square().sum().backward()
    return model


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("learned", [False, True])
def test_layers_multiply_integers_by_their_scales(learned: bool) -> None:
    layer = QuantizedConv2d(4, 6, 3, 2, 1, 1, 2, quantize=LSQ(), learned=learned)
    x = torch.randn(2, 4, 7, 7)
    y = layer(x)
    scale, zero_point = layer.quantize.affine()
    q = (x / scale).round()
    assert (q.min() + zero_point, q.max() + zero_point) == (0, 255)
    integers = functional.conv2d(q.double(), layer.weight_quantizer.codes(layer.weight).double(), None, 2, 1, 1, 2)
    scales = scale * layer.weight_quantizer.scale(layer.weight)
    torch.testing.assert_close(y, (integers * scales.reshape(-1, 1, 1) + layer.bias.reshape(-1, 1, 1)).float())
    linear = QuantizedLinear(7, 3, bias=False)
    assert torch.equal(linear(x[0, 0]), x[0, 0] @ linear.weight_quantizer(linear.weight).T)


def test_a_file_has_a_byte_per_weight_and_names_of_layers() -> None:
    model = network(EightBit("observed", "learned")).eval()
    x = torch.randn(2, 3, 8, 8)
    proto = to_onnx(model, x.shape)  # compared with the model
    codes = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims]
    layers = [model[0], model[3], model[6], model[8]]
    assert [tensor.name for tensor in codes if "zero" not in tensor.name] == [
        f"{name}.weight_quantizer.x" for name in (0, 3, 6, 8)
    ]
    for tensor, layer in zip((each for each in codes if "zero" not in each.name), layers, strict=True):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(tensor), layer.weight_quantizer.codes(layer.weight).numpy()
        )
    kinds = {node.name: node.op_type for node in proto.graph.node}
    assert kinds["0"] == kinds["6"] == "Conv" and kinds["8"] == "Gemm" and kinds["0.quantize"] == "QuantizeLinear"
    output = run_file(proto, {"input": x.numpy()})["output"]
    np.testing.assert_allclose(output, model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_values_stay_exact_under_autocast(config: EightBit) -> None:
    model = network(config)
    layer, stream = model[0].eval(), config.quantizer(torch.int16, 0)
    x = torch.randn(2, 3, 8, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected) and expected.dtype == torch.float32
        assert layer(x.bfloat16()).dtype == stream(x.bfloat16()).dtype == torch.float32
    with pytest.warns(UserWarning, match=r"QuantizedConv2d\(3, 8.* trains in bfloat16: its scales, and what lies"):
        assert copy.deepcopy(layer).train().bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow  # 10 s
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_torch_compile_makes_one_graph_once_there_are_ranges(config: EightBit) -> None:
    model, x = network(config), torch.randn(4, 3, 8, 8)
    compiled = copy.deepcopy(model)
    results = []
    for each, run in ((model, model), (compiled, torch.compile(compiled, backend="aot_eager", fullgraph=True))):
        each.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results.append([y, *(parameter.grad for parameter in each.parameters()), *each.buffers()])
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(eager, other, rtol=1e-5, atol=1e-5)


def test_gradients_per_sample_add_up() -> None:
    layer = QuantizedConv2d(2, 3, 3, learned=True)
    x, parameters = torch.randn(3, 2, 5, 5), dict(layer.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    layer(x).square().sum().backward()
    each = torch.func.vmap(torch.func.grad(lambda p, x: loss(p, x[None])), (None, 0))(parameters, x)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


def test_converted_layers_keep_masks_and_parametrisations() -> None:
    pruned = prune.l1_unstructured(nn.Conv2d(4, 4, 1), "weight", amount=0.5)
    normal = parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"))
    own = set(normal.parameters())
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), pruned, normal, nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2)
    )
    result = binarize_(model, BinaryConfig(eight_bit=EightBit()))
    assert [note.name for note in result.eight_bit] == ["0", "1", "2", "5"] and not result.kept
    assert isinstance(model[3], BinaryConv2d) and isinstance(model[5], QuantizedLinear)
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    assert own <= set(model[2].parameters()) and all(parameter.grad is not None for parameter in own)
    codes = model[1].weight_quantizer.codes(model[1].weight)
    assert (codes[model[1].weight_mask == 0] == 0).all() and (codes == 0).float().mean() < 0.6
