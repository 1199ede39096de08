"""Penalties and losses for training: their formulas, their gradients, and that they do what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear, ScaledSigns, TwoValues
from sbnn_tvm.frontends.torch.methods.distillation import BlockDistillation, DistributionMimicking
from sbnn_tvm.frontends.torch.methods.feature_pairs import BinarizerPairs, Twin
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
    with pytest.raises(ValueError, match="one for each of 2 layers, but got 1"):
        KurtosisPenalty(model, [1.8])
    with pytest.raises(ValueError, match="no distribution has a kurtosis below 1"):
        KurtosisPenalty(model, 0.5)
    with pytest.raises(ValueError, match="no binary layers"):
        KurtosisPenalty(nn.Linear(2, 2))


def test_kurtosis_penalty_of_a_float_teacher() -> None:
    teacher = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Linear(4, 5))
    penalty = KurtosisPenalty(teacher, [1.4, 1.2], layers=["0", "2"])
    expected = (kurtosis(teacher[0].weight) - 1.4) ** 2 + (kurtosis(teacher[2].weight) - 1.2) ** 2
    torch.testing.assert_close(penalty(), expected / 2)
    for names, message in ((["x"], "no module 'x'"), ([], "names no layer"), (["1"], "two axes or more")):
        with pytest.raises(ValueError, match=message):
            KurtosisPenalty(teacher, layers=names)


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
    with pytest.raises(RuntimeError, match="run the network in training mode first"):
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


def test_blockwise_distillation_runs_each_block_on_the_teachers_input() -> None:
    student, teacher = twins()
    distill = BlockDistillation(student, teacher, ["0", "1"], weight=2.0)
    x = torch.randn(5, 1, 8, 8)
    teacher.eval()
    first, second = teacher[0](x), teacher[:2](x)
    teacher[1][0].inplace = True  # changes the input of its block
    ours = [student[0](x), student[1](first)]  # batch norms of the student use the batch
    errors = [(a - b).square().mean() / b.square().mean() for a, b in zip(ours, (first, second), strict=True)]
    loss = distill.blockwise(x)
    torch.testing.assert_close(loss, sum(errors))
    (gradient,) = torch.autograd.grad(loss, student[0].weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(errors[0], student[0].weight)[0])  # of its block alone
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_mimicking_a_teachers_distributions() -> None:
    student, teacher = twins()
    student.append(nn.LazyLinear(3))
    teacher.append(nn.LazyLinear(3))
    x = torch.randn(5, 1, 8, 8)
    student(x), teacher(x)
    mimic = DistributionMimicking(student, teacher, ["1.1"], weights=2.0, logits=0.5, temperature=3.0)
    ours, theirs = student(x), teacher.eval()(x)
    soft = -(theirs.softmax(1) * ours.log_softmax(1)).sum(1).mean()
    v, w = teacher[1][1].weight, student[1][1].latent()
    p, q = (v / 3).softmax(1), (w / 3).softmax(1)
    divergence = 9 * (p * (p / q).log()).mean()
    torch.testing.assert_close(mimic(), 2 * divergence + 0.5 * soft)
    released = DistributionMimicking(student, teacher, ["1.1"], weights=2.0, logits=0.0, form="released")
    student(x)
    torch.testing.assert_close(released(), 2 * (v.exp() * (v - w)).mean())
    with torch.no_grad():
        w.copy_(v)
    student(x)
    mimic.logits = 0.0
    torch.testing.assert_close(mimic(), torch.tensor(0.0))
    mimic.remove()
    with pytest.raises(RuntimeError, match="run the network in training mode first"):
        mimic()


def test_mimicking_needs_layers_of_equal_shapes() -> None:
    student, teacher = twins()
    with pytest.raises(ValueError, match=r"'1\.1' have shape \[6, 4, 3, 3\], but those of the teacher's '0' \[4"):
        DistributionMimicking(student, teacher, {"1.1": "0"})
    with pytest.raises(ValueError, match="weights of two axes or more is needed, but got Hardtanh"):
        DistributionMimicking(student, teacher, {"1.1": "1.0"})
    with pytest.raises(ValueError, match="but got 'kl'"):
        DistributionMimicking(student, teacher, form="kl")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        DistributionMimicking(student, teacher, temperature=0)
    assert len(DistributionMimicking(student, teacher).layers) == 1  # the binary layers


def test_a_feature_that_is_changed_in_place_is_refused() -> None:
    student, teacher = twins()
    teacher.insert(1, nn.Hardtanh(inplace=True))
    twin = Twin(student, teacher, {"0": "0"})
    student(torch.randn(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match="the feature of '0' was changed in place by a later module"):
        twin.features()
    twin.remove()
    fine = Twin(student, teacher, {"0": "1"})
    student(torch.randn(2, 1, 8, 8))
    fine.features()


def test_pairs_at_a_binariser() -> None:
    student, _ = twins()
    pairs = BinarizerPairs(student, ["1.0"])
    x = torch.randn(2, 1, 8, 8)
    student(x)
    ((binary, latent),) = pairs.features().values()
    torch.testing.assert_close(latent, student[0](x))
    assert torch.equal(binary, torch.where(latent > 0, 1.0, -1.0))
    student.eval()(x)
    with pytest.raises(RuntimeError, match=r"there is no feature of '1\.0'"):
        pairs.features()
    with pytest.raises(ValueError, match="the network has no module 'x'"):
        BinarizerPairs(student, ["x"])
