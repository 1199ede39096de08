"""The example trainer: it goes on after it was killed, to the same weights; alone and with other processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
import train
from torch import nn
from torch.utils.data import DataLoader

from sbnn_tvm.frontends.torch import Binarize, BinaryLayer, MovingAverage, QuantizedLinear

SCRIPT = Path(train.__file__)
SMALL = train.Settings(width=4, epochs=2, batch=32, mixup=0.5, smoothing=0.1)


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def few_digits(count: int) -> datasets.Data:
    images = datasets.digits().test
    few = datasets.Images(images.open_image, images.labels[:count], [0.5], [0.5])
    return datasets.Data(few, few, 10, (1, 8, 8))


def equal(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", ["sbnn-cifar10", "siman", "rbonn"])
def test_a_stopped_training_goes_on_to_the_same_weights(method: str, tmp_path: Path, monkeypatch) -> None:
    settings = train.Settings(**{**vars(SMALL), "method": method, "expected": 0.1 if method == "sbnn-cifar10" else 0.0})
    data = few_digits(96)
    (tmp_path / "whole").mkdir()
    whole = train.train(settings, data, tmp_path / "whole", train.Alone())

    save = train.save

    def stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train.train(settings, data, tmp_path, train.Alone())
    torch.rand(100)  # a restart begins with other random numbers
    monkeypatch.setattr(train, "save", save)
    resumed = train.train(settings, data, tmp_path, train.Alone(), resume=True)
    assert equal(resumed.state_dict(), whole.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "whole"]

    changed = train.Settings(**{**vars(settings), "rate": 0.5})
    with pytest.raises(SystemExit, match=r"was trained with rate=0\.002, but now it is 0\.5"):
        train.train(changed, data, tmp_path, train.Alone(), resume=True)
    with pytest.raises(SystemExit, match="holds a checkpoint already: pass --resume"):
        train.main(["--out", str(tmp_path)])


def test_the_recipes_of_sbnn() -> None:
    data = few_digits(50)
    cifar10, cifar100 = (
        train.build(train.Settings(method=f"sbnn-{name}", width=4), data) for name in ("cifar10", "cifar100")
    )
    found = []
    for model in (cifar10, cifar100):
        layer = next(module for module in model.modules() if isinstance(module, BinaryLayer))
        signs = next(module for module in model.modules() if isinstance(module, Binarize))
        assert (layer.values.tau.item(), layer.values.phi.item()) == (1, 0)
        found.append((str(layer.estimator), str(signs.estimator), isinstance(signs.threshold, nn.Parameter)))
    assert found == [("EDE", "EDE", False), ("Identity", "Polynomial", True)]
    (penalty,) = train.penalties(train.Settings(method="sbnn-cifar100", expected=0.02), cifar100)
    assert penalty.gamma == 0.06
    (penalty,) = train.penalties(train.Settings(method="sbnn-cifar100", expected=0.02, gamma=0.5), cifar100)
    assert penalty.gamma == 0.5
    with pytest.raises(SystemExit, match="--expected needs --gamma, since method signs has no recipe"):
        train.penalties(train.Settings(expected=0.02), cifar100)


def test_curves_have_a_network_of_their_own() -> None:
    nothing = datasets.digits().test
    data = datasets.Data(nothing, nothing, 10, (1, 1, 40))
    model = train.build(train.Settings(model="curves", width=8, method="siman"), data)
    assert model(torch.randn(2, 1, 1, 40)).shape == (2, 10)
    with pytest.raises(SystemExit, match="--model vgg is not for 1x40 pixels: pass --model curves"):
        train.build(train.Settings(), data)
    with pytest.raises(SystemExit, match="--model curves is not for 8x8 pixels: pass --model vgg"):
        train.build(train.Settings(model="curves"), few_digits(1))
    with pytest.raises(SystemExit, match="curves has no layers or shortcuts of 8 bits"):
        train.build(train.Settings(model="curves", stream_bits=8), data)


def test_the_other_layers_can_have_8_bits() -> None:
    arguments = train.parse(["--model", "resnet", "--eight-bit", "observed", "--stream-bits", "16"])
    settings = train.Settings(
        width=4, model=arguments.model, eight_bit=arguments.eight_bit, stream_bits=arguments.stream_bits
    )
    model = train.build(settings, few_digits(1))
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(QuantizedLinear) == 1 and nn.Conv2d not in kinds
    codes = [module.dtype for module in model.modules() if isinstance(module, MovingAverage)]
    assert {torch.uint8, torch.int16} == set(codes)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must be on this machine: pass --root"):
        train.main(["--data", "cifar10", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="there is no checkpoint"):
        train.main(["--resume", "--out", str(tmp_path)])
    if importlib.util.find_spec("accelerate") is None:
        with pytest.raises(SystemExit, match="needs the package accelerate"):
            train.main(["--accelerate", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("model", train.MODELS)
def test_every_model_can_be_built(model: str) -> None:
    nothing = datasets.digits().test
    shape = (3, 1, 32) if model == "curves" else (3, 32, 32)
    network = train.build(train.Settings(model=model, width=4), datasets.Data(nothing, nothing, 7, shape))
    assert isinstance(network, nn.Module) and network.example_input_array.shape == (1, *shape)


@pytest.mark.parametrize("method", train.METHODS)
def test_every_method_learns(method: str) -> None:
    data = few_digits(50)
    settings = train.Settings(method=method, width=4)
    model = train.build(settings, data)
    images, labels = next(iter(DataLoader(data.train, 50)))
    loss = train.mixed_loss(model.train(), images, labels, settings)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


ARGUMENTS = ["--width", "4", "--epochs", "6", "--batch", "64", "--target", ""]


def command(*arguments: str, torchrun: int = 0) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={torchrun}", f"--master_port={port}"]
    return [sys.executable, *(launcher if torchrun else []), str(SCRIPT), *ARGUMENTS, *arguments]


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("--out", str(tmp_path / "whole")), check=True, env=environment)
    out = tmp_path / "killed"
    process = subprocess.Popen(command("--out", str(out)), env=environment)
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command("--out", str(out), "--resume"), check=True, env=environment)
    ours, theirs = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (out, tmp_path / "whole"))
    assert ours["epoch"] == theirs["epoch"] == 6
    assert equal(ours["model"], theirs["model"])


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["--out", str(tmp_path), "--method", "sbnn-cifar10", "--expected", "0.45", "--gamma", "0.07"]
    arguments += ["--mixup", "0", "--rate", "0.01"]
    done = subprocess.run(command(*arguments, torchrun=2), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 6:") == 1
    assert float(done.stdout.split("accuracy ")[-1].split("%")[0]) > 25  # chance is 10
    resumed = subprocess.run(
        command(*arguments, "--resume", torchrun=2), capture_output=True, text=True, env=environment
    )
    assert resumed.returncode == 0 and "continuing after epoch 6" in resumed.stdout


@pytest.mark.slow
def test_the_trained_network_is_compiled(tmp_path: Path) -> None:
    train.main(["--width", "8", "--epochs", "1", "--method", "siman", "--out", str(tmp_path)])
    assert (tmp_path / "model.so").exists() and (tmp_path / "model.onnx").exists()
