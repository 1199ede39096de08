"""What people do with models while they train them works with binary layers too."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator

import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.opset import SOURCE
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLinear,
    DoReFa,
    ScaledBits,
    Signs,
    TwoValues,
    binarize_,
    clamp_latent_,
    to_onnx,
)
from sbnn_tvm.frontends.torch.unwrap import as_it_is, unwrapped

SHAPE = (1, 1, 6, 6)


def network() -> nn.Sequential:
    conv = BinaryConv2d(8, 8, 3, padding=1, groups=2, domain=TwoValues(), binarize=Binarize(8, learned=True))
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), conv, nn.BatchNorm2d(8), nn.Flatten(), Binarize(),
        BinaryLinear(8 * 36, 10),
    )  # fmt: skip


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, *SHAPE[1:])


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def operators(model: nn.Module) -> list[str]:
    return [node.op_type for node in to_onnx(model, SHAPE).graph.node]


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow  # 10 s
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("autocast", [False, True])
def test_torch_compile_makes_one_graph_of_forward_and_backward(autocast: bool) -> None:
    # Under autocast a layer alone: float layers may round otherwise, and a rounded value may become another bit.
    model, x = (network()[2], torch.randn(4, 8, 6, 6).bfloat16()) if autocast else (network(), images())
    results = []
    for run in (model, torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(x)
        y.square().sum().backward()
        results.append([y, *gradients(run)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_exact_under_autocast(dtype: torch.dtype) -> None:
    conv, linear = BinaryConv2d(512, 8, 3, padding=1, domain=Signs()), BinaryLinear(4608, 8, domain=Signs())
    x, row = torch.ones(1, 512, 3, 3), torch.ones(1, 4608)
    with torch.no_grad():
        conv.weight.abs_()[:, 0] *= -1
        linear.weight.abs_()[:, :3] *= -1
    with torch.autocast("cpu", dtype):
        assert (conv(x)[0, :, 1, 1] == 4608 - 18).all() and (linear(row) == 4608 - 6).all()  # odd multiples of 2
        assert conv(x.to(dtype)).dtype == torch.float32
        assert nn.Linear(4608, 8)(row).dtype == dtype  # what others do


def test_thresholds_are_not_rounded_under_autocast() -> None:
    binarize = Binarize(threshold=1.001)  # bfloat16 has 1 and 1.0078
    with torch.autocast("cpu", torch.bfloat16):
        assert binarize(torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)).tolist() == [-1, 1]


def test_a_model_trained_under_autocast_is_exported_as_its_float32_self() -> None:
    model, x = network(), images()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    expected = to_onnx(model, SHAPE)  # compared with the model, in float32
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="autocast is on around the export"):
        assert to_onnx(model, SHAPE) == expected


def test_autocast_inside_a_forward_is_refused() -> None:
    class Narrow(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    with pytest.raises(ModelError, match=r"computes in bfloat16.*enabled=self\.training"):
        to_onnx(Narrow(nn.Linear(4, 4)), (1, 4))


def test_weights_in_bfloat16_warn_once_and_name_the_layer() -> None:
    layer = BinaryConv2d(300, 8, 1, domain=Signs()).bfloat16()
    with pytest.warns(UserWarning, match=r"BinaryConv2d\(300, 8, .* trains in bfloat16: its sums are exact"):
        y = layer(torch.ones(1, 300, 1, 1, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()(torch.ones(1, 300, 1, 1, dtype=torch.bfloat16))


def test_wrappers_are_taken_off() -> None:
    model = network().eval()
    for wrapper in (
        AveragedModel(model),
        torch.compile(model, backend="eager"),
        nn.DataParallel(AveragedModel(model)),
    ):
        assert isinstance(unwrapped(wrapper), nn.Sequential)
    nested = nn.Sequential(torch.compile(model, backend="eager"))
    with as_it_is(nested):
        assert nested[0] is model
    assert nested[0] is not model


def test_an_average_of_models_is_exported() -> None:
    model = network()
    average = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    with torch.no_grad():
        model[2].weight.neg_()
    average.update_parameters(model)
    average.update_parameters(model)
    names = [node.name for node in to_onnx(average, SHAPE, compare_export=False).graph.node]
    assert "2" in names and not any(name.startswith("module") for name in names)


def test_copies_and_files_of_whole_models() -> None:
    model, x = network().eval(), images()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert other.load_state_dict(model.state_dict(), strict=True).missing_keys == []


def test_transformations_of_torch_func() -> None:
    layer, x = network()[2], torch.randn(3, 8, 4, 4)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    layer(x).square().sum().backward()
    whole = torch.func.grad(loss)(parameters, x)
    each = torch.func.vmap(torch.func.grad(lambda p, x: loss(p, x[None])), (None, 0))(parameters, x)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(whole[name], parameter.grad)
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


def test_second_derivatives_of_a_layer_are_those_of_its_estimators() -> None:
    layer = BinaryConv2d(2, 2, 2, domain=TwoValues("channel"))
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    weight = layer.signs().detach() * layer.values.tau.reshape(-1, 1, 1, 1) + layer.values.phi.reshape(-1, 1, 1, 1)
    (expected,) = torch.autograd.grad(nn.functional.conv2d(x, weight).pow(3).sum(), x, create_graph=True)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x), torch.autograd.grad(expected.sum(), x))


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_layers_are_converted(normalise) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), normalise(nn.Conv2d(8, 8, 3)), nn.Flatten(), nn.Linear(32, 10))
    own = set(model[1].parameters())
    binarize_(model)
    layer = model[1]
    assert isinstance(layer, BinaryConv2d) and set(layer.parameters()) == own
    model(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in own)
    clamp_latent_(model, 0.01)
    assert layer.weight.abs().max() < 0.0101 or normalise is parametrizations.spectral_norm
    assert "BinaryConv2d" in operators(model)


def test_a_layer_that_cannot_be_converted_says_so_in_a_warning_and_in_the_file() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normal = nn.utils.weight_norm(nn.Conv2d(8, 8, 3))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), normal, nn.Flatten(), nn.Linear(32, 10))
    with pytest.warns(UserWarning, match=r"'1' stays float: it has torch\.nn\.utils\.weight_norm"):
        binarize_(model)
    properties = {entry.key: entry.value for entry in to_onnx(model, SHAPE).metadata_props}
    assert "'1' stays float: it has torch.nn.utils.weight_norm" in properties[SOURCE]


def test_pruned_layers_train_and_export() -> None:
    layer = BinaryConv2d(8, 8, 3, domain=ScaledBits(), binarize=DoReFa(2))
    prune.l1_unstructured(layer, "weight", amount=0.5)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), layer)
    model(images()).sum().backward()
    assert not layer.weight_orig.grad[layer.weight_mask == 0].any()
    assert isinstance(to_onnx(model, SHAPE), onnx.ModelProto)
