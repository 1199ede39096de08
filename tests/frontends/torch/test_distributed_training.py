"""Two processes train one network by DistributedDataParallel: equal weights, those of one process with both halves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear, TwoValues, clamp_latent_, to_onnx
from tests.support.ranks import leave

RANKS = 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    binary = BinaryConv2d(4, 4, 3, padding=1, domain=TwoValues("channel"), binarize=Binarize(4, learned=True))
    return nn.Sequential(nn.Conv2d(1, 4, 3), binary, nn.Flatten(), BinaryLinear(64, 10, binarize=Binarize()))


def batch() -> torch.Tensor:
    return torch.randn(2 * RANKS, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        clamp_latent_(model)


def train_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    model = nn.parallel.DistributedDataParallel(network())
    train(model, batch()[rank::RANKS])
    file = to_onnx(model, (1, 1, 6, 6), compare_export=False).SerializeToString() if rank == 0 else b""
    torch.save({"state": model.module.state_dict(), "file": file}, f"{folder}/{rank}.pt")
    leave()


@pytest.mark.slow  # three processes that import torch
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    multiprocessing.spawn(train_one_rank, (str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(RANKS))
    alone = network()
    train(alone, batch())
    for name, value in alone.state_dict().items():
        assert torch.equal(first["state"][name], second["state"][name])
        torch.testing.assert_close(first["state"][name], value, rtol=1e-4, atol=1e-5)
    alone.load_state_dict(first["state"])
    assert to_onnx(alone, (1, 1, 6, 6)).SerializeToString() == first["file"]
