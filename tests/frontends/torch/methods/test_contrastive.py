"""The contrastive loss: its formula, its memory, that it resumes and is equal over ranks, and that it learns."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from sbnn_tvm.frontends.torch import Binarize, BinarizerPairs, BinaryConv2d, ContrastiveLoss, Twin
from sbnn_tvm.frontends.torch.methods.contrastive import nce_loss
from tests.support.ranks import leave

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 1])


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """A student and a float teacher with features of 6 and 5 channels."""
    student = nn.Sequential(nn.Conv2d(1, 4, 3), BinaryConv2d(4, 6, 3, binarize=Binarize()), nn.BatchNorm2d(6))
    return student, nn.Sequential(nn.Conv2d(1, 4, 3), nn.Hardtanh(), nn.Conv2d(4, 5, 3))


def contrast(student: nn.Module, teacher: nn.Module, **options: float) -> ContrastiveLoss:
    """A small loss between the last features."""
    return ContrastiveLoss(
        Twin(student, teacher, {"2": "2"}), {"2": (6, 5)}, LABELS, dimensions=8, negatives=7, weight=1.0, **options
    )


def test_nce_of_known_probabilities() -> None:
    # noise of 2 negatives of 4 samples: 0.5; -log(0.5 / 1) - log(0.5 / 0.75) - log(0.5 / 1.5)
    loss = nce_loss(torch.tensor([0.5]), torch.tensor([[0.25, 1.0]]), samples=4)
    assert float(loss) == pytest.approx(math.log(2) + math.log(1.5) + math.log(3), rel=1e-5)


def test_negatives_are_of_other_classes_and_all_are_drawn() -> None:
    loss = contrast(*networks())
    index = torch.tensor([0, 1, 2, 11] * 100)
    drawn = loss.draw(index)
    assert drawn.shape == (400, 7)
    assert (LABELS[drawn] != LABELS[index][:, None]).all()
    for image in range(4):
        others = {each for each in range(12) if LABELS[each] != LABELS[index[image]]}
        assert set(drawn[index == index[image]].flatten().tolist()) == others


def test_two_way_loss_and_memory() -> None:
    student, teacher = networks()
    loss = contrast(student, teacher, temperature=0.3, momentum=0.2)
    images, index = torch.randn(3, 1, 8, 8), torch.tensor([4, 0, 7])
    ours = student(images).mean((2, 3))
    theirs = teacher(images).mean((2, 3))
    unit = nn.functional.normalize
    features = [unit(head(each), dim=1) for head, each in zip(loss.heads, (ours, theirs), strict=True)]
    memory = loss.memory[0].clone()
    before = copy.deepcopy(loss.draws)
    drawn = torch.cat([index[:, None], loss.draw(index)], 1)
    loss.draws = before
    expected = torch.zeros(())
    for which in (0, 1):
        odds = torch.stack([(memory[1 - which][drawn[row]] @ features[which][row] / 0.3).exp() for row in range(3)])
        p = odds / (odds.mean() * 12)
        noise = 7 / 12
        expected = expected - (p[:, 0] / (p[:, 0] + noise)).log().mean()
        expected = expected - (noise / (p[:, 1:] + noise)).log().sum(1).mean()
    for which in (0, 1):
        memory[which][index] = unit(0.2 * memory[which][index] + 0.8 * features[which].detach(), dim=1)
    computed = loss(index)
    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-4)
    computed.backward()
    assert student[0].weight.grad.abs().max() > 0
    torch.testing.assert_close(loss.memory[0], memory)
    constant = loss.normalisers.clone()
    student(images + 1)
    loss(index)
    assert torch.equal(loss.normalisers, constant)  # of the first batch
    with pytest.raises(ValueError, match=r"at '2' there are 3 features, but 2 indices"):
        loss(index[:2])


def steps(student: nn.Module, loss: ContrastiveLoss, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    """Trains on random images; step n is the same one in every training."""
    for seed in seeds:
        torch.manual_seed(seed)
        index = torch.randperm(12)[:5]
        student(torch.randn(5, 1, 8, 8))
        optimizer.zero_grad()
        loss(index).backward()
        optimizer.step()


def test_a_resumed_training_is_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    student, teacher = networks()
    loss = contrast(student, teacher)
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.1)
    steps(student, loss, optimizer, range(3))
    saved = copy.deepcopy((student.state_dict(), loss.state_dict(), optimizer.state_dict()))
    steps(student, loss, optimizer, range(3, 6))

    resumed, _ = networks()
    other = contrast(resumed, teacher)
    again = torch.optim.SGD([*resumed.parameters(), *other.parameters()], lr=0.1)
    for part, state in zip((resumed, other, again), saved, strict=True):
        part.load_state_dict(state)
    steps(resumed, other, again, range(3, 6))
    for first, second in ((student, resumed), (loss, other)):
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def _rank(rank: int, store: str, memories: Tensor) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other networks, memories and images, as with a careless script
    student, teacher = networks()
    loss = contrast(student, teacher)
    wrapped, wrapped_loss = (nn.parallel.DistributedDataParallel(module) for module in (student, loss))
    for step in range(3):
        index = torch.arange(12).reshape(2, 6)[rank][: 3 if step == 2 and rank else 6]
        wrapped(torch.randn(len(index), 1, 8, 8))
        wrapped_loss(index).backward()
    memories[rank] = torch.cat([loss.memory.flatten(), loss.normalisers.flatten(), loss.heads[0].weight.grad.flatten()])
    leave()


@pytest.mark.slow
def test_memories_are_equal_over_two_ranks(tmp_path: Path) -> None:
    size = 2 * 12 * 8 + 2 + 8 * 6
    memories = torch.zeros(2, size).share_memory_()
    multiprocessing.spawn(_rank, (str(tmp_path / "store"), memories), nprocs=2)
    assert torch.equal(memories[0], memories[1])
    assert memories[0].isfinite().all()


def test_features_of_an_image_come_to_match() -> None:
    torch.manual_seed(0)
    student, teacher = networks()
    loss = contrast(student, teacher)
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=0.01)
    images = torch.randn(12, 1, 8, 8)
    values = []
    for _ in range(60):
        index = torch.randperm(12)[:6]
        student(images[index])
        value = loss(index)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    loss.remove()
    with pytest.raises(RuntimeError):
        loss(index)


def test_binary_and_latent_activations_of_one_network() -> None:
    student, _ = networks()
    loss = ContrastiveLoss(
        BinarizerPairs(student, ["1.binarize"]), {"1.binarize": (4, 4)}, torch.arange(12), dimensions=8, negatives=5
    )
    student(torch.randn(3, 1, 8, 8))
    loss(torch.tensor([1, 2, 3])).backward()
    assert student[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": {}}, "channels has no entry for '2'"),
        ({"dimensions": 0}, "dimensions and negatives must be 1 or more, but are 0"),
        ({"momentum": 1.0}, "momentum in"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"has shape \[4\] and 1 classes"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    arguments = {"channels": {"2": (6, 5)}, "labels": LABELS, **options}
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(Twin(*networks(), ["2"]), **arguments)
