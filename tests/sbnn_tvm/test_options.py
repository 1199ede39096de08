"""The options of a compilation: one object, or keywords, with the same checks."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import onnx
import pytest

import sbnn_tvm
from sbnn_tvm import CompileOptions
from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import CompileError
from sbnn_tvm.options import CompileKeywords, ModelKeywords, options_of
from sbnn_tvm.tuning.tuner import tune
from tests.support import foreign_models


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return foreign_models.vgg(channels=32, size=8, hidden=32, batch="N")


def test_the_keywords_are_the_fields():
    hints = get_type_hints(CompileOptions)
    assert get_type_hints(CompileKeywords) == {each.name: hints[each.name] for each in fields(CompileOptions)}
    assert ModelKeywords.__annotations__.keys() == {
        "input_shape",
        "sign_zero",
        "exact_weights",
        "name",
        "compare_export",
    }


def test_an_object_and_keywords_are_the_same(model):
    options = CompileOptions(input_shape=(2, 3, 8, 8), kernels={"*": "float"}, name="net")
    report = explain(model, "arm", options)
    assert report == explain(model, "arm", input_shape=(2, 3, 8, 8), kernels={"*": "float"}, name="net")
    assert report == sbnn_tvm.compile(model, "arm", options).report
    assert explain(model, "arm", options, name="other").model == "other"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sign_zero": "maybe"}, "sign_zero must be 'exact', 'positive' or 'negative', but got 'maybe'"),
        ({"tuning_cpu": "Zen"}, "tuning_cpu='Zen' says whose measurements to use, but there is no tuning="),
        (
            {"kernels": {"conv": "pop"}},
            "'pop' for 'conv' is no family of kernels; the families are popcount, counters, float, ",
        ),
    ],
)
def test_wrong_values(wrong, sentence):
    with pytest.raises(CompileError, match=sentence):
        CompileOptions(**wrong)
    with pytest.raises(CompileError, match=sentence):
        options_of("compile", CompileKeywords, None, wrong)


def test_unknown_keywords(model):
    with pytest.raises(TypeError, match=r"compile\(\) got an unexpected keyword argument 'kernel': did you mean 'kern"):
        sbnn_tvm.compile(model, kernel={"*": "float"})
    with pytest.raises(
        TypeError, match=r"explain\(\) .* 'optimise': the options are input_shape, sign_zero, exact_weights, kernels"
    ):
        explain(model, optimise=3)
    with pytest.raises(
        TypeError, match=r"tune\(\) .* 'kernels': the options are input_shape, sign_zero, exact_weights, name"
    ):
        tune(model, kernels={"*": "float"})
    with pytest.raises(TypeError, match=r"takes options as a CompileOptions or as keywords, but got \(1, 3, 8, 8\)"):
        sbnn_tvm.compile(model, "arm", (1, 3, 8, 8))
