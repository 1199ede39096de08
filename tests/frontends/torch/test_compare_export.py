"""What torch's exporter drops is noticed and named; rounding is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear, compare_export, to_onnx
from tests.support.small_models import run_reference
from tests.support.torch_seed import fixed_seed

POOL = nn.AvgPool2d(2, divisor_override=3)


class Function(nn.Module):
    """A module without submodules that computes a function."""

    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


class Between(nn.Module):
    """An operation between two submodules."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def dropped(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, 2, divisor_override=3)


def lost_in_the_export(x: torch.Tensor) -> torch.Tensor:
    return x if torch.compiler.is_exporting() else x * 1.01


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (POOL, r"first in the model \(AvgPool2d\): values up to .* differ by up to 0\.\d+; torch's exporter has lost"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), POOL), Binarize()), r"first in '0\.1' \(AvgPool2d\)"),
        (Between(dropped), r"first in the operations of the model \(Between\) before its submodule 'last'"),
        (
            nn.Sequential(nn.ReLU(), Function(lost_in_the_export), nn.Conv2d(1, 1, 3)),
            r"first in '1' \(Function\) or the op",
        ),
        (Function(lambda x: (x, (lost_in_the_export(x) * 100).long())), r"\d+ of 64 values differ"),
    ],
)
def test_what_the_exporter_drops_is_named(model: nn.Module, named: str) -> None:
    with fixed_seed(), pytest.raises(ModelError, match=named) as error:
        to_onnx(model, (1, 1, 8, 8))
    assert "\n" not in str(error.value)


def test_the_option(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="compare_export=False to take the file as it is"):
        sbnn_tvm.export_onnx(POOL, tmp_path / "model.onnx", (1, 1, 4, 4))
    assert not list(tmp_path.iterdir())
    module = sbnn_tvm.compile(POOL, input_shape=(1, 1, 4, 4), compare_export=False)
    x = torch.ones(1, 1, 4, 4)
    torch.testing.assert_close(torch.from_numpy(module.run(x.numpy())), functional.avg_pool2d(x, 2))


def summed(x: torch.Tensor) -> torch.Tensor:
    """The sum of three, in another order in the exported file."""
    a, b, c = x.chunk(3, dim=1)
    return (a + b) + c if torch.compiler.is_exporting() else a + (b + c)


@pytest.mark.parametrize(
    "flipping",
    [
        [Function(summed), Function(lambda x: x * 1e5), Function(torch.sin), Binarize()],  # each alone does not flip
        [Function(lambda x: torch.sign(torch.sin(summed(x) * 1e5)))],  # flips about one in a hundred
    ],
)
def test_a_difference_in_rounding_flips_bits_and_is_no_error(flipping: list[nn.Module]) -> None:
    model = nn.Sequential(*flipping, nn.Flatten(), BinaryLinear(4096, 8), nn.BatchNorm1d(8))
    with fixed_seed():
        proto = to_onnx(model, (4, 3 * 4096))
    x = np.random.default_rng(0).standard_normal((4, 3 * 4096)).astype(np.float32)
    with torch.no_grad():
        want = model.eval()(torch.from_numpy(x)).numpy()
    assert abs(run_reference(proto, {"input": x})["output"] - want).max() > 0.01  # a bit weighs 1/64


class ManyUses(nn.Module):
    """A submodule used twice, one that works in place, several results, one of them twice, and None."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)
        self.add_module("unused", nn.Linear(2, 2))

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.relu(self.conv(self.relu(self.conv(x)))) + x
        return {"y": y, "again": y, "none": None, "largest": y.argmax(1), "above": y > 0}


class Embedded(nn.Module):
    example_input_array = torch.arange(6).reshape(2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(6, 4), nn.LSTM(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(self.embedding(x))[0]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ManyUses(), (1, 3, 6, 6)),
        (Embedded(), None),
        (nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2), nn.Dropout2d(), nn.Softmax(1)), (2, 2, 3, 3)),
        (Function(lambda x: (torch.log(x) + 1 / torch.relu(x), torch.eye(3)[x.long() % 3])), (1, 9)),  # NaN, infinite
    ],
)
def test_right_files_pass(model: nn.Module, shape) -> None:
    to_onnx(model.train(), shape)


def test_a_random_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 40), Function(lambda x: nn.functional.dropout(x, training=True)))
    with pytest.raises(ModelError, match=r"something else every time it runs on the same input, first in '1' \(Functi"):
        to_onnx(model, (1, 4))


def test_without_onnxruntime_the_reference_implementation_runs_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_export.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(compare_export, "_onnxruntime", None)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), BinaryConv2d(2, 2, 3, binarize=Binarize()), POOL)
    with pytest.raises(ModelError, match=r"first in '2' \(AvgPool2d\)"):
        to_onnx(model, (1, 1, 8, 8))


def test_a_file_that_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(compare_export, "_onnxruntime", fail)
    monkeypatch.setattr(compare_export, "_reference", fail)
    with pytest.raises(
        ModelError, match=r"nothing here runs it \(onnxruntime: no kernel; onnx's reference .*: no kern"
    ):
        to_onnx(nn.Linear(2, 2), (1, 2))


class Counting(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def test_a_model_that_counts_its_calls_is_refused() -> None:
    with pytest.raises(ModelError, match=r"returns something else every time .* in the model \(Counting\)"):
        to_onnx(Counting(), (1, 2))


def test_what_torch_made_of_a_module() -> None:
    model, example = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval(), (torch.zeros(1, 2),)
    exported = torch.export.export(model, example)
    for each in (exported, exported.module()):
        assert [node.op_type for node in to_onnx(each, (1, 2)).graph.node] == ["Gemm", "BatchNormalization"]
    assert to_onnx(exported).graph.input[0].type.tensor_type.shape.dim[1].dim_value == 2
    with pytest.raises(ModelError, match=r"of a model in training mode.*call model.eval\(\)"):
        to_onnx(torch.export.export(model.train(), (torch.zeros(2, 2),)))
