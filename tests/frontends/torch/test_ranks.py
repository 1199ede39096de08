"""Two processes with different batches train equal models under plain DistributedDataParallel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from sbnn_tvm.frontends.torch import EWGS, BinaryConfig, binarize_, set_progress
from sbnn_tvm.frontends.torch.layers.ranks import Moments, extremes
from tests.support.ranks import leave
from tests.support.training_methods import ACTIVATIONS, DOMAINS, EIGHT_BIT

CONFIGS = {
    **{f"weights: {name}": BinaryConfig(weights=domain) for name, domain in DOMAINS.items()},
    **{f"activations: {name}": BinaryConfig(activations=make) for name, make in ACTIVATIONS.items()},
    **{f"8 bits: {name}": BinaryConfig(eight_bit=config) for name, config in EIGHT_BIT.items()},
}
RANKS, STEPS = 2, 4


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS)
    for index, config in enumerate(CONFIGS.values()):
        torch.manual_seed(rank)  # ranks need not agree on anything: DDP starts them from the first one's state
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(36, 3))
        binarize_(model, config)
        ddp = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
        for step in range(STEPS):
            set_progress(ddp, step / STEPS)
            if index == list(CONFIGS).index("weights: sub-bit"):
                model[1].values.patterns.data[3] = model[1].values.patterns.data[2]  # something to draw anew
            loss = ddp(torch.randn(8, 2, 7, 7) * (1 + rank)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save(model.state_dict(), Path(folder) / f"{index}-{rank}.pt")
    torch.save((Moments.of(batch(rank)), extremes(batch(rank))), Path(folder) / f"moments-{rank}.pt")
    leave()


def batch(rank: int) -> torch.Tensor:
    return torch.randn(5 + rank, 3, generator=torch.Generator().manual_seed(rank)) * (1 + rank) + 3


@pytest.mark.slow
def test_ranks_stay_equal(tmp_path: Path) -> None:
    multiprocessing.spawn(train, (str(tmp_path),), RANKS)
    for index, name in enumerate(CONFIGS):
        first, second = (torch.load(tmp_path / f"{index}-{rank}.pt") for rank in range(RANKS))
        torch.testing.assert_close(first, second, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    first, second = (torch.load(tmp_path / f"moments-{rank}.pt", weights_only=False) for rank in range(RANKS))
    assert first == second
    moments, bounds = first
    together = torch.cat([batch(rank).flatten() for rank in range(RANKS)])
    torch.testing.assert_close([moments.least, moments.deviation], [together.min(), together.std()])
    assert bounds == (together.min(), together.max())


def test_moments_of_one_process() -> None:
    x = torch.randn(7, 3)
    assert Moments.of(x) == Moments(x.min(), x.std())
    quantizer = EWGS(2)
    quantizer.initialise(x.relu())
    assert quantizer.lower == 0
