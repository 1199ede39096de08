"""Networks as they are published, in small: torch, the exported file and the compiled library give the same numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.frontends.torch import (
    VGG,
    AffineQuantizer,
    Binarize,
    BinaryConv2d,
    EightBit,
    NetworkConfig,
    QuantizedConv2d,
    QuantizedLinear,
    RPReLU,
    ScaledSigns,
    TwoValues,
    bcdnet,
    group_mobilenet,
    quicknet,
    reactnet,
    resnet,
    resnet18,
    to_onnx,
    vgg_small,
)
from sbnn_tvm.frontends.torch.networks.bcdnet import Context, DynamicBlock, MLPBlock, TwoHeads, shift_quarters
from sbnn_tvm.frontends.torch.networks.config import NetworkOptions
from sbnn_tvm.frontends.torch.networks.quicknet import QuickBlock
from sbnn_tvm.frontends.torch.networks.reactnet import ReActBlock
from sbnn_tvm.frontends.torch.networks.resnet import ResidualBlock
from sbnn_tvm.frontends.torch.search.costs import layer_costs
from tests.support.grids import every
from tests.support.operation_counts import operations
from tests.support.small_models import run_reference

NETWORKS = {
    "reactnet": lambda: reactnet(5, image_size=13, in_channels=2, width=12, blocks=((2, 1), (4, 2), (4, 1))),
    "quicknet": lambda: quicknet(5, image_size=21, in_channels=2, stem_channels=3, widths=(20, 33), blocks=(2, 1)),
    "bcdnet A": lambda: bcdnet(
        5, image_size=13, width=12, blocks=(("conv", 2, 1), ("shift", 2, 1), ("point", 2, 1), ("conv", 4, 2))
    ),
    "bcdnet B, shifted by halves": lambda: bcdnet(
        5, image_size=16, width=40, blocks=(("conv", 1, 1), ("conv", 2, 2), ("shift", 2, 1)), far=None, dynamic=True
    ),
    "group_mobilenet": lambda: group_mobilenet(
        5, image_size=13, width=12, blocks=((2, 1), (4, 2), (4, 1)), groups=(1, 3, 4)
    ),
}


def random_network(name: str) -> nn.Module:
    """With statistics, thresholds and knees that are not the initial ones."""
    model = NETWORKS[name]()
    with torch.no_grad():
        model.train()(torch.randn(4, *model.example_input_array.shape[1:]))
        for module in model.modules():
            if isinstance(module, Binarize | nn.BatchNorm2d | nn.PReLU | RPReLU):
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) / 4)
    return model.eval()


@pytest.mark.parametrize("name", every(2, NETWORKS))
def test_torch_file_and_library_agree(name: str) -> None:
    model = random_network(name)
    x = torch.randn(model.example_input_array.shape)
    with torch.no_grad():
        eager = copy.deepcopy(model)(x).numpy()
    proto = to_onnx(model)
    (reference,) = run_reference(proto, {"input": x.numpy()}).values()
    np.testing.assert_allclose(reference, eager, rtol=1e-5, atol=1e-5)
    module = sbnn_tvm.compile(proto)
    assert not module.report.fallbacks()
    binary = [name for name, layer in model.named_modules() if isinstance(layer, BinaryConv2d)]
    assert binary == [layer.name for layer in module.report.linear if layer.binary]
    module.verify(x.numpy())


def test_the_activation_with_a_learned_knee() -> None:
    layer = RPReLU(2)
    with torch.no_grad():
        layer.before.copy_(torch.tensor([1.0, 0.0]))
        layer.after.copy_(torch.tensor([0.0, 2.0]))
    x = torch.tensor([[-2.0, -2.0], [3.0, 3.0]])
    expected = torch.tensor([[-0.25, 1.5], [4.0, 5.0]])
    torch.testing.assert_close(layer(x), expected)


def test_a_block_cannot_triple_its_channels() -> None:
    with pytest.raises(ValueError, match="keeps its channels or doubles them, but has 8 to 24"):
        reactnet(5, image_size=16, width=8, blocks=((3, 1),))
    with pytest.raises(ValueError, match="one number per section each"):
        quicknet(5, widths=(8, 16), blocks=(1,))


def test_shifts_are_circular() -> None:
    x = torch.zeros(1, 8, 4, 5)
    x[..., 0, 0] = 1
    places = [(1, 0)] * 2 + [(3, 0)] * 2 + [(0, 2)] * 2 + [(0, 3)] * 2
    assert [tuple(each.nonzero()[0].tolist()) for each in shift_quarters(x, 1, 2)[0]] == places
    with pytest.raises(ValueError, match="in quarters, but there are 6 of them"):
        shift_quarters(x[:, :6], 1, 1)


def test_wrong_blocks() -> None:
    with pytest.raises(ValueError, match="an MLP block keeps channels and size, but has 8 to 16 channels and stride 1"):
        bcdnet(5, image_size=16, width=8, blocks=(("shift", 2, 1),))
    with pytest.raises(ValueError, match="in quarters, but has 6 of them"):
        bcdnet(5, image_size=16, width=6, blocks=(("shift", 1, 1),))
    with pytest.raises(ValueError, match="image_size=12 cannot be halved 4 times"):
        quicknet(5, image_size=12, widths=(8, 8, 8), blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="'conv', 'shift' or 'point', but got 'pool'"):
        bcdnet(5, image_size=16, width=8, blocks=(("pool", 1, 1),))
    with pytest.raises(ValueError, match="one for each of 1 blocks, but got 2"):
        group_mobilenet(5, image_size=16, width=8, blocks=((1, 1),), groups=(1, 2))


def binary_convolutions(model: nn.Module) -> list[tuple[int, int, int, int]]:
    """Input channels, output channels, kernel size and height of the output of each, in the order of execution."""
    layers = dict(model.named_modules())
    found = []
    for cost in layer_costs(model):
        layer = layers[cost.name]
        if isinstance(layer, BinaryConv2d):
            pixels = cost.macs // layer.weight.numel()
            found.append((layer.in_channels, layer.out_channels, layer.kernel_size[0], math.isqrt(pixels)))
    return found


def mobilenet(channels: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The binary convolutions of blocks with these output channels, from 32 channels and 112x112 pixels on."""
    layers, inputs, size = [], 32, 112
    for outputs in channels:
        size //= 2 if outputs > max(inputs, 64) else 1
        layers += [(inputs, inputs, 3, size), *[(inputs, inputs, 1, size)] * (outputs // inputs)]
        inputs = outputs
    return layers


def float_operations(model: nn.Module) -> float:
    """Multiply-accumulates, 2 operations per output of a batch norm, 2 per output of an RPReLU and its shortcut."""
    total = operations(model).float_macs

    def count(module: nn.Module, args: object, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel()

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | RPReLU):
            module.register_forward_hook(count)
    model.eval()(model.example_input_array)
    return total


def test_reactnet_a_and_bcdnet_a_layer_by_layer() -> None:
    with torch.device("meta"):
        a, plain, b = bcdnet(), reactnet(), bcdnet(dynamic=True)
    shared = [64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert binary_convolutions(plain) == mobilenet([*shared, 512, 512, 1024, 1024])
    assert binary_convolutions(a) == [*mobilenet([*shared, 1024]), *[(1024, 1024, 1, 7)] * 30] == binary_convolutions(b)
    mlp = [block for block in a.blocks if isinstance(block, MLPBlock)]
    assert [block.distances for block in mlp] == [(0, 1, 3), (0, 1, 3), (0, 1, 3), (0,)] * 3
    assert sum(parameter.numel() for parameter in a.parameters()) == 46_146_384  # counted in the authors' code
    for model in (a, plain, b):
        assert operations(model).binary_macs == pytest.approx(4.82e9, rel=1e-3)
    published = {plain: (0.12e8, 0.31e8), a: (0.12e8, 0.32e8), b: (0.14e8, 0.34e8)}
    for model, (layers, everything) in published.items():
        assert operations(model).float_macs == pytest.approx(layers, abs=0.005e8)
        assert float_operations(model) == pytest.approx(everything, abs=0.005e8)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [({}, 13_234_088), ({"blocks": (6, 8, 12, 6)}, 23_342_248), ({"widths": (32, 64, 256, 512)}, 12_655_688)],
    ids=["medium", "large", "small"],
)
def test_published_sizes_of_quicknet(arguments: dict, parameters: int) -> None:
    with torch.device("meta"):
        model = quicknet(**arguments)
    # larq_zoo counts the statistics of a batch norm that has no other parameters.
    fixed = sum(each.num_features for each in model.modules() if isinstance(each, nn.BatchNorm2d) and not each.affine)
    assert sum(parameter.numel() for parameter in model.parameters()) + 2 * fixed == parameters
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_two_heads_of_bcdnet() -> None:
    model = bcdnet(5, image_size=16, width=4, blocks=(("point", 1, 1),), separate_heads=True)
    x = torch.randn(3, 3, 16, 16)
    head = model.head[2]
    features = model.head[:2](model.blocks(model.stem(x)))
    labels, teacher = model(x)
    torch.testing.assert_close(labels, functional.linear(features, head.weight, head.bias))
    torch.testing.assert_close(teacher, head.teacher(features))
    model.eval()
    first, second = model(x), model.head[:2](model.blocks(model.stem(x)))
    mean = (functional.linear(second, head.weight, head.bias) + head.teacher(second)) / 2
    torch.testing.assert_close(first, mean)
    together = bcdnet(5, image_size=16, width=4, blocks=(("point", 1, 1),))
    functional.cross_entropy(together(x), torch.tensor([0, 1, 2])).backward()
    torch.testing.assert_close(together.head[2].weight.grad, together.head[2].teacher.weight.grad)
    linear = [node for node in to_onnx(model).graph.node if node.op_type in ("Gemm", "MatMul")]
    assert len(linear) == 1  # the mean of the weights is one constant


def test_thresholds_of_bcdnet_b_depend_on_the_image() -> None:
    context = Context(8, 1)
    x = torch.randn(2, 8, 4, 4)
    threshold, (term,) = context(x)
    z = x.mean((2, 3)) @ context.reduce.weight[:, :, 0, 0].T
    torch.testing.assert_close(threshold[:, :, 0, 0], z @ context.threshold.weight[:, :, 0, 0].T)
    torch.testing.assert_close(term[:, :, 0, 0], z @ context.terms[0].weight[:, :, 0, 0].T)
    torch.manual_seed(0)
    dynamic = bcdnet(5, image_size=8, width=8, blocks=(("conv", 2, 2),), dynamic=True).eval()
    plain = bcdnet(5, image_size=8, width=8, blocks=(("conv", 2, 2),)).eval()
    weights = dynamic.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    images = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(dynamic(images), plain(images))
    for module in dynamic.modules():
        if isinstance(module, Context):
            torch.nn.init.zeros_(module.reduce.weight)
    torch.testing.assert_close(dynamic(images), plain(images))


def test_the_gradient_of_each_networks_paper() -> None:
    with torch.device("meta"):
        models = [bcdnet(), reactnet(), group_mobilenet(), resnet(), resnet18()]
    for model in models:
        domains = {layer.domain for layer in model.modules() if isinstance(layer, BinaryConv2d)}
        assert domains == {ScaledSigns(gradient="unscaled")}
    assert resnet(widths=(4,), blocks=(1,), domain=TwoValues()).layers[0][0].conv.domain == TwoValues()


SMALL: dict[str, Callable[..., nn.Module]] = {
    "resnet": lambda **options: resnet(5, image_size=8, widths=(4, 8), blocks=(1, 1), **options),
    "reactnet": lambda **options: reactnet(5, image_size=8, width=4, blocks=((2, 1), (4, 2)), **options),
    "quicknet": lambda **options: quicknet(5, image_size=16, widths=(8, 8), blocks=(1, 1), **options),
    "bcdnet": lambda **options: bcdnet(
        5, image_size=8, width=4, blocks=(("conv", 2, 1), ("point", 2, 1)), dynamic=True, **options
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_of_eight_bits_with_streams_of_codes(name: str) -> None:
    make = SMALL[name]
    plain = make()
    assert not any(isinstance(each, AffineQuantizer | QuantizedConv2d) for each in plain.modules())
    for bits, dtype in ((8, torch.int8), (16, torch.int16)):
        torch.manual_seed(0)
        model = make(eight_bit=EightBit("observed"), stream_bits=bits)
        streams = [each for each in model.modules() if isinstance(each, AffineQuantizer) and each.dtype == dtype]
        values: list[torch.Tensor] = []
        for stream in streams:
            stream.register_forward_hook(lambda _, __, y, values=values: values.append(y))
        model(torch.randn(4, *model.example_input_array.shape[1:])).square().sum().backward()
        additions = {QuickBlock: 1, ResidualBlock: 1, ReActBlock: 2, DynamicBlock: 2, MLPBlock: 1}
        others = {"quicknet": 2}  # the stem's end, and that of a transition
        assert (
            len(values)
            == len(streams)
            == others.get(name, 1) + sum(additions.get(type(each), 0) for each in model.modules())
        )
        assert all(len(y.unique()) <= 2**bits for y in values)
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        layers = {each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)}
        means = {each for module in model.modules() if isinstance(module, Context) for each in module.modules()}
        heads = {each for module in model.modules() if isinstance(module, TwoHeads) for each in module.modules()}
        assert all(isinstance(each, QuantizedConv2d | QuantizedLinear) for each in layers - means - heads)
    with pytest.raises(ValueError, match="stream_bits is 8, 16 or None, but got 4"):
        make(stream_bits=4)


def test_streams_are_codes_in_a_file() -> None:
    model = SMALL["resnet"](eight_bit=EightBit(), stream_bits=16)
    model(torch.randn(4, *model.example_input_array.shape[1:]))
    proto = to_onnx(model)
    names = {node.name: node.op_type for node in proto.graph.node}
    assert (
        names["layers.0.0.stream"] == "QuantizeLinear" and names["stem.0"] == "Conv" == names["layers.1.0.shortcut.1"]
    )
    with pytest.raises(ValueError, match="stream_bits=8 is for networks with shortcuts, and VGG has none"):
        vgg_small(stream_bits=8)


def test_factories_take_the_attributes_of_the_configuration() -> None:
    assert {*NetworkOptions.__annotations__} == {field.name for field in fields(NetworkConfig)} - {"classes"}
    config = NetworkConfig(classes=7, in_channels=1, image_size=16, domain=TwoValues(), learn_threshold=True)
    torch.manual_seed(0)
    expected = VGG(config, stages=((8,), (8,))).state_dict()
    torch.manual_seed(0)
    same = vgg_small(7, stages=((8,), (8,)), in_channels=1, image_size=16, domain=TwoValues(), learn_threshold=True)
    torch.testing.assert_close(same.state_dict(), expected, rtol=0, atol=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'doman'"):
        vgg_small(doman=TwoValues())
