"""The methods that methods.py compares, each with the few lines that train it.

All methods train the network of examples/mnist.py on 28x28 MNIST, by its recipe and with the same number of
epochs. The float32 network of the same seed is trained first, and kept. Every other network starts from its weights,
unless its text says otherwise, and has it as a teacher.

To add a method, append an entry to ``METHODS``: a function that takes a ``Start`` and returns a trained model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mnist
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_loop import Recipe, parameter_groups, train

from sbnn_tvm.frontends.torch import (
    APB,
    EWGS,
    RBONN,
    Adaptive,
    AdaptiveBinarize,
    Binarize,
    BinarizeAboveMean,
    BinaryConfig,
    BinaryConv2d,
    BinReLU,
    BlockDistillation,
    ContrastiveLoss,
    DistributionMimicking,
    DoReFa,
    FreezeAPB,
    KurtosisPenalty,
    Magnitudes,
    Maxout,
    PartialBinarization,
    ScaledSigns,
    SelectedKernels,
    SubBit,
    Symmetric,
    Twin,
    TwoBits,
    WeightDomain,
    add_branches_,
    apb_parameter_groups,
    backtrack_,
    quantize_,
    rbonn_parameter_groups,
    recalibrate_,
    search_partial_binarization,
)
from sbnn_tvm.frontends.torch.layers.modules import binary_layers
from sbnn_tvm.frontends.torch.networks.bcdnet import MLPBlock
from sbnn_tvm.frontends.torch.networks.config import NetworkConfig

MIXBIN_BUDGET = 0.52
"""As a share of the float network's multiply-accumulates, where a binary one counts 1/64."""
VALIDATION = 1000
"""Training images by which MixBin compares masks."""


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        folder: Keeps the float networks, one per seed.
        seed, epochs: Of every training.
    """

    folder: Path
    seed: int
    epochs: int

    def float_network(self) -> nn.Module:
        """The trained float32 network, which is the teacher of all others."""
        epochs = min(self.epochs * 2, mnist.FLOAT.epochs)
        path = self.folder / "starts" / f"float32-seed{self.seed}-epochs{epochs}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")  # another process may train the same network
            torch.save(mnist.train_float(self.seed, epochs).state_dict(), draft)
            draft.replace(path)
        model = common_network()
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()

    def network(self, layer: mnist.Layer, activation: Callable[[int], nn.Module] = nn.Identity) -> nn.Module:
        """A network with other layers in its body and the weights of the float network; the arguments of network."""
        torch.manual_seed(self.seed)
        model = mnist.network(layer, activation=activation)
        mnist.start_from_(model, self.float_network())
        for binary in binary_layers(model):
            binary.values = binary.domain.build(binary.latent())  # scales that fit these weights
        return model

    def tuned(self, model: nn.Module, **recipe: object) -> nn.Module:
        """Trains a network by the common recipe, with changes."""
        return mnist.tune(model, self.float_network(), replace(mnist.BINARY, epochs=self.epochs, **recipe), self.seed)


def thresholds(channels: int) -> nn.Module:
    """Signs above a learned threshold per channel."""
    return Binarize(channels, learned=True)


def layer(
    domain: WeightDomain, activation: Callable[[int], nn.Module] = thresholds, estimator: str = "clip", groups: int = 1
) -> mnist.Layer:
    """A 3x3 convolution with the given weights and activations."""
    return lambda inputs, outputs: BinaryConv2d(
        inputs,
        outputs,
        3,
        padding=1,
        groups=groups,
        domain=domain,
        estimator=estimator,
        binarize=activation(inputs),
    )


def rectified(made: mnist.Layer) -> mnist.Layer:
    """A layer after a ReLU, which the initial levels of EWGS are for."""
    return lambda inputs, outputs: nn.Sequential(nn.ReLU(), made(inputs, outputs))


def with_layer(made: mnist.Layer, start: Start) -> nn.Module:
    """Trains a network with other layers in its body."""
    return start.tuned(start.network(made))


def float32(start: Start) -> nn.Module:
    """The network that the others are compared with."""
    return start.float_network()


def sbnn(density: float, start: Start, symmetric: bool = False) -> nn.Module:
    """That share of each channel's weights has the rarer value; symmetric values have a fixed offset of 0."""
    return mnist.train_sparse(start.float_network(), density, symmetric=symmetric, seed=start.seed, epochs=start.epochs)


def adabin(start: Start) -> nn.Module:
    """Two values around the mean of a channel's weights, two learned values of the activations, and Maxout."""
    made = layer(Adaptive(), lambda channels: AdaptiveBinarize(), "ede")
    return start.tuned(start.network(made, partial(Maxout, negative=1.0)))  # starts without effect


def apb(decay: float, start: Start) -> nn.Module:
    """A few weights stay float; the weight decay makes them few, and the interval is frozen halfway."""
    model = start.network(layer(APB()))
    freeze = FreezeAPB(interval=0.5)
    return start.tuned(
        model,
        optimizer=lambda model: torch.optim.AdamW(apb_parameter_groups(model, decay), lr=mnist.BINARY.rate),
        clamp=float("inf"),
        before_epoch=lambda progress: freeze(model, progress),
    )


def rbonn(start: Start) -> nn.Module:
    """Scales and latent weights trained as a bilinear pair, with weights of small scales set back."""
    model = start.network(layer(RBONN(init="fit")))
    return start.tuned(
        model,
        optimizer=lambda model: torch.optim.Adam(rbonn_parameter_groups(model, mnist.BINARY.rate)),
        clamp=float("inf"),
        after_step=lambda: backtrack_(model),
    )


def binrelu(start: Start) -> nn.Module:
    """The plain weights, after BinReLU in place of the float network's hardtanh."""
    plain = layer(ScaledSigns(), lambda channels: Binarize())
    return with_layer(lambda inputs, outputs: nn.Sequential(BinReLU(inputs), plain(inputs, outputs)), start)


def bd_bnn(start: Start) -> nn.Module:
    """Latent weights with two modes, and distributions of weights and scores like the float network's.

    The authors' float network is trained with a kurtosis penalty too; here it is the common one.
    """
    model, teacher = start.network(layer(ScaledSigns())), start.float_network()
    convolutions = {f"{block}.layer": f"{block}.layer.1" for block in _blocks(model)}
    mimic, kurtosis = DistributionMimicking(model, teacher, convolutions), KurtosisPenalty(model, weight=0.1)
    start.tuned(model, penalty=lambda loss: mimic(loss) + kurtosis(loss))
    mimic.remove()
    return model


def cmim(start: Start) -> nn.Module:
    """The features before the head contrasted with the float network's, as in the authors' code."""
    model, teacher = start.network(layer(ScaledSigns())), start.float_network()
    channels = teacher.head[-1].in_features
    pairs = Twin(model, teacher, ["head.1"])
    labels = mnist.load().train_labels
    contrast = ContrastiveLoss(pairs, {"head.1": (channels, channels)}, labels, weight=0.1, negatives=256)
    batch: list[Tensor] = []
    start.tuned(
        model,
        penalty=lambda loss: contrast(batch.pop()),
        before_step=batch.append,
        optimizer=lambda model: torch.optim.Adam(
            [*parameter_groups(model, mnist.BINARY), {"params": contrast.parameters()}], lr=mnist.BINARY.rate
        ),
    )
    pairs.remove()
    return model


def dgrl(start: Start) -> nn.Module:
    """Blocks with float branches learn the float network's features: each alone for an epoch, then together."""
    model, teacher = start.network(layer(ScaledSigns())), start.float_network()
    blocks = _blocks(model)
    add_branches_(model, blocks)
    distill = BlockDistillation(model, teacher, ["stem", *blocks])
    optimizer = torch.optim.Adam(parameter_groups(model, mnist.BINARY), lr=mnist.BINARY.rate)
    images = mnist.load().train_images
    model.train()
    for chosen in torch.randperm(len(images)).split(mnist.BINARY.batch):
        optimizer.zero_grad()
        distill.blockwise(mnist.shifted(images[chosen])).backward()
        optimizer.step()
    start.tuned(model, penalty=distill)
    distill.remove()
    return model


def _blocks(model: nn.Module) -> list[str]:
    return [f"body.{index}" for index in range(len(model.body))]


def mixbin(method: str, start: Start) -> nn.Module:
    """A search with seed 0 chooses the binary layers within MIXBIN_BUDGET; they are then trained with each seed."""
    path = start.folder / f"mixbin-{method}" / f"search-epochs{start.epochs}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        search(method, replace(start, seed=0).float_network()).save(path)
    model = start.float_network()
    PartialBinarization.load(path).apply_(model, BinaryConfig(learn_threshold=True))
    for binary in binary_layers(model):
        binary.weight.data.mul_(0.5 / binary.weight.abs().mean())  # as start_from_ does
    return start.tuned(model)


def search(method: str, model: nn.Module) -> PartialBinarization:
    """A search with one epoch of training per step, on the training images without those that it compares masks by."""
    data = mnist.load()
    training = replace(data, train_images=data.train_images[:-VALIDATION], train_labels=data.train_labels[:-VALIDATION])
    images, labels = data.train_images[-VALIDATION:], data.train_labels[-VALIDATION:]

    def fit(model: nn.Module, epochs: int, penalty: Callable[[Tensor], Tensor] | None = None) -> None:
        train(model, training, Recipe(epochs, rate=1e-3, augment=mnist.shifted, penalty=penalty))
        recalibrate_(model, training.train_images.split(200))

    def evaluate(model: nn.Module) -> float:
        return float(functional.cross_entropy(model(images), labels))

    return search_partial_binarization(
        model, MIXBIN_BUDGET, fit=fit, evaluate=evaluate, method=method, epochs=1, progress=False
    )


def without_training(start: Start) -> nn.Module:
    """The two values nearest to each channel's float weights, with float activations; only batch norms are renewed."""
    model = start.float_network()
    quantize_(model, calibration=mnist.load().train_images[:500])
    return model


def from_scratch(build: Callable[[], nn.Module], start: Start) -> nn.Module:
    """Trains another network, for which there are no float weights to start from."""
    torch.manual_seed(start.seed)
    return start.tuned(build())


def mlp_network() -> nn.Module:
    """Blocks of 1x1 convolutions, shifted by 0, 1 and 3 pixels, behind a first layer whose channels differ."""
    config = NetworkConfig(learn_threshold=True)
    first = layer(ScaledSigns())
    return mnist.network(
        lambda inputs, outputs: MLPBlock(config, outputs, (0, 1, 3)) if inputs == outputs else first(inputs, outputs)
    )


def grouped_network() -> nn.Module:
    """Convolutions in four groups of 8 or 16 channels."""
    return mnist.network(layer(ScaledSigns(), groups=4))


def common_network() -> nn.Module:
    """The network of float32 and of the methods that only change its layers."""
    return mnist.network(mnist.float_layer)


@dataclass(frozen=True)
class Method:
    """A method to compare.

    Attributes:
        key: Names it in commands and files.
        name: Names it in the table and the plots.
        family: Methods of a family have the same colour in plots.
        train: Returns the trained model, in eval mode.
        architecture: Builds the network in which the method's layers are binary, not trained; its float32 version is
            what onnxruntime runs. By default it is the common network.
    """

    key: str
    name: str
    family: str
    train: Callable[[Start], nn.Module]
    architecture: Callable[[], nn.Module] = common_network


_TWO_BITS = {
    "dorefa": ("2 bits, DoReFa", layer(ScaledSigns(), lambda channels: DoReFa(2, 1.0, learned=True))),
    "ewgs": ("2 bits, EWGS", rectified(layer(ScaledSigns(), lambda channels: EWGS(2)))),
    "symmetric-levels": ("2 bits, symmetric", layer(ScaledSigns(), lambda channels: Symmetric(2, 0.4, learned=True))),
    "weights-2": ("2 bits, weights too", rectified(layer(TwoBits(), lambda channels: EWGS(2)))),
}
"""Name and layer, by key."""

METHODS = (
    Method("float32", "float32", "float32", float32),
    Method("signs", "{-a, +a}", "signs", partial(with_layer, layer(ScaledSigns()))),
    *(Method(f"sbnn-{share}", f"SBNN {share} %", "SBNN", partial(sbnn, share / 100)) for share in (50, 10, 5, 2)),
    *(
        Method(f"symmetric-{share}", f"{{-t, +t}} {share} %", "symmetric", partial(sbnn, share / 100, symmetric=True))
        for share in (5, 2)
    ),
    Method("siman", "SiMaN", "weights", partial(with_layer, layer(Magnitudes(), lambda channels: BinarizeAboveMean()))),
    Method("adabin", "AdaBin", "weights", adabin),
    *(
        Method(f"subbit-{bits}", f"Sub-bit {bits}/9", "codebooks", partial(with_layer, layer(SubBit(bits))))
        for bits in (6, 4)
    ),
    *(
        Method(
            f"selected-{bits}",
            f"kernel selection {bits}/9",
            "codebooks",
            partial(with_layer, layer(SelectedKernels(bits))),
        )
        for bits in (6, 4)
    ),
    Method("apb", "APB", "partly float", partial(apb, 1e-3)),
    Method("mixbin-greedy", "MixBin greedy", "partly float", partial(mixbin, "greedy")),
    Method("mixbin-gradual", "MixBin gradual", "partly float", partial(mixbin, "gradual")),
    *(Method(key, name, "2 bits", partial(with_layer, made)) for key, (name, made) in _TWO_BITS.items()),
    Method("binrelu", "BinReLU", "gradients", binrelu),
    Method("rbonn", "RBONN", "gradients", rbonn),
    Method("bd-bnn", "BD-BNN", "losses", bd_bnn),
    Method("cmim", "CMIM", "losses", cmim),
    Method("dgrl", "DGRL", "partly float", dgrl),
    Method("bcdnet", "BCDNet blocks", "blocks", partial(from_scratch, mlp_network), mlp_network),
    Method("groups", "4 groups", "blocks", partial(from_scratch, grouped_network), grouped_network),
    Method("quantize", "not trained", "not trained", without_training),
)
