"""Tuning: tasks, the search, what the compiler makes of measurements, and the runners."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm.script import tirx as T

import sbnn_tvm
from sbnn_tvm.compiler import explain, lower_model
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import CompileError, TuningError
from sbnn_tvm.options import CompileOptions
from sbnn_tvm.passes.families.choose import candidates
from sbnn_tvm.passes.families.float32 import FLOAT
from sbnn_tvm.passes.families.popcount import POPCOUNT
from sbnn_tvm.passes.layers.kinds import BinaryConvolution, BinaryLinearLayer
from sbnn_tvm.schedules.epilogue.program import Program
from sbnn_tvm.schedules.isa import AVX2, NEON
from sbnn_tvm.tuning import worker_process
from sbnn_tvm.tuning.build_candidate import CandidateBuild, KernelArgument, LibraryKernel, build_candidate, store_layer
from sbnn_tvm.tuning.compare_networks import compare_networks
from sbnn_tvm.tuning.local_runner import LocalRunner
from sbnn_tvm.tuning.measure_candidate import Measurement, measure_locally
from sbnn_tvm.tuning.named_runner import runner_named
from sbnn_tvm.tuning.rpc_runner import RpcRunner, serve
from sbnn_tvm.tuning.runner import MeasurementError
from sbnn_tvm.tuning.search import FEWEST, Search
from sbnn_tvm.tuning.tuner import tune
from sbnn_tvm.tuning_database.database import Database
from sbnn_tvm.tuning_database.lookup import choices_key
from sbnn_tvm.tuning_database.records import NetworkRecord, Record, TunedMachine, parse
from sbnn_tvm.tuning_database.tasks import Task, task_key, tasks_of
from tests.support import foreign_models
from tests.support.command_line import run as run_cli


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return foreign_models.vgg(channels=32, size=8, hidden=32)


@pytest.fixture(scope="module")
def front(model):
    return lower_model(model, "native", CompileOptions())


@pytest.fixture(scope="module")
def tasks(front) -> list[Task]:
    return tasks_of([e.layer for e in front.lowered.layers], front.imported.nodes, front.target.isa)


def binary_task(tasks: list[Task]) -> Task:
    return next(
        task for task in tasks if isinstance(task.layer, BinaryConvolution) and task.layer.shape.kernel == (3, 3)
    )


def test_tasks_have_something_to_choose(front, tasks):
    names = {layer.name for layer in front.report.layers}
    assert tasks and all(len(task.space) > 1 and set(task.names) <= names for task in tasks)
    assert len({task.key for task in tasks}) == len(tasks)


def test_keys_say_what_the_time_depends_on(front, tasks, rng):
    task = binary_task(tasks)
    layer, isa = task.layer, task.isa
    permuted = rng.permutation(layer.weight.ravel()).reshape(layer.weight.shape)
    assert task_key(replace(layer, name="other", weight=permuted, members=("x",)), isa) == task.key
    sparse = np.where(rng.random(layer.weight.shape) < 0.05, 1, -1).astype(np.float32)
    others = [
        replace(layer, weight=sparse),
        replace(layer, shape=replace(layer.shape, strides=(2, 2))),
        replace(layer, program=Program(layer.program.steps, layer.program.outputs * 2)),
        replace(layer, pad_value=1.0),
    ]
    another = AVX2 if isa is not AVX2 else NEON
    assert len({task.key, task_key(layer, another), *(task_key(each, isa) for each in others)}) == 6


def test_keys_are_the_same_in_every_process(model, tasks, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    code = (
        "import sys\nfrom sbnn_tvm.compiler import lower_model\nfrom sbnn_tvm.options import CompileOptions\n"
        "from sbnn_tvm.tuning_database.tasks import task_key\n"
        "front = lower_model(sys.argv[1], 'native', CompileOptions())\n"
        "print(*dict.fromkeys(task_key(e.layer, front.target.isa) for e in front.lowered.layers))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.onnx")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert [key for key in done.stdout.split() if key in {t.key for t in tasks}] == [task.key for task in tasks]


def test_the_search_finds_the_best_and_ends(tasks, rng):
    task = binary_task(tasks)
    search = Search.of(task)
    noise = {name: rng.normal(scale=0.03) for name in search.space}
    best = list(search.space)[3]
    asked = []
    while (found := search.next()) is not None:
        name, improvement = found
        assert improvement >= 0
        search.pending.add(name)
        assert (search.next() or ("",))[0] != name  # two measure at once, never the same
        asked.append(name)
        search.tell(name, 1.3 if name == best else float(np.exp(-search.expected[name] + noise[name])))
    assert search.best == (best, pytest.approx(1.3))
    assert FEWEST <= len(search.measured) < len(task.space) and len(set(asked)) == len(asked)
    assert search.worth_measuring() == 0


def test_every_family_can_be_measured(tasks, tmp_path):
    layer, target = binary_task(tasks).layer, json.dumps(resolve("native").tvm)
    firsts = {candidate.family: candidate for candidate in reversed(candidates(layer, binary_task(tasks).isa))}
    assert len(firsts) == 3
    for family, candidate in firsts.items():
        built = build_candidate(str(store_layer(layer, tmp_path)), candidate, target, str(tmp_path), family.name)
        assert measure_locally(built, built, 0.001, 1).cost > 0


def test_the_search_goes_on_after_failures(tasks):
    search = Search.of(binary_task(tasks))
    while (found := search.next()) is not None:
        search.tell(found[0], None)
    assert len(search.measured) == 1 and search.failed
    search.tell("unknown", 2.0)
    assert search.best[1] == 1.0


def test_hopeless_families_are_not_tried(tasks):
    search = Search.of(binary_task(tasks))
    families = {candidate.family for candidate in search.space.values()}
    assert POPCOUNT in families and FLOAT not in families


def filled(path: Path, tasks: list[Task], machine: TunedMachine, gain: float = 1.5) -> dict[str, str]:
    """A database in which the last member of the untuned family wins every task that has several; the winners."""
    database, winners = Database(path), {}
    for task in tasks:
        winner = [each for each in task.space if each.family == task.space[0].family][-1].name
        if winner == task.space[0].name:
            continue
        winners[task.key] = winner
        names = winner, task.space[0].name
        database.add(Record(task.key, task.title, machine, *names, 1e-5, gain * 1e-5, confirmed=True))
    return winners


def native(front) -> TunedMachine:
    runner = LocalRunner()
    return runner.machine(front.target)


def test_compile_takes_what_was_measured(model, front, tasks, tmp_path):
    path = tmp_path / "tuning.jsonl"
    winners = filled(path, tasks, native(front))
    module = sbnn_tvm.compile(model, tuning=path)
    chosen = {name: winners[task.key] for task in tasks if task.key in winners for name in task.names}
    for layer in module.report.layers:
        assert layer.chosen == ("tuned" if layer.name in chosen else "cost model")
        if layer.name in chosen:
            assert layer.gain == pytest.approx(1.5) and layer.how.endswith("(tuned 1.50x)")
            assert chosen[layer.name].split()[-1] in layer.kernel
    assert f"{len(chosen)} kernels tuned by {path}" in str(module.report)
    assert module.verify(samples=1).passed


def test_candidates_that_this_version_lacks_are_reported_and_not_chosen(model, front, tasks, tmp_path):
    path, machine, task = tmp_path / "tuning.jsonl", native(front), tasks[0]
    filled(path, tasks, machine)
    with_known = explain(model, tuning=path)
    for candidate, reference in (("popcount 0x99", task.space[0].name), *[("float 1x1", "nonsense")] * 9):
        Database(path).add(Record(task.key, "t", machine, candidate, reference, cost=1e-6, reference_cost=1e-3))
    report = explain(model, tuning=path)
    assert report.layers == with_known.layers
    (note,) = report.notes
    assert "measurements of" in note and "are skipped, since this version has no nonsense, popcount 0x99" in note


def test_a_forced_family_is_tuned_within_itself(model, front, tasks, tmp_path):
    path = tmp_path / "tuning.jsonl"
    tuned = [task for task in tasks if task.key in filled(path, tasks, native(front))]
    names = {name for task in tuned if isinstance(task.layer, BinaryLinearLayer) for name in task.names}
    report = explain(model, tuning=path, kernels=dict.fromkeys(names, "float"))
    assert {layer.chosen for layer in report.layers if layer.name in names} == {"chosen by you"}
    report = explain(model, tuning=path, kernels=dict.fromkeys(names, "popcount"))
    assert {layer.chosen for layer in report.layers if layer.name in names} == {"chosen by you, tuned"}


def test_gains_within_the_noise_change_nothing(model, front, tasks, tmp_path):
    filled(tmp_path / "tuning.jsonl", tasks, native(front), gain=1.01)
    assert explain(model, tuning=tmp_path / "tuning.jsonl").layers == front.report.layers


def test_another_cpu_is_never_used_silently(model, front, tasks, tmp_path):
    machine, path = native(front), tmp_path / "tuning.jsonl"
    others = [
        replace(machine, cpu="Other"),
        replace(machine, isa="x"),
        replace(machine, code="y"),
        replace(machine, caches=(1,)),
    ]
    for other in others:
        path.unlink(missing_ok=True)
        filled(path, tasks, other)
        report = explain(model, tuning=path)
        assert {layer.chosen for layer in report.layers} == {"cost model"}
        assert "has no measurements for this target's CPU" in report.notes[0]
        with pytest.raises(CompileError, match="no measurements for this target's CPU"):
            sbnn_tvm.compile(model, tuning=path, strict=True)
    with pytest.raises(CompileError, match="no measurements of a CPU 'Third'"):
        explain(model, tuning=path, tuning_cpu="Third")
    with pytest.raises(CompileError, match="there is no tuning="):
        explain(model, tuning_cpu="Third")
    filled(path, tasks, others[0])
    assert "measured on Other" in explain(model, tuning=path, tuning_cpu="Other").tuning


def test_boards_of_several_kinds_must_be_told_apart(model, tmp_path):
    target, path = resolve("arm"), tmp_path / "tuning.jsonl"
    front = lower_model(model, target, CompileOptions())
    tasks = tasks_of([e.layer for e in front.lowered.layers], front.imported.nodes, target.isa)
    boards = [TunedMachine(f"board {i}", (), target.isa.name, "generic,+neon", 1) for i in range(2)]
    filled(path, tasks, boards[0])
    assert "measured on board 0" in explain(model, target, tuning=path).tuning
    filled(path, tasks, boards[1])
    with pytest.raises(CompileError, match=r"several CPUs, name one of them .*: board 0; board 1"):
        explain(model, target, tuning=path)
    assert "measured on board 1" in explain(model, target, tuning=path, tuning_cpu="board 1").tuning


def test_a_network_that_was_slower_stays_untuned(model, front, tasks, tmp_path):
    path, machine = tmp_path / "tuning.jsonl", native(front)
    filled(path, tasks, machine)
    lowered = lower_model(model, "native", CompileOptions(tuning=path)).lowered
    key = choices_key(lowered.layers, front.target.isa)
    Database(path).add(NetworkRecord(key, "net", machine, gain=0.9, noise=0.01))
    report = explain(model, tuning=path)
    assert report.layers == front.report.layers
    assert "the whole network was slower with tuned kernels" in report.notes[0]


class FixedRunner:
    """Says that the candidate 'popcount 1x1' is twice as fast as all others, and that 'float 1x1' fails."""

    unit, parallel = "seconds", 2

    def __init__(self, machine: TunedMachine) -> None:
        self.where, self.measured = machine, []

    def machine(self, target):
        return self.where

    def measure(self, reference, candidate, seconds):
        assert Path(candidate.library).exists() and reference.kernels
        name = Path(candidate.library).name.rsplit("-", 1)[0]
        self.measured.append(name)
        if name == "float-1x1":
            raise MeasurementError("it crashed")
        return Measurement(0.5 if name == "popcount-1x1" else 1.0, 1.0)

    def time_networks(self, libraries, inputs, seconds):
        assert all(path.exists() for path in libraries.values()) and inputs
        raise MeasurementError("there is no network")

    def close(self):
        pass


@pytest.mark.slow
def test_tune_records_everything_and_goes_on(model, front, tasks, tmp_path):
    runner, path, seen = FixedRunner(native(front)), tmp_path / "tuning.jsonl", []
    result = tune(model, database=path, runner=runner, trials=5, progress=seen.append)
    assert len(runner.measured) == len(Database(path).records) == len(seen) == result.trials
    assert not result.finished and "not finished" in result.summary()
    result = tune(model, database=path, runner=runner)
    assert result.network is None and "The whole network was not compared: there is no network." in result.summary()
    records = Database(path).records
    searched = [(r.task, r.candidate) for r in records if not r.confirmed]
    assert result.finished and len(set(searched)) == len(searched)  # nothing is measured twice
    assert seen[-1].trials == 5 and all(r.failure == "it crashed" for r in records if r.candidate == "float 1x1")
    untuned = {record.task: record.reference for record in records}
    for task in result.tasks:
        if task.best == "popcount 1x1":  # which is the untuned candidate itself for some instruction sets
            assert task.gain == pytest.approx(2.0 if task.best != untuned.get(task.key, task.best) else 1.0)
    count = len(runner.measured)
    assert tune(model, database=path, runner=runner).trials == 0 and len(runner.measured) == count


@pytest.mark.slow
def test_a_full_disk_ends_the_tuning(model, front, tmp_path, monkeypatch):
    """It is no failure of a candidate."""

    def measure(*arguments):
        raise MeasurementError("No space left on device")

    runner = FixedRunner(native(front))
    monkeypatch.setattr(runner, "measure", measure)
    monkeypatch.setattr("sbnn_tvm.temporary_folder._LITTLE", 1 << 62)
    with pytest.raises(TuningError, match=r"cannot write temporary files in .*: only \d+ bytes are left"):
        tune(model, database=tmp_path / "tuning.jsonl", runner=runner, trials=3)
    assert (tmp_path / "tuning.jsonl").read_text() == ""


def program(tmp_path: Path, name: str, body) -> CandidateBuild:
    """A library with one function ``k0`` that does something harmful, or just sleeps."""
    target = resolve("native")
    func = body.with_attr("global_symbol", "k0")
    executable = tvm.compile(tvm.IRModule({"k0": func}), target.target)
    executable.export_library(str(tmp_path / f"{name}.so"))
    return CandidateBuild(str(tmp_path / f"{name}.so"), "", (LibraryKernel("k0", (KernelArgument((4,), "float32"),)),))


def sleeping(milliseconds: int):
    @T.prim_func(s_tir=True)
    def k0(a: T.Buffer((4,), "float32")):
        T.evaluate(T.call_extern("int32", "usleep", milliseconds * 1000))
        a[0] = T.float32(1)

    return k0


@T.prim_func(s_tir=True)
def crashing(a: T.Buffer((4,), "float32")):
    T.evaluate(T.call_extern("int32", "abort"))
    a[0] = T.float32(1)


@pytest.mark.slow
def test_a_candidate_that_crashes_or_hangs_harms_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "TIMEOUT", 10.0)
    good = program(tmp_path, "good", sleeping(1))
    runner = LocalRunner()
    try:
        assert runner.measure(good, good, 0.05).cost >= 1e-3
        with pytest.raises(MeasurementError, match="the process that ran it died"):
            runner.measure(good, program(tmp_path, "crashing", crashing), 0.05)
        assert runner.measure(good, good, 0.05).cost >= 1e-3
        with pytest.raises(MeasurementError, match="did not end within 10 s"):
            runner.measure(good, program(tmp_path, "hanging", sleeping(3_600_000)), 0.05)
        assert runner.measure(good, good, 0.05).reference_cost >= 1e-3
        with pytest.raises(MeasurementError, match="cannot find file"):
            runner.measure(good, replace(good, library="/nowhere.so"), 0.05)
    finally:
        runner.close()


@pytest.mark.slow
def test_servers_of_a_tracker_measure_at_once(model, tmp_path):
    pytest.importorskip("tornado")
    from concurrent.futures import ThreadPoolExecutor

    from tvm.rpc.tracker import Tracker

    tracker = Tracker("127.0.0.1", 9290, 9390, silent=True)
    address = ("127.0.0.1", tracker.port)
    servers = [serve("127.0.0.1", 9400 + 100 * i, address, "here") for i in range(2)]
    try:
        deadline = time.monotonic() + 30
        runner = None
        while runner is None or runner.parallel < 2:
            assert time.monotonic() < deadline
            try:
                runner = RpcRunner(*address, "here")
            except TuningError:
                time.sleep(0.2)
        machine = runner.machine(resolve("native"))
        assert machine.cpu == LocalRunner().machine(resolve("native")).cpu and machine.caches
        good, bad = program(tmp_path, "good", sleeping(2)), program(tmp_path, "bad", crashing)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: runner.measure(good, good, 0.05), range(4)))
        assert all(each.cost >= 2e-3 for each in found)
        with pytest.raises(MeasurementError):
            runner.measure(good, bad, 0.05)
        assert runner.measure(good, good, 0.05).cost >= 2e-3
        with pytest.raises(TuningError, match="no server with the key 'there'; it has: here"):
            RpcRunner(*address, "there")
        result = tune(
            model, database=tmp_path / "tuning.jsonl", runner=f"rpc://127.0.0.1:{tracker.port}/here", trials=4
        )
        assert result.trials >= 4 and not any(r.failure for r in Database(tmp_path / "tuning.jsonl").records)
        plain = sbnn_tvm.compile(model)
        record = compare_networks(plain, plain, runner, machine, 0.5)
        assert record.gain == pytest.approx(1.0, rel=0.5) and not result.not_compared
        onnx.save(model, tmp_path / "net.onnx")
        shown, _ = run_cli("bench", tmp_path / "net.onnx", "--rpc", f"127.0.0.1:{tracker.port}/here", "--seconds", 0.1)
        assert re.search(r"net\.onnx +[\d.]+ (us|ms) +[\d.]+ (us|ms) +[\d,]+\n", shown)
    finally:
        for server in servers:
            server.terminate()
        tracker.terminate()


@pytest.mark.slow
def test_instructions_are_estimated_for_arm(model, tmp_path):
    path = tmp_path / "tuning.jsonl"
    result = tune(model, "arm", database=path, runner="estimated", trials=6)
    assert result.network is None and result.machine.estimated
    records = [record for record in Database(path).records if not record.failure]
    assert records and all(r.unit == "instructions" and r.cost == int(r.cost) for r in records)
    assert "estimated (instructions)" in explain(model, "arm", tuning=path).tuning


@pytest.mark.slow
def test_killed_tuning_loses_nothing_and_two_tune_at_once(model, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    path = tmp_path / "tuning.jsonl"
    command = [sys.executable, "-m", "sbnn_tvm", "tune", str(tmp_path / "net.onnx"), "-d", str(path)]

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 240
    while lines() < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = Database(path)
    assert len(before.records) >= 3 and len(before.corrupt) <= 1
    (left,) = temporary.glob("sbnn_tvm-*")
    os.utime(left, (time.time() - 25 * 3600,) * 2)
    both = [subprocess.Popen([*command, "--trials", "3"], stdout=subprocess.DEVNULL, env=env) for _ in range(2)]
    assert [process.wait(timeout=250) for process in both] == [0, 0]
    assert not list(temporary.glob("sbnn_tvm-*"))
    after = Database(path)
    assert after.records[: len(before.records)] == before.records and len(after.corrupt) == len(before.corrupt)
    first = {(r.task, r.candidate) for r in before.records if not r.confirmed and r.gain is not None}
    again = {(r.task, r.candidate) for r in after.records[len(before.records) :] if not r.confirmed}
    assert again and not first & again
    for line in path.read_bytes().splitlines()[-2:]:
        parse(line)


def test_a_missing_package_is_named_before_anything_is_measured(model, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    code = (
        "import sys\nsys.modules['cloudpickle'] = None\nimport sbnn_tvm\n"
        "try:\n    sbnn_tvm.tune('net.onnx', trials=1)\n"
        "except sbnn_tvm.SbnnError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("TuningError tuning needs the package cloudpickle")
    assert 'pip install "sbnn-tvm[tune]"' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # no database of failed candidates


def test_runners_by_name():
    assert isinstance(runner_named("local"), LocalRunner)
    with pytest.raises(TuningError, match=r"a runner is 'local', 'estimated' or"):
        runner_named("board")
    start = r"there is no RPC tracker at 127.0.0.1:1 .*rpc_tracker --port 1.*sbnn-tvm\[tune\]"
    with pytest.raises(TuningError, match=start):
        runner_named("rpc://127.0.0.1:1/key")
    with pytest.raises(TuningError, match=r'does not run on this machine: .*"rpc://HOST:PORT/KEY".*"estimated"'):
        LocalRunner().machine(resolve("arm"))


def test_wrong_requests(model, tmp_path):
    with pytest.raises(TuningError, match="trials must be above 0"):
        tune(model, trials=0)
    with pytest.raises(TuningError, match="instructions are counted for ARM"):
        tune(model, runner="estimated", database=tmp_path / "x.jsonl")
    onnx.save(model, tmp_path / "net.onnx")
    assert "time_budget must be above 0" in run_cli("tune", tmp_path / "net.onnx", "--time-budget", -1, code=2)[1]
    assert "there is no tuning database" in run_cli("inspect", tmp_path / "net.onnx", "--tuning", "no.jsonl", code=2)[1]
