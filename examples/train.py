"""Train a binary network on images on this machine, export it, compile it.

    python examples/train.py --data digits --model vgg --width 32 --out out/digits
    python examples/train.py --data cifar10 --root data --model resnet --method sbnn-cifar10 --expected 0.05 \\
        --epochs 500 --batch 512 --rate 1e-3 --out out/cifar
    python examples/train.py --data mnist1d --model curves --width 64 --epochs 40 --out out/mnist1d
    python examples/train.py --model resnet --eight-bit learned --stream-bits 16 --out out/eight
    torchrun --nproc_per_node 4 examples/train.py --data folder --root imagenet --model reactnet --out out/imagenet

The loop uses Adam with a cosine schedule of the learning rate, optional mixup and label smoothing, and clamps the
latent weights after each step. After each epoch a new checkpoint replaces the previous one in one step. ``--resume``
continues from it; on a CPU the final weights then equal those of an uninterrupted training. Under torchrun the
processes share each batch (DistributedDataParallel). ``--accelerate`` leaves devices and precision to Hugging Face's
accelerate, which must be installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from curves import curve_network
from rich.console import Console
from rich.progress import track
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import sbnn_tvm
from sbnn_tvm.atomic_file import replacing
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import (
    RBONN,
    SBNN_CIFAR10,
    SBNN_CIFAR100,
    Adaptive,
    AdaptiveBinarize,
    Binarize,
    BinarizeAboveMean,
    EightBit,
    ExpectedConnections,
    KurtosisPenalty,
    Magnitudes,
    SBNNRecipe,
    ScaledSigns,
    WeightDomain,
    backtrack_,
    bcdnet,
    clamp_latent_,
    group_mobilenet,
    parameter_groups,
    quicknet,
    reactnet,
    resnet,
    resnet18,
    set_progress,
    vgg_small,
)

console = Console(highlight=False)

Penalty = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """The choices of a method: weights, gradients, activations.

    Attributes:
        domain: The two values of the weights.
        weight_estimator: The gradient of their signs.
        activation: Makes a module that replaces every Binarize; None keeps them.
        clamp: The bound of latent weights.
        recipe: SBNN's gradients and thresholds of the activations, its mixup, and its gamma for each expected share.
        after_step: Called with the network after every step.
    """

    domain: WeightDomain = field(default_factory=ScaledSigns)
    weight_estimator: str = "clip"
    activation: Callable[[], nn.Module] | None = None
    clamp: float = 1.0
    recipe: SBNNRecipe | None = None
    after_step: Callable[[nn.Module], None] | None = None

    @staticmethod
    def of(recipe: SBNNRecipe) -> Method:
        """The method of a recipe."""
        return Method(recipe.domain, recipe.weight_estimator, clamp=recipe.clamp, recipe=recipe)


METHODS = {
    "signs": Method(),
    "sbnn-cifar10": Method.of(SBNN_CIFAR10),
    "sbnn-cifar100": Method.of(SBNN_CIFAR100),
    "siman": Method(Magnitudes(), activation=BinarizeAboveMean),
    "adabin": Method(Adaptive(), "ede", AdaptiveBinarize),
    "rbonn": Method(RBONN(), clamp=math.inf, after_step=backtrack_),
}

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg": lambda width, **rest: vgg_small(stages=[(n * width, n * width) for n in (1, 2, 4)], **rest),
    "resnet": lambda width, **rest: resnet(widths=[n * width for n in (1, 2, 4)], blocks=(4, 4, 4), **rest),
    "resnet18": lambda width, **rest: resnet18(**rest),
    "reactnet": lambda width, **rest: reactnet(width=width, **rest),
    "quicknet": lambda width, **rest: quicknet(widths=[n * width for n in (1, 2, 4, 8)], **rest),
    "bcdnet": lambda width, **rest: bcdnet(width=width, **rest),
    "group_mobilenet": lambda width, **rest: group_mobilenet(width=width, **rest),
    "curves": curve_network,
}


@dataclass(frozen=True)
class Settings:
    """Everything that the result of a training depends on; a checkpoint belongs to one Settings.

    Attributes:
        data, root, size: The images (datasets); size is for folders.
        model, width: The network, and the channels of its first stage.
        method: A key of METHODS.
        epochs, batch, rate: For Adam; the batch is that of all processes together.
        decay: Weight decay of all parameters but the latent weights.
        mixup: Alpha of the Beta distribution by which images are mixed; 0 does not mix, None does as the method's
            recipe, if it has one.
        smoothing: Label smoothing.
        expected, gamma: The share of +1 to reach (ExpectedConnections), 0 for none; and the penalty's share of the
            loss, None for that of the method's recipe.
        kurtosis: The weight of KurtosisPenalty; 0 for none.
        eight_bit: The layers that are not binary have 8 bits, with "learned" or "observed" ranges of their inputs; None
            leaves them float.
        stream_bits: The values on shortcuts have 8 or 16 bits; None leaves them float.
        seed: Seed of all random numbers.
    """

    data: str = "digits"
    root: str | None = None
    size: int | None = None
    model: str = "vgg"
    width: int = 32
    method: str = "signs"
    epochs: int = 20
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.0
    mixup: float | None = None
    smoothing: float = 0.0
    expected: float = 0.0
    gamma: float | None = None
    kurtosis: float = 0.0
    eight_bit: str | None = None
    stream_bits: int | None = None
    seed: int = 0


def build(settings: Settings, data: datasets.Data) -> nn.Module:
    """The network, with the method's weights and activations."""
    method = METHODS[settings.method]
    channels, height, size = data.shape
    if (height == 1) != (settings.model == "curves"):
        other = "curves" if height == 1 else "vgg, for example"
        raise SystemExit(f"--model {settings.model} is not for {height}x{size} pixels: pass --model {other}")
    options: dict[str, Any] = {}
    if method.recipe is not None:
        options = {"estimator": method.recipe.estimator, "learn_threshold": method.recipe.learn_threshold}
    if settings.eight_bit is not None:
        options["eight_bit"] = EightBit(settings.eight_bit)  # type: ignore[arg-type]
    if settings.stream_bits is not None:
        options["stream_bits"] = settings.stream_bits
    if settings.model == "curves" and (settings.eight_bit or settings.stream_bits):
        raise SystemExit("--model curves has no layers or shortcuts of 8 bits: leave out --eight-bit and --stream-bits")
    torch.manual_seed(settings.seed)
    model = MODELS[settings.model](
        settings.width,
        classes=data.classes,
        in_channels=channels,
        image_size=size,
        domain=method.domain,
        weight_estimator=method.weight_estimator,
        **options,
    )
    if method.activation is not None:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, Binarize):
                    setattr(parent, name, method.activation())
    return model


def penalties(settings: Settings, model: nn.Module) -> list[Penalty]:
    """The penalties to add to the loss."""
    found: list[Penalty] = []
    if settings.expected:
        recipe, gamma = METHODS[settings.method].recipe, settings.gamma
        if gamma is None and recipe is None:
            raise SystemExit(f"--expected needs --gamma, since method {settings.method} has no recipe for it")
        if gamma is None and recipe is not None:
            gamma = recipe.gamma(settings.expected)
        found.append(ExpectedConnections(model, settings.expected, gamma=gamma))
    if settings.kurtosis:
        found.append(KurtosisPenalty(model, weight=settings.kurtosis))
    return found


class Alone:
    """Training in one process; the base class of training in several."""

    rank, world = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model and optimiser to train with, from those that checkpoints keep."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients."""
        loss.backward()

    def wait(self) -> None:
        """Waits for the other processes."""

    def close(self) -> None:
        """Releases resources at the end."""


class Distributed(Alone):
    """One of the processes that torchrun started."""

    def __init__(self) -> None:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model with gradients averaged over the processes."""
        return DistributedDataParallel(model), optimizer

    def wait(self) -> None:
        """Waits for the other processes."""
        distributed.barrier()

    def close(self) -> None:
        """Ends the process group; otherwise torch warns."""
        distributed.destroy_process_group()


class Accelerated(Alone):
    """One process of Hugging Face's accelerate, which has its own configuration."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise SystemExit("--accelerate needs the package accelerate: pip install accelerate") from None
        self.accelerator = Accelerator()
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model and optimiser as accelerate prepares them."""
        return self.accelerator.prepare(model, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients, with the loss scaled if the precision needs it."""
        self.accelerator.backward(loss)

    def wait(self) -> None:
        """Waits for the other processes."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Ends accelerate's process group."""
        self.accelerator.end_training()


def train(
    settings: Settings, data: datasets.Data, out: Path, process: Alone, *, resume: bool = False, workers: int = 0
) -> nn.Module:
    """Trains, and writes a checkpoint after each epoch; returns the network in eval mode."""
    checkpoint, method = out / "checkpoint.pt", METHODS[settings.method]
    model = build(settings, data).to(process.device)
    optimizer = torch.optim.Adam(parameter_groups(model, settings.decay), lr=settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    done = load(checkpoint, settings, model, optimizer, schedule, process.device) if resume else 0
    if done and process.rank == 0:
        console.print(f"continuing after epoch {done}")
    penalty = penalties(settings, model)
    wrapped, stepping = process.wrap(model, optimizer)
    sampler = DistributedSampler(data.train, process.world, process.rank, seed=settings.seed)  # type: ignore[var-annotated]
    loader = DataLoader(data.train, settings.batch // process.world, sampler=sampler, num_workers=workers)
    for epoch in range(done, settings.epochs):
        # Seeded per epoch, so that a restart draws the same random numbers.
        torch.manual_seed((settings.seed * 1_000_003 + epoch) * 1024 + process.rank)
        data.train.epoch = epoch
        sampler.set_epoch(epoch)
        set_progress(model, epoch / settings.epochs)
        wrapped.train()
        total = 0.0
        for images, labels in track(
            loader, f"epoch {epoch + 1}/{settings.epochs}", console=console, transient=True, disable=process.rank > 0
        ):
            loss = mixed_loss(wrapped, images.to(process.device), labels.to(process.device), settings)
            total += loss.item() * len(images)
            loss = loss + sum(each(loss) for each in penalty)
            stepping.zero_grad()
            process.backward(loss)
            stepping.step()
            clamp_latent_(model, method.clamp)
            if method.after_step is not None:
                method.after_step(model)
        schedule.step()
        if process.rank == 0:
            right = accuracy(model, data.test, settings.batch, process.device, workers)
            console.print(f"epoch {epoch + 1}: loss {total / len(sampler):.4f}, accuracy {right:.2%}")
            save(checkpoint, settings, model, optimizer, schedule, epoch + 1)
        process.wait()
    set_progress(model, 1.0)
    return model.eval()


def mixed_loss(model: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Cross-entropy, with mixup of the images if the settings or the method's recipe ask for it.

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412.
    """
    mixup, recipe = settings.mixup, METHODS[settings.method].recipe
    if mixup is None:
        mixup = 0.0 if recipe is None else recipe.mixup
    if not mixup:
        return functional.cross_entropy(model(images), labels, label_smoothing=settings.smoothing)
    alpha = torch.tensor(mixup)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(images)).to(images.device)
    scores = model(share * images + (1 - share) * images[other])
    return share * functional.cross_entropy(scores, labels, label_smoothing=settings.smoothing) + (
        1 - share
    ) * functional.cross_entropy(scores, labels[other], label_smoothing=settings.smoothing)


def accuracy(model: nn.Module, images: datasets.Images, batch: int, device: torch.device, workers: int = 0) -> float:
    """The share of correctly classified images."""
    model.eval()
    right = 0
    with torch.no_grad():
        for x, labels in DataLoader(images, batch, num_workers=workers):
            right += int((model(x.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(images)


def save(
    path: Path,
    settings: Settings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    done: int,
) -> None:
    """Writes a checkpoint in one step: an existing one stays whole if that fails."""
    record = {
        "settings": json.dumps(asdict(settings)),
        "epoch": done,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    with replacing(path, ModelError) as draft:
        torch.save(record, draft)


def load(
    path: Path,
    settings: Settings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
) -> int:
    """Continues from a checkpoint; returns the number of finished epochs.

    Raises:
        SystemExit: If there is no checkpoint, or it belongs to other settings.
    """
    if not path.exists():
        raise SystemExit(f"there is no checkpoint {path} to resume from")
    record: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    theirs, ours = json.loads(record["settings"]), asdict(settings)
    if different := [name for name in ours if theirs.get(name) != ours[name]]:
        name = different[0]
        raise SystemExit(f"{path} was trained with {name}={theirs.get(name)!r}, but now it is {ours[name]!r}")
    model.load_state_dict(record["model"])
    optimizer.load_state_dict(record["optimizer"])
    schedule.load_state_dict(record["schedule"])
    return int(record["epoch"])


def deploy(model: nn.Module, out: Path, target: str) -> None:
    """Writes the ONNX file and the library, and prints the report."""
    model = model.cpu().eval()
    sbnn_tvm.export_onnx(model, out / "model.onnx")
    module = sbnn_tvm.compile(model, target)
    console.print(module.report)
    console.print(str(module.verify()))
    module.export(out / "model.so")
    console.print(f"wrote {out / 'model.onnx'} and {out / 'model.so'}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line: every setting, and options that do not change the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices: dict[str, Collection[Any]] = {"data": datasets.DATASETS, "model": MODELS, "method": METHODS}
    choices |= {"eight_bit": ("learned", "observed"), "stream_bits": (8, 16)}
    types = {"root": str, "size": int, "mixup": float, "gamma": float, "eight_bit": str, "stream_bits": int}
    for name, default in asdict(Settings()).items():
        kind = types.get(name, type(default))
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=default, choices=choices.get(name), help=f"{default!r}")
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="folder of the checkpoint and the results")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--accelerate", action="store_true", help="let accelerate place and wrap the model")
    parser.add_argument("--target", default="native", help="target of the library; empty to compile nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and compile the result."""
    arguments = parse(argv)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(Settings())})
    out: Path = arguments.out
    if not arguments.resume and (out / "checkpoint.pt").exists():
        raise SystemExit(f"{out} holds a checkpoint already: pass --resume to continue from it, or another --out")
    try:
        data = datasets.DATASETS[settings.data](settings.root, settings.size, settings.seed)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    out.mkdir(parents=True, exist_ok=True)
    process = Accelerated() if arguments.accelerate else Distributed() if "RANK" in os.environ else Alone()
    try:
        model = train(settings, data, out, process, resume=arguments.resume, workers=arguments.workers)
        if process.rank == 0 and arguments.target:
            deploy(model, out, arguments.target)
    finally:
        process.close()


if __name__ == "__main__":
    try:
        main()
    except sbnn_tvm.errors.SbnnError as error:
        sys.exit(str(error))
