"""Binary networks trained by Lightning and by accelerate: exported without unwrapping, equal to the module inside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, TwoValues, to_onnx

pytestmark = pytest.mark.interop

SHAPE = (1, 1, 6, 6)


def network() -> nn.Sequential:
    binary = BinaryConv2d(8, 8, 3, padding=1, domain=TwoValues(), binarize=Binarize(8, learned=True))
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), binary, nn.Flatten(), nn.Linear(8 * 36, 10)
    )  # fmt: skip


def batches() -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(16, *SHAPE[1:]), torch.arange(16) % 10), batch_size=8)


def names(model: nn.Module, shape: tuple[int, ...] | None = SHAPE) -> list[str]:
    return [node.op_type for node in to_onnx(model, shape).graph.node]


def test_accelerate_in_bfloat16() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the package accelerate")
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    inner = network()
    start = copy.deepcopy(inner.state_dict())
    model, optimizer, data = accelerator.prepare(inner, torch.optim.SGD(inner.parameters(), 0.1), batches())
    for images, labels in data:
        accelerator.backward(functional.cross_entropy(model(images), labels))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(start[name], value) for name, value in inner.state_dict().items())
    forward = model.forward
    exported = to_onnx(model, SHAPE)
    assert model.forward is forward  # still in bfloat16, for the next epoch
    plain = network()
    plain.load_state_dict(accelerator.unwrap_model(model).state_dict())
    assert exported == to_onnx(plain, SHAPE)


def test_lightning_in_bfloat16() -> None:
    lightning = pytest.importorskip("lightning", reason="needs the package lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.example_input_array = torch.zeros(SHAPE)

        def forward(self, x: torch.Tensor) -> Any:
            return self.network(x)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Classifier()
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1.0, **options
    )
    trainer.fit(model, batches())
    assert names(model, None) == names(network())


def test_lightning_fabric() -> None:
    lightning = pytest.importorskip("lightning", reason="needs the package lightning")
    fabric = lightning.Fabric(accelerator="cpu", precision="bf16-mixed")
    inner = network()
    model, optimizer = fabric.setup(inner, torch.optim.SGD(inner.parameters(), 0.1))
    fabric.backward(model(torch.randn(4, *SHAPE[1:])).square().mean())
    optimizer.step()
    assert to_onnx(model, SHAPE) == to_onnx(inner, SHAPE)
