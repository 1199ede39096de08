"""The models of the zoo: they are what their cards say, and every command takes them."""

from __future__ import annotations

import hashlib

import datasets
import numpy as np
import onnx
import onnxruntime
import pytest

import sbnn_tvm
from sbnn_tvm import zoo
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.command_line import run

NAMES = zoo.names()


def test_names() -> None:
    assert sbnn_tvm.zoo is zoo
    assert set(NAMES) >= {"digits", "mnist-dense", "mnist-sbnn-5", "mnist1d"}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_what_its_card_says(name: str) -> None:
    model = zoo.load(name)
    content = model.path.read_bytes()
    assert model.card.name == name
    assert model.card.file_bytes == len(content) < 150_000
    assert model.card.sha256 == hashlib.sha256(content).hexdigest()
    assert "ai.sbnn" in {each.domain for each in load_model(model).opset_import}
    assert model.images.dtype == np.float32 and model.labels.tolist() == list(range(10))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (tensor,) = session.get_inputs()
    right = [session.run(None, {tensor.name: image[None]})[0].argmax() for image in model.images] == model.labels
    assert right.mean() >= model.card.accuracy - 0.25


def test_a_model_is_a_path() -> None:
    digits = zoo.load("digits")
    assert onnx.load(digits).ByteSize() == digits.card.file_bytes
    assert "images" not in repr(digits)


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match=r"^the zoo has no model 'lenet'; it has digits, "):
        zoo.load("lenet")
    for command in (("inspect", "zoo:lenet"), ("zoo", "show", "lenet")):
        shown, error = run(*command, code=2)
        assert not shown and error.startswith("error: the zoo has no model 'lenet'; it has") and error.count("\n") == 1


def test_commands() -> None:
    shown, _ = run("zoo", "list")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == NAMES
    shown, _ = run("zoo", "show", "digits")
    card = zoo.load("digits").card
    assert card.sha256 in shown and f"{card.accuracy:.1%} of 450 test images" in shown and card.command in shown
    shown, _ = run("inspect", "zoo:digits")
    assert "4 of 6 layers with weights are binary" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_accuracy_is_that_of_the_card(name: str) -> None:
    """In the compiled library, on the whole test set."""
    model = zoo.load(name)
    images, labels = datasets.tensors(datasets.DATASETS[model.card.data_set](None, None, 0).test)
    module = sbnn_tvm.compile(model)
    right = [int(module.run(image[None]).argmax()) for image in images.numpy()] == labels.numpy()
    assert len(right) == model.card.tests
    assert abs(right.mean() - model.card.accuracy) * len(right) <= 2  # scores that are equal but for their rounding
    first = [int(np.flatnonzero(labels.numpy() == label)[0]) for label in range(10)]
    np.testing.assert_array_equal(model.images, images.numpy()[first])
    assert module.verify(model.images).passed
