"""Float networks as people use them: every operator has a kernel, and the results are those of onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import sbnn_tvm
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "vit", "vit by einsum", "vit by torch's attention", "mobilenet", "efficientnet", "unet", "unet nearest",
    "unet bilinear", "unet cubic", "unet shuffle", "sound unet", "sound decoder", "text detector", "convnext", "gated",
    "super-resolution", "resnet",
)  # fmt: skip


def networks() -> dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]]:
    """Small versions of the benchmark's networks, and the shapes of their inputs."""
    import float_models as models

    image = (1, 3, 32, 32)
    vit = {"size": 32, "width": 48, "depth": 1, "classes": 10}
    return {
        "vit": (lambda: models.VisionTransformer(**vit), image),
        "vit by einsum": (
            lambda: models.VisionTransformer(**vit, norm=models.RmsNorm, act="tanh", written="einsum"),
            image,
        ),
        "vit by torch's attention": (lambda: models.VisionTransformer(**vit, written="fused"), image),
        "mobilenet": (lambda: models.MobileNetV3(False, 10), image),
        "efficientnet": (lambda: models.EfficientNetB0(10), image),
        "unet": (lambda: models.UNet(8, 3), image),
        "unet nearest": (lambda: models.UNet(8, 2, "nearest"), image),
        "unet bilinear": (lambda: models.UNet(8, 2, "bilinear"), image),
        "unet cubic": (lambda: models.UNet(8, 2, "bicubic"), image),
        "unet shuffle": (lambda: models.UNet(8, 2, "shuffle"), image),
        "sound unet": (lambda: models.AudioUNet(8, 2), (1, 1, 256)),
        "sound decoder": (lambda: models.SoundDecoder(32, (4, 3)), (1, 64, 9)),
        "text detector": (lambda: models.TextDetector(False), (1, 3, 64, 64)),
        "convnext": (lambda: models.ConvNeXt((16, 32), (1, 1)), image),
        "gated": (lambda: models.GatedBlock(32, 2), (2, 7, 32)),
        "super-resolution": (lambda: models.SuperResolution(2), (1, 3, 12, 12)),
        "resnet": (lambda: models.SmallResNet(1), image),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from float_models import exported

    make, shape = networks()[name]
    torch.manual_seed(0)
    sbnn_tvm.compile(exported(make(), shape), strict=True).verify(samples=1)
