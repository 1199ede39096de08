"""Float networks as people use them, in their usual operators and sizes, with random weights.

They need torch alone. Each class is a compact version of a published network with the same layers in the same order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

Layers = nn.Sequential


def exported(module: nn.Module, shape: Sequence[int], seed: int = 0, dynamo: bool = False) -> onnx.ModelProto:
    """A module as ONNX, after its batch norms and layer norms got random statistics and weights.

    Args:
        module: The network.
        shape: Shape of its input.
        seed: Seed of the random numbers. That of its weights is the caller's.
        dynamo: Which of torch's exporters writes the file.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d) and each.running_mean is not None:
                each.running_mean.normal_(0, 0.1)
                each.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                each.weight.uniform_(0.5, 1.5)
                each.bias.normal_(0, 0.1)
    file = io.BytesIO()
    sample = (torch.randn(*shape),)
    torch.onnx.export(module.eval(), sample, file, opset_version=18 if dynamo else 17, dynamo=dynamo, verbose=False)
    return onnx.load_from_string(file.getvalue())


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> Layers:
    """A convolution that keeps the size, with batch norm and activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return Layers(layer, nn.BatchNorm2d(outputs), *([] if act is None else [act]))


class SqueezeExcitation(nn.Module):
    """Channels times a gate that depends on their means."""

    def __init__(self, channels: int, hidden: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.gate = Layers(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), act, nn.Conv2d(hidden, channels, 1), gate
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's and V3's and EfficientNet's block: wide, depthwise, squeeze-and-excitation, narrow."""

    def __init__(
        self,
        inputs: int,
        wide: int,
        outputs: int,
        kernel: int,
        stride: int,
        act: type[nn.Module],
        squeeze: nn.Module | None,
    ) -> None:
        super().__init__()
        first = [conv(inputs, wide, 1, act=act())] if wide != inputs else []
        depthwise = conv(wide, wide, kernel, stride, wide, act())
        self.layers = Layers(*first, depthwise, *([] if squeeze is None else [squeeze]), conv(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the block's outputs."""
        y = self.layers(x)
        return x + y if self.residual else y


_LARGE = (
    # kernel, wide, outputs, squeeze, hard-swish, stride
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip
_SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)  # fmt: skip


def _divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 0.9 of the number."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class MobileNetV3(nn.Module):
    """MobileNetV3: https://arxiv.org/abs/1905.02244."""

    def __init__(self, large: bool = True, classes: int = 1000) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 16, 3, 2, act=nn.Hardswish())])
        channels, self.channels = 16, []
        for kernel, wide, outputs, squeezes, swish, stride in _LARGE if large else _SMALL:
            act = nn.Hardswish if swish else nn.ReLU
            hidden = _divisible(wide / 4)
            squeeze = SqueezeExcitation(wide, hidden, nn.ReLU(), nn.Hardsigmoid()) if squeezes else None
            if stride == 2:
                self.channels.append(channels)
                self.stages.append(Layers())
            self.stages[-1].append(InvertedResidual(channels, wide, outputs, kernel, stride, act, squeeze))
            channels = outputs
        last = 960 if large else 576
        self.stages[-1].append(conv(channels, last, 1, act=nn.Hardswish()))
        self.channels.append(last)
        wide = 1280 if large else 1024
        self.head = Layers(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, wide), nn.Hardswish(), nn.Linear(wide, classes)
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps after each stage."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to scores."""
        return self.head(self.features(x)[-1])


class EfficientNetB0(nn.Module):
    """EfficientNet-B0: https://arxiv.org/abs/1905.11946."""

    STAGES = (
        # ratio, kernel, stride, outputs, blocks
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )  # fmt: skip

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.SiLU())]
        channels = 32
        for ratio, kernel, first, outputs, blocks in self.STAGES:
            for block in range(blocks):
                squeeze = SqueezeExcitation(channels * ratio, max(1, channels // 4), nn.SiLU(), nn.Sigmoid())
                stride = first if block == 0 else 1
                layers.append(InvertedResidual(channels, channels * ratio, outputs, kernel, stride, nn.SiLU, squeeze))
                channels = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
        self.layers = Layers(*layers, conv(channels, 1280, 1, act=nn.SiLU()), *head)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to scores."""
        return self.layers(x)


class Attention(nn.Module):
    """Attention of several heads.

    Args:
        width, heads: Of the tokens.
        written: How it is written: ``"matmul"`` as timm does, ``"einsum"``, or ``"fused"`` by torch's own function.
    """

    def __init__(self, width: int, heads: int, written: str = "matmul") -> None:
        super().__init__()
        self.heads, self.written = heads, written
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] to the same."""
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        scale = (width // self.heads) ** -0.5
        if self.written == "einsum":
            q, k, v = parts.unbind(2)
            weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) * scale).softmax(-1)
            return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, tokens, width))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if self.written == "fused":
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class EncoderBlock(nn.Module):
    """A block of a transformer."""

    def __init__(self, width: int, heads: int, norm: type[nn.Module], act: nn.Module, written: str) -> None:
        super().__init__()
        self.attention = Layers(norm(width), Attention(width, heads, written))
        self.dense = Layers(norm(width), nn.Linear(width, 4 * width), act, nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] to the same."""
        x = x + self.attention(x)
        return x + self.dense(x)


class VisionTransformer(nn.Module):
    """ViT: https://arxiv.org/abs/2010.11929; by default ViT-tiny."""

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        norm: type[nn.Module] = nn.LayerNorm,
        act: str = "none",
        written: str = "matmul",
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        blocks = [EncoderBlock(width, heads, norm, nn.GELU(act), written) for _ in range(depth)]
        self.blocks, self.norm, self.head = Layers(*blocks), norm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to scores."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class UNet(nn.Module):
    """U-Net: https://arxiv.org/abs/1505.04597, with batch norm.

    Args:
        width: Channels of the first level.
        levels: Number of levels.
        up: ``"transposed"``, or the mode of an interpolation.
    """

    def __init__(self, width: int = 32, levels: int = 4, up: str = "transposed", classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(levels)]
        pairs = list(zip([3, *widths], widths, strict=False))
        self.down = nn.ModuleList([self._level(inputs, outputs) for inputs, outputs in pairs])
        ups = [(2 * w, w) for w in widths[-2::-1]]
        self.up = nn.ModuleList([self._up(inputs, outputs, up) for inputs, outputs in ups])
        self.merge = nn.ModuleList([self._level(2 * outputs, outputs) for _, outputs in ups])
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _level(inputs: int, outputs: int) -> Layers:
        return Layers(conv(inputs, outputs, act=nn.ReLU()), conv(outputs, outputs, act=nn.ReLU()))

    @staticmethod
    def _up(inputs: int, outputs: int, up: str) -> nn.Module:
        if up == "transposed":
            return nn.ConvTranspose2d(inputs, outputs, 2, 2)
        if up == "shuffle":
            return Layers(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))
        corners = None if up == "nearest" else False
        return Layers(nn.Upsample(scale_factor=2, mode=up, align_corners=corners), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to a map of scores."""
        maps = []
        for level, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if level else x)
            maps.append(x)
        for up, merge, beside in zip(self.up, self.merge, maps[-2::-1], strict=True):
            x = merge(torch.cat([beside, up(x)], 1))
        return self.head(x)


class AudioUNet(nn.Module):
    """Demucs: https://arxiv.org/abs/1911.13254, without the recurrent layer in the middle."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for level in range(levels):
            outputs = width << level
            down = Layers(
                nn.Conv1d(channels, outputs, 8, 4, 2), nn.ReLU(), nn.Conv1d(outputs, 2 * outputs, 1), nn.GLU(1)
            )
            up = Layers(
                nn.Conv1d(outputs, 2 * outputs, 3, 1, 1), nn.GLU(1), nn.ConvTranspose1d(outputs, channels, 8, 4, 2)
            )
            self.down.append(down)
            self.up.insert(0, up if level == 0 else up.append(nn.ReLU()))
            channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Sound [N, 1, samples] to the same."""
        maps = []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for layer in self.up:
            x = layer(x + maps.pop())
        return x


class SoundDecoder(nn.Module):
    """The decoder of a neural codec, as in SEANet: ELU, dilated residual blocks, transposed convolutions."""

    def __init__(self, width: int = 128, strides: Sequence[int] = (8, 5, 4, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(64, width, 7, padding=3)]
        for stride in strides:
            layers += [
                nn.ELU(),
                nn.ConvTranspose1d(width, width // 2, 2 * stride, stride, (stride + 1) // 2, stride % 2),
                _Residual(width // 2),
            ]
            width //= 2
        self.layers = Layers(*layers, nn.ELU(), nn.Conv1d(width, 1, 7, padding=3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Codes [N, 64, T] to sound."""
        return self.layers(x)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        first, last = nn.Conv1d(channels, narrow, 3, padding=3, dilation=3), nn.Conv1d(narrow, channels, 1)
        self.layers = Layers(nn.ELU(), first, nn.ELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TextDetector(nn.Module):
    """DB: https://arxiv.org/abs/1911.08947, on MobileNetV3, as PaddleOCR's detectors are."""

    def __init__(self, large: bool = True, width: int = 96) -> None:
        super().__init__()
        self.backbone = MobileNetV3(large)
        channels = self.backbone.channels[1:]
        self.lateral = nn.ModuleList([nn.Conv2d(c, width, 1, bias=False) for c in channels])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width // 4, 3, padding=1, bias=False) for _ in channels])
        narrow = width // 4
        self.head = Layers(
            conv(width, narrow, act=nn.ReLU()),
            nn.ConvTranspose2d(narrow, narrow, 2, 2),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.ConvTranspose2d(narrow, 1, 2, 2),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to a map of probabilities."""
        maps = [layer(each) for layer, each in zip(self.lateral, self.backbone.features(x)[1:], strict=True)]
        for below in range(len(maps) - 2, -1, -1):
            maps[below] = maps[below] + functional.interpolate(maps[below + 1], scale_factor=2, mode="nearest")
        smooth = [layer(each) for layer, each in zip(self.smooth, maps, strict=True)]
        same = [
            functional.interpolate(y, scale_factor=1 << i, mode="nearest") if i else y for i, y in enumerate(smooth)
        ]
        return self.head(torch.cat(same[::-1], 1))


class ConvNeXt(nn.Module):
    """ConvNeXt: https://arxiv.org/abs/2201.03545; by default ConvNeXt-pico."""

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (2, 2, 6, 2)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), _ImageNorm(widths[0])]
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if level:
                layers += [_ImageNorm(widths[level - 1]), nn.Conv2d(widths[level - 1], width, 2, 2)]
            layers += [_NextBlock(width) for _ in range(depth)]
        self.layers, self.norm, self.head = Layers(*layers), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to scores."""
        return self.head(self.norm(self.layers(x).mean((2, 3))))


class _ImageNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _NextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.dense = Layers(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dense(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (y * self.scale).permute(0, 3, 1, 2)


class RmsNorm(nn.Module):
    """RMS norm in the operators that language models write it in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] to the same."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class GatedBlock(nn.Module):
    """A block as in language models: RMS norm, attention, and a dense layer with a SiLU gate."""

    def __init__(self, width: int, heads: int, written: str = "matmul") -> None:
        super().__init__()
        self.first, self.second = RmsNorm(width), RmsNorm(width)
        self.attention = Attention(width, heads, written)
        hidden = 8 * width // 3
        self.gate, self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] to the same."""
        x = x + self.attention(self.first(x))
        y = self.second(x)
        return x + self.fall(functional.silu(self.gate(y)) * self.rise(y))


class SuperResolution(nn.Module):
    """ESPCN: https://arxiv.org/abs/1609.05158, beside a cubic interpolation."""

    def __init__(self, times: int = 3) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()]
        self.layers = Layers(*layers, nn.Conv2d(32, 3 * times * times, 3, padding=1), nn.PixelShuffle(times))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to larger ones."""
        return self.layers(x) + functional.interpolate(x, scale_factor=self.times, mode="bicubic")


class SmallResNet(nn.Module):
    """ResNet-20 for images of 32x32, with shortcuts that slice and pad: https://arxiv.org/abs/1512.03385."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 16, act=nn.ReLU())]
        for level, width in enumerate((16, 32, 64)):
            layers += [_PaddedBlock(width, level > 0 and block == 0) for block in range(blocks)]
        self.layers = Layers(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores."""
        return self.layers(x)


class _PaddedBlock(nn.Module):
    def __init__(self, width: int, halves: bool) -> None:
        super().__init__()
        inputs = width // 2 if halves else width
        self.layers = Layers(conv(inputs, width, 3, 2 if halves else 1, act=nn.ReLU()), conv(width, width))
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        y, quarter = self.layers(x), x.shape[1] // 2
        if self.halves:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(x + y)
