"""A training that stops and continues from its state dicts equals one that does not stop, bit for bit."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import BinaryConfig, binarize_, set_progress
from sbnn_tvm.frontends.torch.methods.rbonn import BilinearValues
from tests.support.training_methods import ACTIVATIONS, DOMAINS, EIGHT_BIT

STEPS, STOP, EPOCH = 6, 3, 2


def network(config: BinaryConfig) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3)
    )
    binarize_(model, config)
    return model


@dataclass
class Training:
    """A training with everything that its file keeps."""

    model: nn.Module
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)

    def run(self, steps: range) -> None:
        for step in steps:
            if step % EPOCH == 0:
                set_progress(self.model, step / STEPS)
            x, labels = batch(step)
            loss = functional.cross_entropy(self.model(x), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            if any(isinstance(module, BilinearValues) for module in self.model.modules()):
                sbnn.backtrack_(self.model)
            self.losses.append(loss.item())

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self) -> io.BytesIO:
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        for name, state in torch.load(file).items():
            self.parts()[name].load_state_dict(state)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 2, 7, 7, generator=generator), torch.randint(3, (8,), generator=generator)


CONFIGS = {
    **{f"weights: {name}": BinaryConfig(weights=domain) for name, domain in DOMAINS.items()},
    **{f"activations: {name}": BinaryConfig(activations=make) for name, make in ACTIVATIONS.items()},
    **{f"8 bits: {name}": BinaryConfig(eight_bit=config) for name, config in EIGHT_BIT.items()},
    "gradient of weights: ede": BinaryConfig(weight_estimator="ede"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_resumed_training_equals_an_uninterrupted_one(config: BinaryConfig) -> None:
    whole = Training(network(config))
    whole.run(range(STOP))
    file = whole.save()
    whole.run(range(STOP, STEPS))
    torch.randn(7)  # other random numbers from here on
    resumed = Training(network(config))
    resumed.load(file)
    resumed.run(range(STOP, STEPS))
    assert resumed.losses == whole.losses[STOP:]
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_a_resumed_contrastive_loss_draws_the_same_images() -> None:
    def make() -> sbnn.ContrastiveLoss:
        student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        places = sbnn.Twin(student, teacher, [""])
        return sbnn.ContrastiveLoss(places, {"": (3, 3)}, torch.arange(20) % 4, dimensions=2, negatives=8)

    whole, index = make(), torch.arange(5)
    whole.draw(index)
    resumed = make()
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(resumed.draw(index), whole.draw(index))
    assert not torch.equal(resumed.draw(index), make().draw(index))


def test_all_domains_and_activations_are_tested() -> None:
    exported = [getattr(sbnn, name) for name in sbnn.__all__]
    domains = {each for each in exported if isinstance(each, type) and hasattr(each, "build")} - {sbnn.WeightDomain}
    assert {type(domain) for domain in DOMAINS.values()} == domains
    quantizers = {each for each in exported if isinstance(each, type) and issubclass(each, sbnn.Quantizer)}
    assert {type(make(4, 1)) for make in ACTIVATIONS.values()} >= quantizers - {sbnn.Quantizer}
