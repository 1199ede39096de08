"""The tuning database: what was written is read, what is broken is reported, and several may write at once."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbnn_tvm.errors import TuningError
from sbnn_tvm.tuning_database.database import SHOWN_LINES, Database, merge
from sbnn_tvm.tuning_database.records import NetworkRecord, Record, TunedMachine, parse, render
from tests.support.command_line import run as run_cli
from tests.support.damaged_databases import damaged_database

MACHINE = TunedMachine("A CPU (1/2/3)", (32 << 10, 1 << 20), "avx2", "x86-64-v3", 1)
RECORD = Record("0123", "a task", MACHINE, "popcount 4x2", "popcount 7x2", 2e-5, 3e-5, when="2026-01-01T00:00:00+00:00")
NETWORK = NetworkRecord("4567", "a network", MACHINE, 1.1, 0.01, when="2026-01-02T00:00:00+00:00")


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "tuning.jsonl")
    failed = replace(RECORD, candidate="popcount 1x1", cost=None, reference_cost=None, failure="it crashed")
    for record in (RECORD, failed, NETWORK):
        database.add(record)
    again = Database(database.path)
    assert again.records == database.records == [RECORD, failed]
    assert again.networks == [NETWORK]
    assert again.machines() == [MACHINE]
    assert again.gains("0123", MACHINE) == {"popcount 7x2": 1.0, "popcount 4x2": pytest.approx(1.5)}
    assert again.failed("0123", MACHINE) == {"popcount 1x1"}
    assert again.gains("0123", replace(MACHINE, isa="avx512")) == {}
    assert again.verdict("4567", MACHINE) == NETWORK and again.verdict("4567", replace(MACHINE, threads=2)) is None


BROKEN = {
    "not JSON": (render(RECORD)[:-9], "not JSON"),
    "another object": ('{"a": 1}', "format"),
    "a number": ("7", "format"),
    "another version": (render(RECORD).replace('"version": 1', '"version": 99'), "version 99"),
    "another kind": (render(RECORD).replace('"kind": "task"', '"kind": "x"'), "kind"),
    "a field is missing": (json.dumps({k: v for k, v in json.loads(render(RECORD)).items() if k != "cost"}), "cost"),
    "a wrong type": (render(RECORD).replace("2e-05", '"fast"'), "cost is 'fast'"),
    "not a number": (render(RECORD).replace("2e-05", "NaN"), "cost is nan"),
    "not positive": (render(RECORD).replace("2e-05", "-1.0"), "cost is -1.0"),
    "no machine": (json.dumps({**json.loads(render(RECORD)), "machine": None}), "machine"),
    "wrong caches": (render(RECORD).replace("[32768, 1048576]", '["big"]'), "caches"),
    "not text": ("\udcff\udcfe", "not JSON"),
    "nested deeply": ("[" * 3000 + "]" * 3000, "nested too deeply"),
    "a number of 5,000 digits": (render(RECORD).replace("2e-05", "1" * 5000), "not JSON"),
    "a number of 400 digits": (render(RECORD).replace("2e-05", "1" * 400), "cost is a number of more than 256 bits"),
    "an infinite number": (render(RECORD).replace("2e-05", "1e400"), "cost is inf"),
    "a time that no kernel has": (render(RECORD).replace("2e-05", "2e-15"), "cost is 2e-15"),
    "a list as its kind": (render(RECORD).replace('"task", "task"', '[], "task"'), "kind"),
    "a field twice": (render(RECORD).replace('"unit"', '"cost": 1, "unit"'), "a field twice"),
    "an unknown instruction set": (render(RECORD).replace('"avx2"', '"avx3"'), "(isa) is 'avx3', not one of avx512"),
    "no threads": (render(RECORD).replace('"threads": 1', '"threads": 0'), "threads is 0"),
    "an unknown unit": (render(RECORD).replace('"seconds"', '"hours"'), "unit is 'hours', not seconds or"),
    "no cost and no failure": (render(RECORD).replace("2e-05", "null"), "did not fail"),
    "another time": (render(RECORD).replace("2026-01-01T", "yesterday"), "ISO 8601"),
    "a changed value": (render(RECORD).replace("2e-05", "1e-05"), "its digest does not fit"),
    "no digest": (render(RECORD)[: render(RECORD).index(', "digest"')] + "}", "no digest"),
    "NUL bytes": ("\0" * 20, "not JSON"),
    "a line that is too long": ("x" * 3_000_000, "longer than 1048576 bytes"),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_lines_are_reported_skipped_and_kept(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "tuning.jsonl"
    raw = line.encode(errors="surrogateescape")
    path.write_bytes(render(RECORD).encode() + b"\n" + raw + b"\n" + render(NETWORK).encode() + b"\n")
    database = Database(path)
    assert (database.records, database.networks) == ([RECORD], [NETWORK])
    (corrupt,) = database.corrupt
    assert corrupt.number == 2 and reason in str(corrupt) and str(corrupt).startswith(f"{path}:2 is skipped")
    database.add(replace(RECORD, candidate="popcount 1x1"))
    assert raw in path.read_bytes()
    assert len(Database(path).records) == 2


def test_files_of_windows_editors(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{render(RECORD)}\r\n\r\n{render(NETWORK)}\r\n".encode())
    database = Database(path)
    assert (database.records, database.networks, database.skipped) == ([RECORD], [NETWORK], 0)


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    path.write_text("x\n" * 1000 + render(RECORD))
    database = Database(path)
    assert database.records == [RECORD] and database.skipped == 1000
    assert len(database.complaints()) == SHOWN_LINES + 1
    assert database.complaints()[-1] == f"{path}: {1000 - SHOWN_LINES} more lines are skipped"


def test_a_value_that_would_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "tuning.jsonl")
    for cost in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(TuningError, match="a measurement of 'a task' cannot be stored"):
            database.add(replace(RECORD, cost=cost))
    assert not database.path.exists()


def _read_damaged(folder: Path, seed: int) -> None:
    originals = [
        RECORD,
        NETWORK,
        replace(RECORD, machine=replace(MACHINE, caches=()), unit="instructions", cost=7, reference_cost=9),
        replace(RECORD, cost=None, reference_cost=None, failure="it crashed"),
    ]
    path = folder / "tuning.jsonl"
    content = damaged_database(originals, np.random.default_rng(seed))
    path.write_bytes(content)
    database = Database(path)
    kept = [*database.records, *database.networks]
    assert all(record in originals for record in kept), seed
    assert len(kept) + database.skipped == sum(bool(line.strip()) for line in content.split(b"\n")), seed
    for machine in database.machines():
        database.gains(RECORD.task, machine)
    database.decisive()


@pytest.mark.parametrize("seed", range(50))
def test_damaged_databases(tmp_path: Path, seed: int) -> None:
    _read_damaged(tmp_path, seed)


@pytest.mark.fuzz
def test_many_damaged_databases(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        _read_damaged(tmp_path, seed)


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    path.write_text(render(RECORD) + "\n" + render(RECORD)[:40])
    Database(path).add(NETWORK)
    database = Database(path)
    assert (database.records, database.networks, len(database.corrupt)) == ([RECORD], [NETWORK], 1)


def _write(path: Path, name: str) -> None:
    database = Database(path)
    for i in range(100):
        database.add(replace(RECORD, candidate=f"{name} {i}"))


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    database = Database(path)
    assert not database.corrupt
    assert {r.candidate for r in database.records} == {f"{name} {i}" for name in "ab" for i in range(100)}


def test_gains_of_several_measurements() -> None:
    database = Database("nowhere")
    for gain in (1.0, 1.2, 1.9):  # the median counts
        database.records.append(replace(RECORD, cost=1.0, reference_cost=gain))
    database.records.append(replace(RECORD, candidate="lucky", cost=1.0, reference_cost=2.0))
    database.records.append(replace(RECORD, candidate="unsteady", cost=1.0, reference_cost=9.0, steady=False))
    database.records.append(replace(RECORD, candidate="other", reference="another", cost=1.0, reference_cost=9.0))
    assert database.gains("0123", MACHINE) == {"popcount 7x2": 1.0, "popcount 4x2": 1.2, "lucky": 2.0}
    # A confirmed measurement outweighs those of the search.
    database.records.append(replace(RECORD, cost=1.0, reference_cost=1.1, confirmed=True))
    assert database.gains("0123", MACHINE)["popcount 4x2"] == 1.1
    assert database.gains("0123", MACHINE, deciding=True) == {"popcount 7x2": 1.0, "popcount 4x2": 1.1}


def test_merge_and_export(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "all.jsonl", "best.jsonl")]
    slow = replace(RECORD, candidate="popcount 1x1", cost=9e-5, confirmed=True)
    for path, records in zip(paths, ([RECORD, NETWORK], [RECORD, replace(RECORD, confirmed=True), slow]), strict=False):
        for record in records:
            Database(path).add(record)
    with paths[1].open("a") as file:
        file.write("broken\n")
    assert "4 records" in run_cli("tuning", "merge", paths[2], paths[0], paths[1])[0]
    merged = Database(paths[2])
    assert len(merged.records) == 3 and len(merged.networks) == 1 and not merged.corrupt
    _, warnings = run_cli("tuning", "export", paths[1], "-o", paths[3])
    assert "b.jsonl:4 is skipped" in warnings
    assert Database(paths[3]).records == [replace(RECORD, confirmed=True)]
    assert merge(paths[0], paths[:2])[0] == 4 and len(Database(paths[0]).records) == 3  # an input may be the output


def test_show_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "tuning.jsonl"
    for record in (RECORD, replace(RECORD, candidate="popcount 1x1", cost=6e-5), NETWORK):
        Database(path).add(record)
    output, _ = run_cli("tuning", "show", path)
    assert "A CPU (1/2/3) with 32 KiB, 1024 KiB, avx2 (x86-64-v3), 1 thread" in output
    assert "popcount 4x2" in output and "1.500" in output and "30.0 us" in output and "a network as a whole" in output
    run_cli("tuning", "plot", path, "-o", tmp_path / "pictures")
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [
        "progress-0-A-CPU-1-2-3.svg",
        "tuned-0-A-CPU-1-2-3.svg",
    ]


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "there is no tuning database" in run_cli("tuning", "show", tmp_path / "no.jsonl", code=2)[1]
    with pytest.raises(TuningError, match="cannot be read: it is a folder"):
        Database(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo.link").symlink_to(tmp_path / "fifo")
    for device in (tmp_path / "fifo", tmp_path / "fifo.link", "/dev/zero"):
        with pytest.raises(TuningError, match="cannot be read: it is no regular file"):
            Database(device)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TuningError, match="cannot be read: it has 1099511627776 bytes"):
        Database(tmp_path / "huge")
    with pytest.raises(TuningError, match="cannot be read: embedded null byte"):
        Database("a\0b")
    with pytest.raises(TuningError, match="cannot be written"):
        Database(tmp_path / "no" / "folder").add(RECORD)
    with pytest.raises(ValueError, match="not JSON"):
        parse(b"")


def test_a_server_listens_on_this_machine_alone_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[str] = []

    def serve(host: str, *_: object) -> None:
        hosts.append(host)
        raise TuningError("enough")

    monkeypatch.setattr("sbnn_tvm.tuning.rpc_runner.serve", serve)
    arguments = ("tuning", "serve", "--key", "k", "--tracker")
    assert run_cli(*arguments, "127.0.0.1:9190", code=2)[1] == "error: enough\n"
    assert "warning: only this machine can connect" in run_cli(*arguments, "192.168.1.2:9190", code=2)[1]
    assert run_cli(*arguments, "192.168.1.2:9190", "--host", "0.0.0.0", code=2)[1] == "error: enough\n"
    assert hosts == ["127.0.0.1", "127.0.0.1", "0.0.0.0"]


def test_a_server_without_tracker_is_one_sentence() -> None:
    for tracker in ("127.0.0.1:1", "127.0.0.1:99999999"):
        _, error = run_cli("tuning", "serve", "--key", "k", "--tracker", tracker, code=2)
        assert error.startswith(f"error: there is no RPC tracker at {tracker} (") and error.count("\n") == 1
