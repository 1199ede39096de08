"""Networks with random weights, to try the compiler without a trained network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sbnn_tvm.errors import ModelError

from ..layers.modules import BinaryLayer
from .resnet import resnet
from .vgg import vgg_small

ARCHITECTURES = ("vgg", "resnet")


def random_network(
    arch: str = "vgg", input_shape: Sequence[int] = (1, 3, 32, 32), *, density: float = 0.5, seed: int = 0
) -> nn.Module:
    """A small binary network with random weights, whose batch norms have the statistics of random images.

    Args:
        arch: One of ARCHITECTURES: a chain with poolings, or residual blocks.
        input_shape: [N, C, H, W] of square images.
        density: Share of the binary weights that have the larger of their two values.
        seed: Seed of all random numbers.

    Returns:
        The network in eval mode; its ``example_input_array`` has the shape ``input_shape``.

    Raises:
        ModelError: If the architecture is unknown, or does not fit the shape.
    """
    if arch not in ARCHITECTURES:
        raise ModelError(f"there is no architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
    if len(input_shape) != 4 or input_shape[2] != input_shape[3] or input_shape[2] < 8 or min(input_shape) < 1:
        raise ModelError(
            f"the demo networks take square images of 8x8 or more, of shape N,C,H,W as in 1,3,32,32, "
            f"but got {','.join(map(str, input_shape))}"
        )
    if not 0 < density < 1:
        raise ModelError(f"the density must be between 0 and 1, but is {density}")
    _, channels, size, _ = input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module
        if arch == "vgg":
            stages = ((32, 64), (64, 128), (128, 128))
            model = vgg_small(in_channels=channels, image_size=size, stages=stages, hidden=(256,))
        else:
            model = resnet(in_channels=channels, image_size=size, widths=(32, 64, 128), blocks=(2, 2, 2), prelu=True)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, BinaryLayer):
                    module.weight.sub_(module.weight.quantile(1 - density))
            model.train()
            for _ in range(3):
                model(torch.randn(8, channels, size, size))
    model.example_input_array = torch.zeros(*input_shape)
    return model.eval()
