"""Penalties and losses for training: their formulas, their gradients, and that they do what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear, ScaledSigns, TwoValues
from sbnn_tvm.frontends.torch.methods.contrastive import ContrastiveLoss, info_nce
from sbnn_tvm.frontends.torch.methods.distillation import BlockDistillation, Twin
from sbnn_tvm.frontends.torch.methods.regularisers import KurtosisPenalty, ReconstructionPenalty, kurtosis


def test_kurtosis_of_known_distributions() -> None:
    assert kurtosis(torch.randn(200_000)) == pytest.approx(3, abs=0.1)
    assert kurtosis(torch.rand(200_000) + 7) == pytest.approx(1.8, abs=0.01)
    assert kurtosis(torch.tensor([-2.0, 2.0, 2.0, -2.0])) == pytest.approx(1)
    assert kurtosis(torch.ones(5)) == 0  # there is none: no spread


def test_kurtosis_penalty_makes_weights_uniform() -> None:
    torch.manual_seed(0)  # the bounds are those of one training
    model = nn.Sequential(BinaryConv2d(8, 16, 3), BinaryLinear(30, 40))
    with torch.no_grad():
        for layer in model:
            layer.weight.normal_()
    penalty = KurtosisPenalty(model, weight=2.0)
    expected = sum((kurtosis(layer.weight) - 1.8) ** 2 for layer in model)
    torch.testing.assert_close(penalty(torch.tensor(5.0)), expected)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert all(kurtosis(layer.weight.detach()) == pytest.approx(1.8, abs=0.05) for layer in model)
    with pytest.raises(ValueError, match="one for each of 2 binary layers"):
        KurtosisPenalty(model, [1.8])
    with pytest.raises(ValueError, match="no distribution has a kurtosis below 1"):
        KurtosisPenalty(model, 0.5)
    with pytest.raises(ValueError, match="no binary layers"):
        KurtosisPenalty(nn.Linear(2, 2))


def test_gradients_of_the_reconstruction() -> None:
    layer = BinaryConv2d(3, 4, 3, domain=ScaledSigns(learned=True))
    ReconstructionPenalty(layer, weight=0.1)().backward()
    weight, scale = layer.weight.detach(), layer.values.tau.detach()
    signs = torch.where(weight > 0, 1.0, -1.0)
    rest = weight - scale.reshape(-1, 1, 1, 1) * signs
    torch.testing.assert_close(layer.weight.grad, 0.1 * rest)
    torch.testing.assert_close(layer.values.tau.grad, -0.1 * (signs * rest).sum((1, 2, 3)))
    two = BinaryLinear(6, 2, domain=TwoValues(per="channel"))  # starts at the least squares fit: only weights move
    ReconstructionPenalty(two)().backward()
    assert two.values.tau.grad.abs().max() < 1e-6 < two.weight.grad.abs().max()
    with pytest.raises(ValueError, match="no binary layer learns its scale"):
        ReconstructionPenalty(BinaryLinear(2, 2))


def twins() -> tuple[nn.Sequential, nn.Sequential]:
    student = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sequential(Binarize(), BinaryConv2d(4, 6, 3), nn.BatchNorm2d(6)), nn.Flatten()
    )
    teacher = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sequential(nn.Hardtanh(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), nn.Flatten()
    )
    return student, teacher


def test_block_distillation() -> None:
    student, teacher = twins()
    distill = BlockDistillation(student, teacher, ["0", "1"], weight=3.0)
    x = torch.randn(5, 1, 8, 8)
    ours = student(x)
    features = distill.twin.features()
    torch.testing.assert_close(features["1"][0].flatten(1), ours)
    torch.testing.assert_close(features["1"][1].flatten(1), teacher.eval()(x))
    errors = [(a - b).square().mean() / b.square().mean() for a, b in features.values()]
    torch.testing.assert_close(distill(), 3 * sum(errors) / 2)
    before = distill().detach()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(30):
        student(x)
        optimizer.zero_grad()
        distill().backward()
        optimizer.step()
    assert distill() < before / 2
    assert all(parameter.grad is None for parameter in teacher.parameters())
    student.eval()(x)
    with pytest.raises(RuntimeError, match="run the student in training mode first"):
        distill()
    distill.remove()
    student.train()(x)
    with pytest.raises(RuntimeError):
        distill()


def test_twins_must_fit() -> None:
    student, teacher = twins()
    with pytest.raises(ValueError, match="the student has no module '7'"):
        Twin(student, teacher, ["7"])
    with pytest.raises(ValueError, match=r"the teacher has no module '1\.9'"):
        Twin(student, teacher, {"1": "1.9"})
    with pytest.raises(ValueError, match="nothing to compare"):
        Twin(student, teacher, [])
    distill = BlockDistillation(student, teacher, {"0": "1"})
    student(torch.randn(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"at '0' the student gives \[2, 4, 6, 6\], but the teacher \[2, 6, 4, 4\]"):
        distill()


def test_info_nce() -> None:
    queries, keys, others = torch.randn(3, 5), torch.randn(3, 5), torch.randn(4, 5)
    pool = functional.normalize(torch.cat([keys, others]), dim=1)
    total = 0.0
    for index, query in enumerate(functional.normalize(queries, dim=1)):
        terms = [math.exp(float(query @ key) / 0.2) for key in pool]
        total -= math.log(terms[index] / sum(terms)) / 3
    assert float(info_nce(queries, keys, others, 0.2)) == pytest.approx(total, rel=1e-5)
    assert info_nce(keys, keys, temperature=0.01) < 1e-3 < info_nce(queries, keys)
    with pytest.raises(ValueError, match=r"but got \[3, 5\] and \[4, 5\]"):
        info_nce(queries, others)
    with pytest.raises(ValueError, match="above 0"):
        info_nce(queries, keys, temperature=0)


def test_contrastive_loss() -> None:
    student, teacher = twins()
    contrast = ContrastiveLoss(student, teacher, ["1"], {"1": (6, 6)}, dimensions=8, memory=12, weight=1.0)
    assert {name.split(".")[0] for name, _ in contrast.named_parameters()} == {
        "query_heads",
        "key_heads",
    }  # the student is not inside
    optimizer = torch.optim.Adam([*student.parameters(), *contrast.parameters()], lr=0.01)
    batches = torch.randn(4, 5, 1, 8, 8)
    losses = []
    for step in range(80):
        student(batches[step % 4])
        loss = contrast()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert int(contrast.filled) == 12
    assert contrast.memory.square().sum(2).allclose(torch.ones(12))
    assert sum(losses[-8:]) < 0.8 * sum(losses[4:12])
    assert set(contrast.state_dict()) >= {"memory", "filled"}
    with pytest.raises(ValueError, match="no channels for '0'"):
        ContrastiveLoss(student, teacher, ["0"], {})
