"""Modules that need values while they run: what does not depend on the input is a constant of their traces."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.autograd import Function, Variable
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.opset import SOURCE
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, Signs, to_onnx
from sbnn_tvm.frontends.torch.frozen_trace import check_frozen, frozen_trace
from sbnn_tvm.frontends.torch.module_state import unchanged
from sbnn_tvm.frontends.torch.older_code import older_code_runs


class Layer(nn.Module):
    """A layer with a weight [4, 4] and what a function makes of it and an input [2, 4]."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("flag", torch.tensor(1))
        self.calls, self.memory, self.history = 0, torch.zeros(4), [1]
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class SignOfWeight(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, inplace: bool = False) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(x)
        ctx.mark_non_differentiable(x)
        return x.sign() * scale


class OldSign(Function):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.save_for_backward(x)
        return x.sign(), x.abs().mean(1, keepdim=True)


def weight_in_data(layer: Any, x: Tensor) -> Tensor:
    if not hasattr(layer.weight, "org"):
        layer.weight.org = layer.weight.data.clone()
    layer.weight.data = layer.weight.org.sign()
    x.data = x.data.sign()
    return functional.linear(x, layer.weight)


def numpy_on_weights(layer: Any, x: Tensor) -> Tensor:
    bound = np.percentile(layer.weight.detach().cpu().numpy(), 80)
    largest = torch.from_numpy(np.argsort(layer.weight.abs().detach().numpy(), axis=1)[:, -2:].copy())
    mask = torch.zeros_like(layer.weight).scatter_(1, largest, 1.0)
    return functional.linear(x, layer.weight.clamp(max=float(bound)) * mask)


def masked_assignment(layer: Any, x: Tensor) -> Tensor:
    y = torch.sign(x)
    y[y == 0] = 1
    w = layer.weight.clone()
    w[w.abs() < 0.5] = 0
    return y @ w


def branch_on_buffer(layer: Any, x: Tensor) -> Tensor:
    if layer.flag == 1 and layer.weight.abs().max() > 1:
        x = x * 2
    return x if layer.flag.item() else -x


def functions(layer: Any, x: Tensor) -> Tensor:
    return SignOfWeight.apply(x, 0.5) @ SignOfWeight.apply(layer.weight, layer.weight.abs().mean().item(), True)


def old_function(layer: Any, x: Tensor) -> Tensor:
    signs, mean = OldSign()(Variable(x))
    return signs @ layer.weight * mean


def in_place(layer: Any, x: Tensor) -> Tensor:
    x.clamp_(-1, 1).mul_(2)
    y = x.view(-1)[2:6]
    y.add_(1.0)
    out = torch.zeros(2, 4)
    part = out[:, 1:3]
    rest = out.t()[3]
    out[:, :2] = x[:, 2:]
    part += 1
    layer.memory[0] = 3
    return out * rest[:, None] + x.sign_() + layer.memory


def gpu(layer: Any, x: Tensor) -> Tensor:
    mask = (x > 0).type(torch.cuda.FloatTensor)
    return (x.cuda() @ layer.weight.to("cuda") + torch.ones(4, device="cuda:0")) * mask.to(device=torch.device("cuda"))


def counters(layer: Any, x: Tensor) -> dict[str, Any]:
    layer.calls += 1
    layer.history.append(layer.calls)
    layer.memory = layer.memory * 2
    layer.late = x
    layer.flag.fill_(0)
    return {"a": [x + 1, layer.calls], "b": (functional.dropout(x, 0.5, layer.training),)}


def decided_by_range(layer: Any, x: Tensor) -> Tensor:
    y = functional.hardtanh(x)
    if y.data.max() > 1 or bool((y.abs() < 0).any()):
        raise AssertionError
    return y


def large_constants(layer: Any, x: Tensor) -> Tensor:
    one, many = torch.ones(8192), torch.arange(8192.0)
    one[:2] = 0
    return x[0, 0] * one + many - torch.full((8192,), 3.0)


def with_parametrisations(layer: Any, x: Tensor) -> Tensor:
    linear = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False))
    linear.load_state_dict({key: torch.ones_like(value) for key, value in linear.state_dict().items()})
    linear.register_forward_hook(lambda _, __, result: result * 2)
    return linear(x)


def parametrised(layer: Any, x: Tensor) -> Tensor:
    w = torch._weight_norm(layer.weight, layer.weight.norm(dim=1, keepdim=True), 0)
    return (functional.linear(x, w) + layer.memory.expand_as(x)).view(x.size(0), -1)


IDIOMS = [
    weight_in_data, numpy_on_weights, masked_assignment, branch_on_buffer, functions, old_function, in_place, gpu,
    counters, decided_by_range, large_constants, with_parametrisations, parametrised,
]  # fmt: skip


def traced(model: nn.Module, *inputs: Tensor) -> torch.fx.GraphModule:
    with older_code_runs(torch.device("cpu")):
        with unchanged(model):
            graph = frozen_trace(model, inputs)
        with unchanged(model):
            check_frozen(model, graph, inputs)
    return graph


@pytest.mark.parametrize("forward", IDIOMS, ids=lambda function: function.__name__)
def test_a_trace_is_its_module_for_other_inputs_and_leaves_it_as_it_was(forward: Callable) -> None:
    model = Layer(forward).eval()
    before = copy.deepcopy(model)
    graph = traced(model, torch.randn(2, 4))
    assert vars(model).keys() == vars(before).keys() and model.calls == 0 and model.history == [1]
    assert not hasattr(model.weight, "org") and torch.equal(model.memory, before.memory)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    for x in (torch.randn(2, 4), torch.zeros(2, 4), 3 * torch.randn(2, 4)):
        with torch.no_grad(), older_code_runs(torch.device("cpu")), unchanged(model):
            want = [leaf for leaf in torch.utils._pytree.tree_leaves(model(x.clone())) if isinstance(leaf, Tensor)]
        given = x.clone()
        for one, other in zip(want, graph(given), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(given, x)


def test_constants_have_the_names_of_parameters_and_nodes_those_of_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True)).eval()
    graph = traced(model, torch.randn(2, 4))
    names = dict(graph.named_buffers())
    assert {"0.bias", "1.running_mean", "1.running_var"} <= names.keys()
    assert torch.equal(names["1.running_var"], model[1].running_var)
    paths = {str(node.target): [path for path, _ in node.meta["nn_module_stack"].values()] for node in graph.graph.nodes
             if "nn_module_stack" in node.meta}  # fmt: skip
    assert paths["aten.addmm.default"] == ["", "0"] and paths["aten.relu_.default"] == ["", "2"]


def select(layer: Any, x: Tensor) -> Tensor:
    return x[x > 0].sum()


def branch(layer: Any, x: Tensor) -> Tensor:
    return x if x.max() > 1 else -x


def stale_range(layer: Any, x: Tensor) -> Tensor:
    y = functional.hardtanh(x)
    z = y.view(-1)
    y.mul_(4)
    return x if z.max() > 1 else -x


def into_numpy(layer: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(np.sign(x.detach().numpy()))


def into_list(layer: Any, x: Tensor) -> Tensor:
    layer.memory.copy_(x[0])
    return torch.tensor(layer.memory.tolist())


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (select, r"selects elements by values that depend on its input, in '0' \(Layer\), line \d+ of .*\.py "
                 r"\(return x\[x > 0\]\.sum\(\)\); .* write torch\.where\(mask, a, b\)"),
        (branch, r"decides by a value that depends on its input, .*, in '0' \(Layer\), line .*\(return x if x\.max"),
        (stale_range, "decides by a value that depends on its input"),
        (into_numpy, r"gives values that depend on its input to numpy or Python, in '0' \(Layer\), line .*np\.sign"),
        (into_list, r"gives values that depend on its input to numpy or Python"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_depends_on_values_of_the_input_is_refused(forward: Callable, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        traced(nn.Sequential(Layer(forward)).eval(), torch.randn(2, 4))
    assert "\n" not in str(error.value)


def test_a_module_whose_second_call_computes_something_else_is_refused() -> None:
    def forward(layer: Any, x: Tensor) -> Tensor:
        layer.weight.data.mul_(layer.weight.abs().max().item())
        return x @ layer.weight

    with pytest.raises(ModelError, match="something else in its second call"):
        traced(Layer(forward).eval(), torch.randn(2, 4))


class OldConv(nn.Conv2d):
    """As early binary networks were written: signs in ``.data``, a function that torch no longer runs."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.org = self.weight.data.clone()
        self.weight.data = self.weight.data.sign()
        x, _ = OldSign()(x)
        x[x == 0] = 1
        return super().forward(x)


def test_a_network_of_early_habits_compiles(rng: np.random.Generator) -> None:
    """With one of our layers in it, wrapped for several GPUs."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Hardtanh(inplace=True))
    ours = BinaryConv2d(32, 8, 3, padding=1, domain=Signs(), binarize=Binarize())
    head = [nn.BatchNorm2d(8), nn.Hardtanh(inplace=True), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8, 4)]
    model = nn.DataParallel(nn.Sequential(stem, OldConv(32, 32, 3), ours, *head)).eval()
    module = sbnn_tvm.compile(model, input_shape=(1, 3, 7, 7))
    x = rng.standard_normal((1, 3, 7, 7)).astype(np.float32)
    with torch.no_grad(), older_code_runs(torch.device("cpu")), unchanged(model):
        np.testing.assert_allclose(module.run(x), model(torch.from_numpy(x)).numpy(), atol=1e-5)
    assert module.verify().passed
    assert "2" in [layer.name for layer in module.report.linear if layer.binary]
    assert "traced by running it once" in str(module.report)
    assert "traced" not in " ".join(module.report.fallbacks())


def test_a_failed_trace_of_torch_leaves_no_tensors_without_values() -> None:
    model, x = Layer(weight_in_data), torch.randn(2, 4)
    weight = model.weight.detach().clone()
    memory = model.weight.data_ptr()
    (got,) = ReferenceEvaluator(to_onnx(model, (2, 4))).run(None, {"input": x.numpy()})
    assert torch.equal(model.weight, weight) and model.weight.data_ptr() == memory and model.training
    np.testing.assert_array_equal(got, functional.linear(x.sign(), weight.sign()).detach().numpy())


def test_torchscript() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.randn(1, 3, 5, 5)
    for scripted in (torch.jit.trace(model, x), nn.Sequential(nn.Identity(), torch.jit.script(model))):
        (got,) = ReferenceEvaluator(to_onnx(scripted, x.shape)).run(None, {"input": x.numpy()})
        np.testing.assert_allclose(got, model(x).detach().numpy(), atol=1e-5)


def test_the_file_says_how_its_model_was_traced() -> None:
    proto = to_onnx(Layer(numpy_on_weights), (2, 4))
    ((name, sentence),) = [(entry.key, entry.value) for entry in proto.metadata_props]
    assert name == SOURCE and sentence.startswith("traced by running it once, since torch.export says: ")
    assert not to_onnx(nn.Linear(4, 4), (2, 4)).metadata_props
