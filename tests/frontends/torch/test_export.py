"""From torch to a file that stock onnxruntime runs: same numbers, small, readable names, clear errors."""

from __future__ import annotations

import copy
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConfig,
    BinaryConv2d,
    BinaryLinear,
    ScaledSigns,
    Signs,
    TwoValues,
    binarize_,
    export_onnx,
    resnet,
    to_onnx,
    vgg_small,
)
from tests.support.torch_seed import fixed_seed


def onnxruntime(proto: onnx.ModelProto, *inputs: torch.Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]


def eager(model: nn.Module, *inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*inputs).numpy()


def settled(model: nn.Module, *shape: int) -> nn.Module:
    """With batch norm statistics and thresholds that are not the initial ones."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(shape))
        for module in model.modules():
            if isinstance(module, Binarize | nn.BatchNorm2d | nn.PReLU):
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter) / 4)
    return model


def convolutions() -> list[BinaryConv2d]:
    """Layers with every option of a convolution, and weights of a fixed seed."""
    with fixed_seed():
        return [
            BinaryConv2d(3, 4, 3, padding=1, domain=Signs(), binarize=Binarize()),
            BinaryConv2d(
                5, 6, (3, 2), (2, 1), (0, 1, 2, 3), padding_value=1, domain=TwoValues("channel"), binarize=Binarize()
            ),
            BinaryConv2d(
                6, 4, 3, (1, 2), 2, 2, 2, True, padding_value=-1, domain=TwoValues("channel"), binarize=Binarize(6, 0.1)
            ),
            BinaryConv2d(
                4, 4, 3, padding=1, groups=4, domain=ScaledSigns(), binarize=Binarize(domain=BinaryDomain(0, 1))
            ),
            BinaryConv2d(8, 3, 1, 2, bias=True, domain=ScaledSigns(learned=True), binarize=Binarize()),
            BinaryConv2d(2, 3, (2, 4), padding="same", padding_value=-1, domain=TwoValues(), binarize=Binarize()),
        ]


@pytest.mark.parametrize("layer", convolutions(), ids=lambda layer: f"conv{layer.in_channels}")
def test_a_convolution_gives_torchs_floats(layer: BinaryConv2d) -> None:
    x = torch.randn(2, layer.in_channels, 9, 8)
    np.testing.assert_array_equal(onnxruntime(to_onnx(layer, x.shape), x), eager(layer, x))


@pytest.mark.parametrize("lead", [(4,), (2, 3)])
@pytest.mark.parametrize("domain", [Signs(), TwoValues("channel")], ids=str)
def test_a_linear_layer_gives_torchs_floats(domain, lead: tuple[int, ...]) -> None:
    layer = BinaryLinear(13, 5, True, domain=domain, binarize=Binarize(13, channel_axis=-1))
    x = torch.randn(*lead, 13)
    np.testing.assert_array_equal(onnxruntime(to_onnx(layer, x.shape), x), eager(layer, x))


def test_a_negative_scale_is_written_with_flipped_signs() -> None:
    layer = BinaryConv2d(3, 4, 3, domain=TwoValues("channel"))
    with torch.no_grad():
        layer.values.tau[1:3].neg_()
    x = torch.randint(0, 2, (1, 3, 6, 6)).float() * 2 - 1
    proto = to_onnx(layer, x.shape)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    scale = next(value for name, value in constants.items() if name.endswith("scale"))
    assert (scale >= 0).all()
    np.testing.assert_array_equal(onnxruntime(proto, x), eager(layer, x))


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[nn.Module, onnx.ModelProto]]:
    with fixed_seed():
        built = {
            "resnet": resnet(
                5, image_size=7, widths=(16, 24), blocks=(1, 2), prelu=True, learn_threshold=True, in_channels=2
            ),
            "vgg": vgg_small(
                5, image_size=9, stages=((16,), (24, 24)), hidden=(40,), domain=TwoValues(), in_channels=2
            ),
        }
        for model in built.values():
            settled(model, 4, *model.example_input_array.shape[1:])
        return {name: (model, to_onnx(model)) for name, model in built.items()}


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_whole_models_agree(models, name: str) -> None:
    model, proto = models[name]
    for _ in range(5):
        x = torch.randn(model.example_input_array.shape)
        np.testing.assert_allclose(onnxruntime(proto, x), eager(model, x), rtol=1e-4, atol=1e-5)


def test_nodes_values_and_constants_bear_the_modules_names(models) -> None:
    model, proto = models["resnet"]
    nodes = {node.name: node for node in proto.graph.node}
    assert len(nodes) == len(proto.graph.node)
    node = nodes["layers.1.0.conv"]
    assert node.op_type == "BinaryConv2d" and node.output[0] == "layers.1.0.conv"
    prefix = "layers.1.0.conv"
    assert list(node.input) == ["layers.1.0.binarize", f"{prefix}.weight", f"{prefix}.scale", f"{prefix}.offset"]
    assert nodes["layers.1.0.bn"].op_type == "BatchNormalization"
    assert nodes["stem.1"].op_type == "BatchNormalization"  # not folded into the convolution
    assert nodes["layers.1.0/Add"].op_type == "Add"
    paths = dict(model.named_modules())
    assert all(name.split("/")[0] in paths for name in nodes)
    assert [value.name for value in proto.graph.input] == ["input"]
    assert [value.name for value in proto.graph.output] == ["output"]


def test_the_file_is_clean(models) -> None:
    _, proto = models["vgg"]
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 21, "ai.sbnn": 1}
    assert proto.ir_version <= 10
    assert {function.name for function in proto.functions} == {node.op_type for node in proto.graph.node if node.domain}
    assert b"site-packages" not in proto.SerializeToString()  # no stack traces
    shapes = {value.name: value.type.tensor_type.shape for value in proto.graph.value_info}
    made = {name for node in proto.graph.node for name in node.output} - {"output"}
    assert all(dim.dim_value > 0 for name in made for dim in shapes[name].dim)


def test_binary_weights_take_a_bit_each() -> None:
    layer = BinaryConv2d(256, 256, 3)
    assert len(to_onnx(layer, (1, 256, 4, 4)).SerializeToString()) < layer.weight.numel() * 4 / 28


def test_the_model_stays_as_it_was(models, tmp_path: Path) -> None:
    model = copy.deepcopy(models["vgg"][0]).train()
    model.features[1].eval()  # modes are restored one by one
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    buffers = [name for name, _ in model.named_buffers()]
    random = torch.get_rng_state()
    export_onnx(model, tmp_path / "model.onnx")
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert [name for name, _ in model.named_buffers()] == buffers
    assert torch.equal(torch.get_rng_state(), random)


def test_export_is_quiet_and_repeatable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    layer = nn.Sequential(nn.Conv2d(2, 8, 3), BinaryConv2d(8, 8, 3, binarize=Binarize()))
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        export_onnx(layer, path, (1, 2, 8, 8))
    assert capfd.readouterr() == ("", "")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    assert stat.S_IMODE(paths[0].stat().st_mode) & 0o600 == 0o600


def test_a_converted_float_model() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    binarize_(model, BinaryConfig(activations=BinaryDomain(0, 1), weights=TwoValues("channel")))
    x = torch.randn(2, 3, 8, 8)
    np.testing.assert_allclose(onnxruntime(to_onnx(model, x.shape), x), eager(model, x), rtol=1e-5, atol=1e-6)


def test_a_layer_used_twice_and_two_inputs() -> None:
    class Twice(nn.Module):
        example_input_array = (torch.zeros(1, 4, 5, 5), torch.zeros(1, 4, 5, 5))

        def __init__(self) -> None:
            super().__init__()
            self.conv = BinaryConv2d(4, 4, 3, padding=1, binarize=Binarize())

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(a)) + b

    model = Twice()
    proto = to_onnx(model)
    a, b = torch.randn(2, 1, 4, 5, 5)
    np.testing.assert_array_equal(onnxruntime(proto, a, b), eager(model, a, b))
    assert [node.name for node in proto.graph.node if node.op_type == "BinaryConv2d"] == ["conv", "conv/BinaryConv2d"]
    assert sum(tensor.data_type == onnx.TensorProto.UINT8 for tensor in proto.graph.initializer) == 1


# errors


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("resnet18", (1, 3, 8, 8), "expected a torch.nn.Module to export, but got str"),
        (nn.Linear(2, 2), None, r"input shape is unknown: pass input_shape=.* or set model.example_input_array"),
        (nn.Linear(2, 2), (1, -2), r"must be positive integers with the batch, .* but got \(1, -2\)"),
        (nn.Linear(2, 2), 2, "must be positive integers"),
        (nn.Linear(2, 2), (1, 3), r"does not run on an input of shape \(1, 3\): mat1 and mat2 shapes"),
        (nn.Linear(2, 2).double(), (1, 2), r"'weight' of the model is float64, not float32; call model.float\(\)"),
        (Branching(), (1, 2), r"decides by a value that depends on its input.*, in the model \(Branching\)"),
        (
            nn.Sequential(nn.Identity(), Branching()),
            (1, 2),
            r"in '1' \(Branching\), line \d+ of .*test_export.py \(return x if",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), (1, 3), r"cannot be multiplied .* \(in '1'\)"),
    ],
)
def test_errors(model: nn.Module, shape, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        to_onnx(model, shape)
    assert "\n" not in str(error.value)


def test_diverged_weights_are_named() -> None:
    model = nn.Sequential(BinaryLinear(4, 4))
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    with pytest.raises(ModelError, match="layer '0' has weight values that are not finite"):
        to_onnx(model, (1, 4))


def test_the_public_name() -> None:
    assert sbnn_tvm.export_onnx is export_onnx


def test_unwritable_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        export_onnx(nn.Linear(2, 2), tmp_path / "missing" / "model.onnx", (1, 2))
    with pytest.raises(ModelError, match="it is a folder"):
        export_onnx(nn.Linear(2, 2), tmp_path, (1, 2))


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(ModelError):
        export_onnx(Branching(), path, (1, 2))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchs_own_exporter_writes_standard_operators() -> None:
    layer = BinaryLinear(4, 4, binarize=Binarize()).eval()
    program = torch.onnx.export(layer, (torch.zeros(1, 4),), dynamo=True, verbose=False)
    assert not any(node.domain for node in program.model_proto.graph.node)
    x = torch.randn(1, 4)
    np.testing.assert_allclose(onnxruntime(program.model_proto, x), eager(layer, x), rtol=1e-6)


def test_sparse_weights_are_coded() -> None:
    layers = [BinaryConv2d(128, 128, 3, padding=1), BinaryLinear(2048, 512), nn.Linear(512, 64)]
    model = nn.Sequential(Binarize(), layers[0], nn.Flatten(), Binarize(), layers[1], layers[2]).eval()
    dense = to_onnx(model, (1, 128, 4, 4))
    assert not [node for node in dense.graph.node if node.op_type.startswith("Decode")]
    with torch.no_grad():
        for layer, density in zip(layers, (0.05, 0.95, 0.02), strict=True):
            chosen = torch.rand_like(layer.weight) < density
            layer.weight.copy_(torch.where(chosen, 1.0, -1.0 if layer is not layers[2] else 0.0))
    sparse = to_onnx(model, (1, 128, 4, 4))
    onnx.checker.check_model(sparse, full_check=True)
    found = {node.name: node.op_type for node in sparse.graph.node if node.op_type.startswith("Decode")}
    assert found == {"1.weight": "DecodeRice", "4.weight": "DecodeRice", "5.weight": "DecodeSparse"}
    assert len(sparse.SerializeToString()) < 0.4 * len(dense.SerializeToString())
    x = torch.randn(1, 128, 4, 4)
    np.testing.assert_allclose(onnxruntime(sparse, x), eager(model, x), rtol=1e-4, atol=1e-4)
