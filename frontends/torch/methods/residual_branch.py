"""A light float branch beside a binary block, which adds what the block's binary layers lose.

References:
    Ye, Zhang, Wang, "Distillation Guided Residual Learning for Binary Convolutional Neural Networks" (DGRL), arXiv
    2007.05223.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import BinaryConv2d


class SqueezeInteraction(nn.Sequential):
    """A float bottleneck: 1x1 to fewer channels (squeeze), 3x3 between these (interaction), and 1x1 to all channels.

    A batch norm follows each convolution, and a ReLU the first two. The last batch norm starts with factors 0, so that
    a new branch adds nothing. With the default ratio the branch has an eighth of the parameters of a 3x3 convolution
    between as many channels.

    The paper's abstract names the structure and its cost (a tenth of the parameters); the layers are ours.

    Args:
        in_channels, out_channels: Channels of input and output.
        stride: Of the 3x3 convolution.
        ratio: By how much the input's channels are squeezed; at least one remains.

    Shapes:
        float32 [N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)].

    Raises:
        ArgumentError: If the ratio is below 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int | tuple[int, int] = 1, ratio: float = 4
    ) -> None:
        if not ratio >= 1:
            raise ArgumentError(f"the ratio by which channels are squeezed must be 1 or more, but is {ratio}")
        squeezed = max(1, round(in_channels / ratio))
        super().__init__(
            nn.Conv2d(in_channels, squeezed, 1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(),
            nn.Conv2d(squeezed, squeezed, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(),
            nn.Conv2d(squeezed, out_channels, 1, bias=False),
            last := nn.BatchNorm2d(out_channels),
        )
        nn.init.zeros_(last.weight)


class BranchedBlock(nn.Module):
    """``block(x) + branch(x)``.

    Args:
        block, branch: Modules whose outputs have the same shape.
    """

    def __init__(self, block: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.block, self.branch = block, branch

    def forward(self, x: Tensor) -> Tensor:
        """Adds the two."""
        return self.block(x) + self.branch(x)


def add_branches_(model: nn.Module, blocks: Iterable[str], ratio: float = 4) -> nn.Module:
    """Puts a SqueezeInteraction branch beside blocks of a model, in place.

    The model computes the same as before until the branches are trained. Make the optimiser afterwards. A block keeps
    its name, and is then a BranchedBlock.

    Args:
        model: Any module.
        blocks: Names of modules with binary convolutions one behind the other; channels and stride of the branch are
            those of the first and last. An example is ``"layers.0.1"`` of a ``resnet``.
        ratio: Same as in SqueezeInteraction.

    Returns:
        The model.

    Raises:
        ArgumentError: If a name is missing, or its module has no binary convolution or has a branch.
    """
    for name in blocks:
        if not name or name not in dict(model.named_modules()):
            raise ArgumentError(f"the model has no module {name!r} beside which a branch could be")
        block = model.get_submodule(name)
        convolutions = [module for module in block.modules() if isinstance(module, BinaryConv2d)]
        if not convolutions:
            raise ArgumentError(f"{name!r} is no binary block: it has no BinaryConv2d")
        if any(isinstance(module, BranchedBlock) for module in block.modules()):
            raise ArgumentError(f"{name!r} has a branch already")
        vertical, horizontal = (math.prod(layer.stride[axis] for layer in convolutions) for axis in (0, 1))
        branch = SqueezeInteraction(
            convolutions[0].in_channels, convolutions[-1].out_channels, (vertical, horizontal), ratio
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, BranchedBlock(block, branch.to(convolutions[0].weight)))
    return model
