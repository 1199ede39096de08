"""What the benchmarks are made of, as far as it does not depend on time."""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.frontends.torch import BinaryConv2d, resnet18
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from method_results import Row


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    from records import Machine, Record, read, write

    shape = Conv2dShape(1, 7, 7, 64, 32, (3, 3), (2, 2), (1, 1, 1, 1))
    records = [
        Record("3x3", shape, "bit planes", "avx2", "bits", 1e-6, 0.05),
        Record("3x3", shape, "popcount", "avx2", "float", 2e-6),
    ]
    machine = Machine("a CPU", "2026-11-20")
    write(tmp_path / "new" / "records.json", records, machine)
    assert read(tmp_path / "new" / "records.json") == (machine, records)
    assert records[0].macs_per_second == pytest.approx(4 * 4 * 32 * 9 * 64 / 1e-6)


def test_a_first_layer_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import contestant

    from sbnn_tvm.profiling.timing import Timing

    seconds = {"whole": 4.0, "marginal": 9.0, "marginal, first": 3.0}
    monkeypatch.setattr(contestant, "interleave", lambda functions, _: {n: Timing(seconds[n], 0, 1) for n in functions})
    whole, marginal = contestant.Contestant(int, 4), contestant.Contestant(int, 4, int)
    assert contestant.seconds_a_layer({"whole": whole, "marginal": marginal}, 1) == {"whole": 1.0, "marginal": 2.0}


@pytest.mark.skipif(not resolve("x86-64-v3").native, reason="the loop needs AVX2")
def test_the_vpshufb_loop_counts_right(rng: np.random.Generator) -> None:
    from vpshufb_loop import vpshufb_contestant

    # 36 words: more than a byte counts without being added up.
    vpshufb_contestant(Conv2dShape(1, 3, 3, 256, 64, (3, 3), (1, 1), (1, 1, 1, 1)), rng).run()


def test_shares_of_the_multiply_add_peak() -> None:
    import core_cycles
    import float_cycles
    from layers import convolution

    if missing := core_cycles.missing_tools():
        pytest.skip(missing)
    layer = float_cycles.FloatLayer("3x3", convolution(8, 16, 16))
    (share,) = float_cycles.shares(layer, resolve("arm"), ["neoverse-n1"])
    assert 0 < share.call < share.loops <= 1
    assert share.passes


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_computes_the_same_chain(rng: np.random.Generator) -> None:
    import openvino_peer
    from chains import BinaryChain, binary_contestant
    from layers import square

    layer = dataclasses.replace(square(6, 64), links=2)
    chain, target = BinaryChain.random(layer, rng), resolve("native")
    binary_contestant(chain, target)
    openvino_peer.binary_contestant(chain, target)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_every_kind_of_result_is_drawn(tmp_path: Path) -> None:
    from plots import figures
    from records import Record, write

    shape = Conv2dShape(1, 7, 7, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1))
    sparse = [Record("3x3", shape, "bit planes", "neon", "bits", share * 1e-4, share) for share in (0.05, 0.1)]
    dense = [Record("3x3", shape, name, "avx2", "bits", 1e-4) for name in ("binary", "float32", "binary limit")]
    write(tmp_path / "sparse.json", sparse)
    write(tmp_path / "dense.json", dense)
    rows = [dataclasses.asdict(method_row(f"method-{i}", 97.0 + i / 100, 99.0)) for i in range(5)]
    machine = {"cpu": "a CPU", "day": "2026-11-20"}
    (tmp_path / "methods.json").write_text(json.dumps({"machine": machine, "methods": rows}))
    assert figures(sorted(tmp_path.glob("*.json"))).keys() == {"speed-avx2", "density-neon", "methods"}


def method_row(key: str, *accuracies: float) -> "Row":
    from method_results import Deployment, Row

    made = Deployment(100, 2048, 1000, 999, 1e-6, (3, 3), ("popcount",))
    return Row(key, key, "SBNN", dict(enumerate(accuracies)), 60.0, made, 10.0, 100.0)


def test_the_labels_of_methods_cover_nothing() -> None:
    from method_plot import methods
    from records import Machine

    rows = [dataclasses.replace(method_row(f"method-{i}", 97.0, 97.5 + i / 50), microseconds=10 + i) for i in range(12)]
    figure = methods(rows, Machine("a CPU", "2026-11-20"))
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.texts]
        markers = [axis.transData.transform(label.xy) for label in axis.texts]
        assert sorted(label.get_text() for label in axis.texts) == sorted(row.name for row in rows)
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
        assert not any(box.contains(*marker) for box in boxes for marker in markers)


def test_every_method_has_a_colour() -> None:
    import methods
    from method_plot import FAMILIES

    keys = [method.key for method in methods.METHODS]
    assert len(set(keys)) == len(keys) and {method.family for method in methods.METHODS} == FAMILIES.keys()
    assert {key for _, *pair in methods.GAINS for key in pair} <= set(keys)


def test_pareto_line() -> None:
    from method_plot import pareto

    assert pareto([(3, 9), (1, 5), (2, 4), (2, 7), (4, 9), (5, 10)]) == [(1, 5), (2, 7), (3, 9), (5, 10)]


def test_table_of_methods_in_a_document(tmp_path: Path) -> None:
    from method_results import BEGIN, END, Gain, Row, markdown, replace_table

    rows = [method_row("sbnn-5", 95.0, 97.0), method_row("symmetric-5", 90.0, 91.0, 94.0)]
    assert [Row.from_json(json.loads(json.dumps(dataclasses.asdict(row)))) for row in rows] == rows
    gain = Gain.of("general minus symmetric", *rows)
    assert gain.gains == {0: 5.0, 1: 6.0}
    document = tmp_path / "methods.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_table(document, markdown(rows, [gain], "a CPU, 2026-11-20"))
    text = document.read_text()
    assert "| sbnn-5 | 96.0 +- 1.0 | 100 | 2 | 10.0 | 10.0x | `sbnn-5` |" in text and "old" not in text
    assert "1,998 of 2,000 images" in text and "- general minus symmetric: +5.5 +- 0.5 points over 2 seeds." in text
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n")
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="has no lines"):
        replace_table(document, "")


@pytest.mark.slow
def test_methods_continue_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import method_rows
    import methods
    import mnist

    data = mnist.load()
    few = dataclasses.replace(
        data,
        train_images=data.train_images[:200],
        train_labels=data.train_labels[:200],
        test_images=data.test_images[:50],
        test_labels=data.test_labels[:50],
    )
    monkeypatch.setattr(mnist, "load", lambda: few)
    arguments = ["--epochs", "1", "--folder", str(tmp_path), "--seconds", "0.1", "--output", str(tmp_path / "out.json")]
    methods.main([*arguments, "--only", "sbnn-5", "--seeds", "0"])
    rows = methods.main([*arguments, "--only", "sbnn-5", "symmetric-5", "--seeds", "0"])
    assert [row.key for row in rows] == ["sbnn-5", "symmetric-5"]
    assert all(row.deployment.equal == 50 and row.deployment.on_bits == (3, 3) for row in rows)
    assert all(row.deployment.weight_bytes < 7000 and 0 < row.microseconds < row.float_microseconds for row in rows)
    monkeypatch.setattr(method_rows.mnist, "tune", None)  # nothing is trained again
    assert [row.key for row in methods.main([*arguments, "--seeds", "0", "--only", "sbnn-5"])] == [
        row.key for row in rows
    ]
    with pytest.raises(SystemExit, match="was trained for 1 epochs, but now it is 2"):
        methods.main([*arguments, "--epochs", "2", "--seeds", "0", "--only", "sbnn-5"])


def test_bytes_of_weights() -> None:
    import digits
    import methods

    from sbnn_tvm.frontends.torch import to_onnx

    bits, thresholds = (8 + 16 + 16 + 16) * 9 * 16 // 8, 4 * 4
    binary = methods.weight_bytes(to_onnx(digits.tiny_network()))
    assert bits * 0.9 < binary - thresholds - 4 * 16 * 4 <= bits
    assert 0 <= methods.weight_bytes(to_onnx(digits.tiny_network(digits.float_layer))) - 32 * bits < 64


def test_a_fit_finds_the_costs_that_made_the_times() -> None:
    from fit_cost_model import SHAPES, cases, choices, fit

    from sbnn_tvm.passes.families.costs import Steps
    from sbnn_tvm.schedules.isa import AVX2

    # The second shape has narrow planes and rows that are gathered.
    truth = Steps(0.5, 0.2, 0.4, 0.0, 1.0, 1.2, 0.5, 0.3, 0.15, 1.0, 0.7)
    times = {case: truth.cost(case.steps(AVX2)) * 1e-9 for case in cases([SHAPES[2], SHAPES[6]], floats=False)}
    found = fit(times, AVX2)
    for case, seconds in times.items():
        assert found.cost(case.steps(AVX2)) * 1e-9 == pytest.approx(seconds, rel=0.02)
    made = choices(times, found, AVX2)
    assert all(choice.lost < 1.05 for choice in made) and {choice.counters for choice in made} == {False, True}


@pytest.mark.slow
def test_compiled_chains_take_counters_or_popcounts() -> None:
    from compiled_chains import DOMAINS, FORCED, chain
    from layers import square

    layer = dataclasses.replace(square(6, 16), links=2)
    for forced in FORCED:  # verified within
        contestant = chain(layer, DOMAINS["{a, b}"], 0.05, resolve("native"), forced)
        assert contestant.links == 2 and contestant.first is not None
        contestant.run()


@pytest.mark.parametrize(("t", "billions", "megabits"), [(6, 0.8839, 7.324), (5, 0.5014, 6.103), (4, 0.2972, 4.882)])
def test_published_costs_of_response_reuse(t: int, billions: float, megabits: float) -> None:
    """ResNet-18's sixteen 3x3 layers: 0.883, 0.501 and 0.297 G operations; 10.99 Mbit without codebooks."""
    from response_reuse import reused_operations

    layers = [module for module in resnet18().modules() if isinstance(module, BinaryConv2d)]
    pixels = {64: 56**2, 128: 28**2, 256: 14**2, 512: 7**2}
    total = sum(
        reused_operations(each.in_channels, each.out_channels, pixels[each.out_channels], 9, t) for each in layers
    )
    assert total / 1e9 == pytest.approx(billions, abs=5e-5)
    assert sum(each.weight.numel() for each in layers) * t / 9 / 1e6 == pytest.approx(megabits, abs=1e-3)


def test_cycles_of_a_kernel_on_a_core(rng: np.random.Generator) -> None:
    import tvm
    from core_cycles import Block, block_cycles, execute, missing_tools

    from sbnn_tvm.execution.emulator import Emulator
    from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
    from sbnn_tvm.schedules.epilogue.program import IntegerThreshold

    if missing := missing_tools():
        pytest.skip(missing)
    additions = ("add v0.4s, v2.4s, v3.4s", "add v1.4s, v2.4s, v3.4s")
    wide, narrow = (block_cycles((additions,), core)[0] for core in ("cortex-a72", "cortex-a53"))
    assert wide == pytest.approx(1, rel=0.05) and narrow == pytest.approx(2, rel=0.05)

    target, shape = resolve("arm"), Conv2dShape(1, 8, 8, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1))
    epilogue = IntegerThreshold(np.zeros(64, np.int64), np.zeros(64, bool))
    kernel = popcount_conv2d(shape, rng.random((64, 64, 3, 3)) < 0.5, 0, epilogue, target.isa)
    ((size, dtype),) = kernel.outputs
    arrays = [np.zeros((1, 8, 8, 4), "uint16"), *kernel.constants, np.zeros(size, dtype)]
    emulator = Emulator(tvm.IRModule({"kernel": kernel.func}), target)
    execution = execute(emulator, target.machine, "kernel", arrays)
    assert execution.instructions == emulator.instructions("kernel", arrays)

    def counts_bits(block: Block) -> bool:
        return block.has("cnt")

    loop = execution.cycles("cortex-a72", counts_bits)
    assert counts_bits(execution.hottest) and 0.8 * execution.cycles("cortex-a72") < loop
    # 22 of the 24 taps of the rows are inside the image.
    assert loop == pytest.approx(1.5 * shape.macs / 128 * 22 / 24, rel=0.02)
