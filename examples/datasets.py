"""Images to train on: scikit-learn's digits, CIFAR-10, and folders in the layout of ImageNet. Nothing is downloaded.

A dataset is a torch Dataset: an index gives a float32 [C, H, W] image and its label. The random numbers of
augmentations depend only on (seed, epoch, index). An image is therefore the same in any process, in any order, and
after a restart.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
        pixels = np.asarray(image, np.float32) / 255
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


def digits(root: str | None = None, size: int | None = None, seed: int = 0) -> Data:
    """The 1797 digits of scikit-learn, [1, 8, 8], from -1 to 1; 450 of them are test images."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    pixels = (images[order] * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    parts = []
    for part in (slice(450, None), slice(0, 450)):
        parts.append(Images(_from_array(pixels[part]), labels[order][part], [0.5], [0.5], seed=seed))
    return Data(parts[0], parts[1], 10, (1, 8, 8))


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
