"""Names of any characters are shown, and control nothing: in errors, reports and tables."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.errors import ArgumentError, EmulationError, MissingPackageError, ModelError, SbnnError
from sbnn_tvm.printable import printable
from sbnn_tvm.report.report import LayerReport, Report
from sbnn_tvm.runtime.loading import read_metadata
from tests.support import foreign_models
from tests.support.command_line import run

HOSTILE = "[red]x[/] :smile: \x1b[31m\x07\r\n\u202e\x9b1m é名"
SHOWN = r"[red]x[/] :smile: \x1b[31m\x07\r\n\u202e\x9b1m é名"

NAME, NAME_SHOWN = "[red]x[/] :smile: \u202e é名", r"[red]x[/] :smile: \u202e é名"
"""The importer refuses other characters in the names of a model."""


def test_what_is_visible_stays_and_the_rest_is_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("\udcff \ue000\u3000\N{GRINNING FACE}") == "\\udcff \\ue000\\u3000\N{GRINNING FACE}"
    assert printable(Path("a b")) == "a b"


def test_messages_of_errors_are_printable_and_their_arguments_exact() -> None:
    for kind in (SbnnError, ModelError, ArgumentError, EmulationError, MissingPackageError):
        error = kind(HOSTILE)
        assert str(error) == SHOWN and error.args == (HOSTILE,)
        assert str(pickle.loads(pickle.dumps(error))) == SHOWN
    assert isinstance(ArgumentError(), ValueError) and isinstance(MissingPackageError(), ModuleNotFoundError)


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = foreign_models.vgg(channels=32, size=8, hidden=32)
    for index, node in enumerate(model.graph.node):
        node.name = f"{NAME}{index}"
    for value in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [NAME if name == value.name else name for name in node.output]
        value.name = NAME
    path = tmp_path_factory.mktemp("model") / f"{HOSTILE.replace('/', '')}.onnx"
    onnx.save(model, path)
    return path


def test_a_model_of_hostile_names(hostile_model: Path, tmp_path: Path) -> None:
    library = tmp_path / "[b]net.so"
    compiled, _ = run("compile", hostile_model, "-o", library, "--verify", columns=400)
    assert f"{NAME_SHOWN}4" in compiled and f"{tmp_path}/[b]net.so: " in compiled
    inspected, _ = run("inspect", library, columns=400)
    assert f"{NAME_SHOWN}: float32[1, 10]" in inspected and f"{NAME_SHOWN}4" in inspected
    report = Report.from_json(read_metadata(library).report)
    assert f"{NAME}4" in {layer.name for layer in report.layers}
    timed, _ = run("bench", library, "--seconds", 0.01, columns=400)
    for text in (compiled, inspected, timed, str(report)):
        assert all(character == "\n" or character.isprintable() for character in text)


def test_a_report_of_any_names() -> None:
    layer = LayerReport(HOSTILE, "conv 3x3", "float32", None, 32, "float_conv2d", 4, 9, HOSTILE)
    report = Report(HOSTILE, "native", (layer,), (HOSTILE,), HOSTILE)
    for text in (*str(report).splitlines(), report.summary()):
        assert text.isprintable()
    assert SHOWN in str(report) and Report.from_json(report.to_json()) == report


def test_errors_about_hostile_names(tmp_path: Path) -> None:
    _, error = run("compile", tmp_path / f"{HOSTILE}.onnx", code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and error[:-1].isprintable()
    _, error = run("compile", f"--{HOSTILE}", code=2)
    assert all(character == "\n" or character.isprintable() for character in error)
    with pytest.raises(ModelError) as raised:
        sbnn_tvm.compile(tmp_path / f"{HOSTILE}.onnx")
    assert str(raised.value).isprintable()
