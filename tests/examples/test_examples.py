"""The examples run, and the demo's claims hold on a smaller network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import sbnn_tvm
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_demo_network_says_the_same_everywhere(tmp_path, one_torch_thread):
    demo = example("demo")
    torch.manual_seed(0)
    data, model = demo.digits(), demo.network(width=16)
    demo.train(model, data, epochs=2)
    images = data.test_images.numpy()[:100]
    expected = demo.classify_with_torch(model, images)
    assert (expected == data.test_labels.numpy()[:100]).mean() > 0.3  # chance is 0.1

    binary, plain = demo.write_onnx(model, tmp_path)
    assert binary.stat().st_size < plain.stat().st_size / 3
    assert (demo.classify_with_onnxruntime(binary, images) == expected).all()
    assert (demo.classify_with_onnxruntime(plain, images) == expected).mean() > 0.9  # it rounds its sums

    module = sbnn_tvm.compile(binary)
    assert [layer.name for layer in module.report.linear if layer.binary] == [
        "body1.conv",
        "body2.conv",
        "body3.conv",
        "dense.0",
    ]
    assert module.verify(images, check=False).passed
    library = module.export(tmp_path / "digits.so")
    deployed = demo.classify_in_fresh_process(library, images, tmp_path)
    assert deployed.imported == []
    assert (deployed.predictions == expected).all()
    in_c = demo.classify_in_c(module, images, tmp_path)
    assert in_c is None or (in_c[0] == expected).all()


def test_demo_density_penalty_acts_on_the_general_domain_only():
    demo = example("demo")
    torch.manual_seed(0)
    model = demo.network(width=16)
    demo.excess_density(model).backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {"body3.conv.weight"}


def test_demo_fails_when_a_claim_does_not_hold(capsys):
    demo = example("demo")
    demo.check(True, "water is wet")
    with pytest.raises(SystemExit) as exit_info:
        demo.check(False, "water is dry")
    assert exit_info.value.code == 1


def test_classify_refuses_wrong_arguments():
    done = subprocess.run([sys.executable, EXAMPLES / "classify.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "MODEL.so" in done.stderr


def test_frames_on_a_board(tmp_path, capsys):
    """Raw inputs, and the same as images of bytes; the last frame is cut short."""
    frames = example("deploy_python_board/frames")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4), torch.nn.Flatten())
    library = sbnn_tvm.compile(network, input_shape=(1, 3, 4, 4)).export(tmp_path / "model.so", "c")
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    floats = np.ascontiguousarray((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2))
    expected = network(torch.from_numpy(floats)).detach().numpy()
    for data, size, options in [(floats, 192, []), (images, 48, ["--pixels", "-1", "1"])]:
        (tmp_path / "frames.raw").write_bytes(data.tobytes()[:-1])
        assert frames.main([str(library), str(tmp_path / "frames.raw"), *options]) == 0
        shown = capsys.readouterr()
        lines = [line.split("\t") for line in shown.out.splitlines()]
        assert [int(line[1]) for line in lines[:4]] == list(expected[:4].argmax(1))
        assert lines[4][0].startswith("4 frames; a run took ")
        assert shown.err == f"the last frame has {size - 1} of {size} bytes, and is left out\n"
    assert frames.main([str(tmp_path / "missing.so"), "-"]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_foreign_onnx_report():
    foreign = example("foreign_onnx")
    model = foreign.foreign_model()
    binary = {layer.name: layer.binary for layer in sbnn_tvm.compile(model).report.linear}
    assert binary == {
        "stem": False,
        "binary": True,
        "after_sign": True,
        "after_relu": False,
        "ternary": True,
        "scores": False,
    }
    module = sbnn_tvm.compile(model, sign_zero="positive")
    assert [layer.name for layer in module.report.linear if layer.binary] == ["binary", "after_sign", "ternary"]
    assert module.verify(samples=1).passed


def test_convert_float_model(one_torch_thread, capsys):
    convert = example("convert_float_model")
    assert convert.main(float_epochs=2, binary_epochs=2) > 0.5
    assert "Conv2d stays float: skipped, the first linear layer" in capsys.readouterr().out


def test_digits_deploy(one_torch_thread):
    import claims
    import digits
    import training_loop
    from agreement import deploy

    data = digits.load()
    model = training_loop.train(digits.tiny_network(), data, training_loop.Recipe(epochs=2))
    agreement = deploy(model, data)
    assert agreement.passed and agreement.images == 1297
    assert [layer.binary for layer in agreement.module.report.linear] == [False, *[True] * 4, False]
    assert str(claims.Mean.of([1.0, 2.0, 3.0])) == "2.0 +- 0.6"


def test_digits_deploy_tells_rounding_from_difference(one_torch_thread):
    import digits
    import training_loop
    from agreement import deploy

    data = digits.load()
    model = training_loop.train(digits.tiny_network(), data, training_loop.Recipe(epochs=2))
    torch_differs_by = 2.0**-18  # of a pixel: rounding may decide a bit
    model.register_forward_pre_hook(lambda _, x: (x[0] * (1 + torch_differs_by),) if len(x[0]) > 1 else None)
    agreement = deploy(model, data)
    assert agreement.passed and agreement.ties <= 3
    torch_differs_by = 2.0**-8
    with pytest.raises(SystemExit, match=r"FAILED torch = onnxruntime = compiled: 12\d\d of 1297"):
        deploy(model, data)


@pytest.mark.slow
def test_bit_serial(one_torch_thread, capsys):
    accuracies = example("bit_serial").main(epochs=4, seeds=1)
    assert len(accuracies) == 5 and max(accuracies.values()) > 80
    assert capsys.readouterr().out.count("1297 of 1297 predictions") == 5


@pytest.mark.slow
def test_codebook(one_torch_thread, capsys):
    accuracies = example("codebook").main(epochs=4)
    assert accuracies["4/9 bit"] > 70 and accuracies["4/9 bit, selected"] > 70
    assert capsys.readouterr().out.count("1297 of 1297 predictions") == 7


@pytest.mark.slow
def test_apb(one_torch_thread, capsys):
    example("apb").main(["--seeds", "2"])
    assert "torch = onnxruntime = compiled: 1297 of 1297 predictions" in capsys.readouterr().out


@pytest.mark.slow
def test_mixbin(one_torch_thread, capsys):
    import mixbin

    mixbin.main([])
    assert capsys.readouterr().out.count("ok ") == 2


@pytest.mark.slow
def test_training_losses(one_torch_thread):
    import training_losses

    training_losses.main(["--epochs", "20"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sbnn", "siman", "adabin"])
def test_a_methods_claims_hold(name, one_torch_thread, capsys):
    example(name).main()
    assert "torch = onnxruntime = compiled: 1297 of 1297 predictions" in capsys.readouterr().out


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example("quickstart").main()
    assert sbnn_tvm.runtime.loading.read_metadata(tmp_path / "out" / "model.arm.so").target == "arm"


@pytest.mark.slow
def test_demo(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", "--out", tmp_path, "--epochs", "6"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faster than onnxruntime" in done.stdout
    assert np.load(tmp_path / "predictions.npy").shape == (450,)
