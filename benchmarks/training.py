"""How long does a training step of a binary convolution take, compared with a float one?

Run ``python benchmarks/training.py``. A step is the forward pass, the backward pass (gradients of weights and inputs)
and plain SGD, on random numbers, on one thread. All layers of a shape take turns. The table gives the time of nn.Conv2d
and the ratios of the others to it, of the fastest and of the median step. Times are CPU times of the thread, which
other processes disturb less than the clock.

The exit code is 1 if a ratio of fastest steps is above 1.5.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from command_line import console
from records import Machine
from rich.table import Table
from torch import nn

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, ScaledSigns, TwoValues

BAR = 1.5


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution with as many channels out as in."""

    channels: int
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size} {self.channels}, batch {self.batch}"

    def layers(self) -> dict[str, nn.Module]:
        """nn.Conv2d first."""
        c = self.channels
        layers: dict[str, nn.Module] = {"float": nn.Conv2d(c, c, 3, padding=1, bias=False)}
        for domain in (ScaledSigns(), TwoValues()):
            name = type(domain).__name__
            layers[name] = BinaryConv2d(c, c, 3, padding=1, domain=domain)
            layers[f"{name}, Binarize"] = BinaryConv2d(c, c, 3, padding=1, domain=domain, binarize=Binarize())
            learned = Binarize(c, learned=True)
            layers[f"{name}, learned"] = BinaryConv2d(c, c, 3, padding=1, domain=domain, binarize=learned)
        return layers


SHAPES = (Shape(64, 28, 64), Shape(128, 14, 64), Shape(256, 14, 32))


def training_step(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], None]:
    """A step with the gradient ``grad`` of the layer's result."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        x.grad = None
        layer(x).backward(grad)
        optimizer.step()

    return run


def seconds(shape: Shape, steps: int) -> dict[str, list[float]]:
    """CPU times of the steps of each layer."""
    x = torch.randn(shape.batch, shape.channels, shape.size, shape.size, requires_grad=True)
    runs = {name: training_step(layer, x, torch.randn_like(x)) for name, layer in shape.layers().items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(steps + 1):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            if number:  # the first one allocates
                times[name].append(time.thread_time() - start)
    return times


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="steps of each layer")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = list(SHAPES[0].layers())
    table = Table("layer", "float ms", *names[1:], title=f"time of a training step / nn.Conv2d's, {Machine()}")
    worst = 0.0
    for shape in SHAPES:
        times = seconds(shape, steps)
        fastest = {name: min(each) for name, each in times.items()}
        medians = {name: statistics.median(each) for name, each in times.items()}
        ratios = [(fastest[name] / fastest["float"], medians[name] / medians["float"]) for name in names[1:]]
        worst = max(worst, *(ratio for ratio, _ in ratios))
        table.add_row(str(shape), f"{fastest['float'] * 1e3:.0f}", *(f"{low:.2f} ({mid:.2f})" for low, mid in ratios))
    console().print(table)
    if worst > BAR:
        raise SystemExit(f"a step takes {worst:.2f} times that of nn.Conv2d, more than {BAR}")


if __name__ == "__main__":
    main()
