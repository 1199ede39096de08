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
    demo, mnist = example("demo"), example("mnist")
    torch.manual_seed(0)
    model = mnist.network(mnist.sparse_layer, width=16)
    mnist.start_sparse_(model, 0.05)
    mnist.shifted(torch.zeros(2, 1, 28, 28))
    images = mnist.load().test_images.numpy()[:50]
    model(torch.from_numpy(images))  # batch norms get some statistics
    expected = demo.classify_with_torch(model.eval(), images)

    path = tmp_path / "mnist-sparse.onnx"  # classify.c is for this name
    sbnn_tvm.export_onnx(model, path)
    assert (demo.classify_with_onnxruntime(path, images) == expected).all()

    module = sbnn_tvm.compile(path)
    binary_layers = [layer.name for layer in module.report.linear if layer.binary]
    assert binary_layers == ["body.0.layer", "body.1.layer", "body.2.layer"]
    assert module.verify(images[:10], check=False).passed
    library = module.export(tmp_path / "mnist.so")
    deployed = demo.classify_in_fresh_process(library, images, tmp_path)
    assert deployed.imported == []
    assert (deployed.predictions == expected).all()
    in_c = demo.classify_in_c(module, images, tmp_path)
    assert in_c is None or (in_c[0] == expected).all()


def test_shifted_images_are_the_images_elsewhere():
    mnist = example("mnist")
    images = torch.full((64, 1, 28, 28), -1.0)
    images[:, :, 10:15, 12:20] = torch.arange(40.0).reshape(5, 8)
    moved = mnist.shifted(images)
    places = moved.flatten(1).argmax(1)
    assert set((places // 28).tolist()) == {12, 13, 14, 15, 16} and set((places % 28).tolist()) == {17, 18, 19, 20, 21}
    assert (moved.flatten(1).sort(1).values == images.flatten(1).sort(1).values).all()


def test_a_sparse_network_starts_from_float_weights_with_its_share_and_zero():
    mnist = example("mnist")
    torch.manual_seed(0)
    teacher, model = mnist.network(mnist.float_layer, width=16), mnist.network(mnist.sparse_layer, width=16)
    mnist.start_from_(model, teacher)
    mnist.start_sparse_(model, 0.1)
    for block, source in zip(model.body, teacher.body, strict=True):
        layer, weight = block.layer, source.layer[1].weight
        assert layer.density() == pytest.approx(0.1, abs=0.01)
        scale, offset = layer.affine()
        assert torch.equal(scale, offset)  # alpha is 0
        assert weight[layer.signs() > 0].min() >= weight[layer.signs() < 0].max()
    assert torch.equal(model.head[2].weight, teacher.head[2].weight)


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


@pytest.mark.slow
def test_digits_deploy_tells_rounding_from_difference(one_torch_thread, monkeypatch):
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

    monkeypatch.setattr(sbnn_tvm, "compile", lambda _: agreement.module)  # it is the same model
    torch_differs_by = 2.0**-18  # of a pixel: rounding may decide a bit
    model.register_forward_pre_hook(lambda _, x: (x[0] * (1 + torch_differs_by),) if len(x[0]) > 1 else None)
    rounded = deploy(model, data)
    assert rounded.passed and rounded.ties <= 3
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
def test_rbonn_is_deployed_as_plain_signs(one_torch_thread, capsys):
    example("rbonn").main(seeds=1, epochs=10, check=False)
    printed = capsys.readouterr().out
    assert (
        "torch = onnxruntime = compiled: 1297 of 1297 predictions" in printed
        and "ok 4 of 4 layers run on bits" in printed
    )


@pytest.mark.slow
def test_mixbin(one_torch_thread, capsys):
    import mixbin

    mixbin.main([])
    assert capsys.readouterr().out.count("ok ") == 3


@pytest.mark.slow
def test_group_search(one_torch_thread, capsys):
    example("group_search").main(["--seeds", "1", "--random", "1", "--epochs", "10"])
    assert "897 of 897 predictions" in capsys.readouterr().out


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
    done = subprocess.run([sys.executable, EXAMPLES / "demo.py", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of the time of the dense binary one" in done.stdout
    assert np.load(tmp_path / "predictions.npy").shape == (1000,)
