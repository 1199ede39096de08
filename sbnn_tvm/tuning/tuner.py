"""``sbnn_tvm.tune``: measure the candidates of a network's layers, and store the results in a database."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvm.support.popen_pool import PopenWorker

from sbnn_tvm.passes.families.choose import Candidate, Decisions
from sbnn_tvm.passes.pipeline import to_kernels

from ..compiler import LoweredModel, lower_model
from ..deploy.targets import CpuTarget, resolve
from ..errors import TuningError
from ..options import CompileOptions, ModelKeywords, options_of
from ..temporary_folder import check_space, temporary_folder
from ..tuning_database.database import Database
from ..tuning_database.lookup import TuningLookup, choices_key
from ..tuning_database.records import NetworkRecord, Record, TunedMachine
from ..tuning_database.tasks import Task, tasks_of
from .build_candidate import CandidateBuild, build_candidate, store_layer
from .compare_networks import compare_networks
from .measure_candidate import Measurement
from .named_runner import runner_named
from .runner import MeasurementError, Runner
from .search import Search
from .worker_process import check_cloudpickle, in_process

if TYPE_CHECKING:
    from typing import Unpack

    from ..compiler import Model, TargetLike

SEARCH_SECONDS, CONFIRM_SECONDS = 0.06, 0.2
"""Time to measure a candidate: during the search, and when a finalist is confirmed."""

CONFIRMATIONS = 3
"""How often a finalist is measured again, each time with its arrays at other addresses; the median counts."""

FINALISTS = 3
"""Number of candidates of a task that are measured again, for longer."""


@dataclass(frozen=True)
class TaskResult:
    """The result for one task.

    Attributes:
        key: Same as in Task.
        title: Same as in Task.
        names: Same as in Task.
        best: Name of the fastest candidate; the untuned one unless another is faster by more than the noise.
        gain: Time of the untuned candidate over time of the best one.
        measured: Number of measured candidates.
        failed: Number of candidates that could not be measured.
        space: Number of all candidates.
    """

    key: str
    title: str
    names: tuple[str, ...]
    best: str
    gain: float
    measured: int
    failed: int
    space: int


@dataclass(frozen=True)
class TuningResult:
    """The result of tuning a network.

    Attributes:
        machine: The machine that the measurements are valid for.
        tasks: One result per task.
        trials: Number of measurements in this run.
        seconds: Duration of this run.
        finished: Whether the search ended by itself, before ``trials`` or ``time_budget`` ended it.
        network: The comparison of the whole network tuned and untuned. None if no layer changed, if it could not be
            run, or for estimates, which add up.
        not_compared: Why the whole network could not be run; empty if it was, or if no layer changed.
        skipped: Sentences about lines of the database that cannot be read.
    """

    machine: TunedMachine
    tasks: tuple[TaskResult, ...]
    trials: int
    seconds: float
    finished: bool
    network: NetworkRecord | None
    not_compared: str = ""
    skipped: tuple[str, ...] = ()

    def summary(self) -> str:
        """One or two sentences."""
        better = [task for task in self.tasks if task.gain > 1]
        text = (
            f"{self.trials} measurements in {self.seconds:.0f} s; {len(better)} of {len(self.tasks)} tasks got faster"
        )
        if better:
            most = max(better, key=lambda task: task.gain)
            text += f", {most.title} by {most.gain:.2f}x"
        if not self.finished:
            text += "; the search is not finished: run it again to go on"
        if self.network is not None and self.network.slower:
            return (
                f"{text}. The whole network is {1 / self.network.gain:.3f}x slower tuned: its kernels are kept untuned."
            )
        if self.network is not None:
            within = " (within the noise)" if abs(self.network.gain - 1) <= self.network.noise else ""
            return f"{text}. The whole network: {self.network.gain:.3f}x{within}."
        if self.not_compared:
            return f"{text}. The whole network was not compared: {self.not_compared}."
        return f"{text}."


@dataclass(frozen=True)
class TuningProgress:
    """The progress of tuning a network.

    Attributes:
        phase: ``"searching"`` or ``"confirming"``.
        task: Title of the task that was measured last.
        candidate: Name of the candidate that was measured last.
        gain: Time of the untuned candidate over time of that candidate; None if it failed.
        best: The best gain of that task so far.
        expected: Expected gain of the whole network: the sum of its tasks' times untuned, over the same sum with the
            best candidate of each task so far.
        trials: Number of measurements so far.
        remaining: Approximate number of measurements to come.
        seconds_left: Approximate remaining time.
    """

    phase: str
    task: str
    candidate: str
    gain: float | None
    best: float
    expected: float
    trials: int
    remaining: int
    seconds_left: float


def tune(
    model: Model,
    target: TargetLike = "native",
    options: CompileOptions | None = None,
    *,
    database: str | os.PathLike[str] = "tuning.jsonl",
    trials: int | None = None,
    time_budget: float | None = None,
    runner: str | Runner = "local",
    threads: int = 1,
    progress: Callable[[TuningProgress], None] | None = None,
    **keywords: Unpack[ModelKeywords],
) -> TuningResult:
    """Find the fastest kernels for a model's layers by measuring them.

    Every measurement is written to the database at once. So the run may be stopped at any moment, and the next one
    continues where it stopped. Several runs may share a database.

    Args:
        model: Same as in ``compile``.
        target: What to tune for; same as in ``compile``.
        options: Same as in ``compile``, but only ``input_shape``, ``sign_zero``, ``name`` and
            ``compare_export`` are read.
        database: The file; ``compile(..., tuning=database)`` uses it.
        trials: Largest number of measurements. The default is as many as promise a gain.
        time_budget: Time to stop after, in seconds, approximately. The default is no limit.
        runner: Where to measure: ``"local"``, ``"rpc://host:port/key"`` for all servers that an RPC tracker has under a
            key, ``"estimated"`` (counts of instructions, for ARM without hardware), or a Runner.
        threads: Number of threads that share the work of a layer.
        progress: Called after each measurement.
        keywords: The same options one by one.

    Returns:
        The best kernel of each task. If the runner can run the whole network, also a comparison of the network tuned
        and untuned.

    Raises:
        ModelError: Same as in ``compile``.
        TargetError: Same as in ``compile``.
        CompileError: Same as in ``compile``.
        TuningError: If the runner cannot run code for the target, the database cannot be read or written, there is no
            space for temporary files, or the package cloudpickle is missing.

    Example::

        result = sbnn_tvm.tune(model, database="tuning.jsonl", time_budget=300)
        print(result.summary())
        module = sbnn_tvm.compile(model, tuning="tuning.jsonl")
    """
    chosen = options_of("tune", ModelKeywords, options, keywords)
    for what, value in (("trials", trials), ("time_budget", time_budget)):
        if value is not None and not value > 0:
            raise TuningError(f"{what} must be above 0, but got {value}")
    check_cloudpickle()
    untuned = CompileOptions(**{name: getattr(chosen, name) for name in ModelKeywords.__annotations__})
    front = lower_model(model, resolve(target).single, untuned)
    layers = [entry.layer for entry in front.lowered.layers]
    own = runner_named(runner, threads) if isinstance(runner, str) else runner
    try:
        machine = own.machine(front.target)
        tasks = tasks_of(layers, front.imported.nodes, front.target.isa, machine.threads)
        file = Database(database)
        file.create()
        session = _Session(tasks, machine, front.target, own, file, trials, time_budget, progress)
        session.run()
        try:
            return session.result(session.compare(front))
        except MeasurementError as error:
            return session.result(None, str(error))
    finally:
        if isinstance(runner, str):
            own.close()


class _Session:
    """One run of the tuner."""

    def __init__(
        self,
        tasks: list[Task],
        machine: TunedMachine,
        target: CpuTarget,
        runner: Runner,
        database: Database,
        trials: int | None,
        time_budget: float | None,
        progress: Callable[[TuningProgress], None] | None,
    ) -> None:
        self.tasks, self.target, self.runner, self.database = tasks, target, runner, database
        self.machine = machine
        self.most = trials if trials is not None else 1 << 30
        self.begin = time.monotonic()
        self.end = self.begin + (time_budget if time_budget is not None else 1e9)
        # The last quarter of the time is for confirming the finalists.
        self.search_end = self.begin + 0.75 * (self.end - self.begin)
        self.report = progress
        self.trials, self.finished = 0, False
        self.lock = threading.Lock()
        self.searches = {task.key: Search.of(task) for task in tasks}
        self.builds: dict[tuple[str, str], CandidateBuild] = {}
        self.costs: dict[str, float] = {}
        self.errors: list[BaseException] = []
        for task in tasks:
            self._resume(task)

    def _resume(self, task: Task) -> None:
        search, gains = self.searches[task.key], self.database.gains(task.key, self.machine)
        untuned = gains.get(task.space[0].name)
        if untuned is not None:
            for name, gain in gains.items():
                search.tell(name, gain / untuned)
        for name in self.database.failed(task.key, self.machine) - gains.keys():
            search.tell(name, None)
        for record in self.database.records:
            if (record.task, record.machine) == (task.key, self.machine) and record.reference_cost is not None:
                self.costs.setdefault(task.key, record.reference_cost)

    def run(self) -> None:
        """Search, then confirm."""
        with temporary_folder(TuningError) as folder:
            self.folder = folder
            self.layers = {task.key: self._store(task) for task in self.tasks}
            # One thread more than there are parallel measurements: it builds while the others measure.
            self.measuring = threading.BoundedSemaphore(self.runner.parallel)
            self._in_threads(self.runner.parallel + 1, self._search)
            finals = [(task, name) for task in self.tasks for name in self._finalists(task)]
            self._in_threads(self.runner.parallel, lambda worker: self._confirm(worker, finals))

    def _store(self, task: Task) -> str:
        folder = self.folder / task.key
        folder.mkdir()
        return str(store_layer(task.layer, folder))

    def _in_threads(self, count: int, work: Callable[[PopenWorker], None]) -> None:
        def thread() -> None:
            worker = PopenWorker()
            try:
                work(worker)
            except BaseException as error:
                self.errors.append(error)
            finally:
                worker.kill()

        threads = [threading.Thread(target=thread, daemon=True) for _ in range(count)]
        for each in threads:
            each.start()
        try:
            for each in threads:
                while each.is_alive():
                    each.join(0.2)  # so that Ctrl-C comes through
        except KeyboardInterrupt:
            self.most = 0
            raise
        if self.errors:
            raise self.errors[0]

    def _search(self, worker: PopenWorker) -> None:
        while (found := self._next()) is not None:
            self._try(worker, *found, confirm=False)

    def _next(self) -> tuple[Task, str] | None:
        """The candidate that is expected to save most of the whole network's time."""
        with self.lock:
            if self.trials >= self.most or time.monotonic() > self.search_end or self.errors:
                return None
            promises = []
            for task in self.tasks:
                if (found := self.searches[task.key].next()) is not None:
                    name, improvement = found
                    promises.append((improvement * self._weight(task), task, name))
            if not promises:
                self.finished = True
                return None
            _, task, name = max(promises, key=lambda each: each[0])
            self.searches[task.key].pending.add(name)
            self.trials += 1
            return task, name

    def _weight(self, task: Task) -> float:
        """Time of a task in the network; very large if unknown, so that the task is measured first."""
        return len(task.names) * self.costs.get(task.key, 1e9)

    def _finalists(self, task: Task) -> list[str]:
        """The candidates that may win, each repeated for every confirmation that is missing."""
        search = self.searches[task.key]
        ranked = sorted(search.measured, key=lambda name: search.measured[name])[:FINALISTS]
        records = [r for r in self.database.records if (r.task, r.machine) == (task.key, self.machine)]
        known = [r.candidate for r in records if r.confirmed and r.reference == task.space[0].name]
        hopeful = [name for name in ranked if search.measured[name] < 0]
        return [name for name in hopeful for _ in range(CONFIRMATIONS - known.count(name))]

    def _confirm(self, worker: PopenWorker, finals: list[tuple[Task, str]]) -> None:
        while True:
            with self.lock:
                if not finals or time.monotonic() > self.end or self.most == 0:
                    return
                task, name = finals.pop(0)
                self.trials += 1
            self._try(worker, task, name, confirm=True)

    def _try(self, worker: PopenWorker, task: Task, name: str, confirm: bool) -> None:
        reference, candidate = task.space[0], self.searches[task.key].space[name]
        measurement, failure = None, ""
        try:
            untuned = self._build(worker, task, reference)
        except MeasurementError as error:
            # Without the untuned candidate there is nothing to compare with: skip the task.
            check_space(self.folder, TuningError)  # a full disk says nothing about a candidate
            self.searches[task.key].failed.update(self.searches[task.key].space)
            self._note(task, reference.name, None, str(error), confirm)
            return
        try:
            build = self._build(worker, task, candidate)
            with self.measuring:
                seconds = CONFIRM_SECONDS if confirm else SEARCH_SECONDS
                measurement = self.runner.measure(untuned, build, seconds)
        except MeasurementError as error:
            check_space(self.folder, TuningError)
            failure = str(error)
        self._note(task, name, measurement, failure, confirm)

    def _build(self, worker: PopenWorker, task: Task, candidate: Candidate) -> CandidateBuild:
        key = (task.key, candidate.name)
        if key not in self.builds:
            folder, target = Path(self.layers[task.key]).parent, json.dumps(self.target.tvm)
            # Two threads may build the untuned candidate at the same time, so their file names differ.
            name = f"{candidate.name.replace(' ', '-')}-{threading.get_ident()}"
            arguments = (self.layers[task.key], candidate, target, str(folder), name)
            self.builds[key] = in_process(worker, build_candidate, arguments, 120.0)
        return self.builds[key]

    def _note(self, task: Task, name: str, found: Measurement | None, failure: str, confirm: bool) -> None:
        record = Record(
            task=task.key,
            title=task.title,
            machine=self.machine,
            candidate=name,
            reference=task.space[0].name,
            cost=None if found is None else found.cost,
            reference_cost=None if found is None else found.reference_cost,
            unit=self.runner.unit,
            confirmed=confirm,
            steady=found is None or found.steady,
            failure=failure,
        )
        with self.lock:
            self.database.add(record)
            search = self.searches[task.key]
            if found is None:
                search.tell(name, None)
            else:
                self.costs.setdefault(task.key, found.reference_cost)
                search.tell(name, found.reference_cost / found.cost)
            if self.report is not None:
                self.report(self._progress(record, search, confirm))

    def _progress(self, record: Record, search: Search, confirm: bool) -> TuningProgress:
        plain = sum(self._weight(task) for task in self.tasks if task.key in self.costs)
        best = {key: each.best[1] for key, each in self.searches.items()}
        tuned = sum(self._weight(task) / best[task.key] for task in self.tasks if task.key in self.costs)
        remaining = 0 if confirm else sum(each.worth_measuring() for each in self.searches.values())
        remaining = min(remaining, max(0, self.most - self.trials))
        spent = time.monotonic() - self.begin
        left = spent / self.trials * remaining if self.trials else 0.0
        return TuningProgress(
            "confirming" if confirm else "searching", record.title, record.candidate, record.gain, search.best[1],
            plain / tuned if tuned else 1.0, self.trials, remaining, max(0.0, min(left, self.end - time.monotonic())),
        )  # fmt: skip

    def compare(self, front: LoweredModel) -> NetworkRecord | None:
        """Compare the whole network tuned and untuned; None if no layer changed, or if nothing is timed.

        Raises:
            MeasurementError: If the runner cannot run it.
        """
        if self.machine.estimated:
            return None
        decisions = Decisions((), front.imported.nodes, TuningLookup(self.database, self.machine))
        lowered = to_kernels(front.composites, front.target.isa, decisions)
        if not any(entry.choice is not None and entry.choice.tuned is not None for entry in lowered.layers):
            return None
        known = self.database.verdict(choices_key(lowered.layers, front.target.isa), self.machine)
        if known is not None and not known.slower:
            return known
        plain, tuned = front.build(), replace(front, lowered=lowered).build()
        record = compare_networks(plain, tuned, self.runner, self.machine)
        if record.slower:  # other programs may have used the machine: repeat it, and keep the better result
            again = compare_networks(plain, tuned, self.runner, self.machine)
            record = max(record, again, key=lambda each: each.gain)
        self.database.add(record)
        return record

    def result(self, network: NetworkRecord | None, not_compared: str = "") -> TuningResult:
        """The result so far."""
        use = TuningLookup(self.database, self.machine)
        results = []
        for task in self.tasks:
            search, found = self.searches[task.key], use.best(task.key, task.space)
            best, gain = (task.space[0].name, 1.0) if found is None else (found.candidate.name, found.gain)
            counts = len(search.measured), len(search.failed), len(search.space)
            results.append(TaskResult(task.key, task.title, task.names, best, gain, *counts))
        seconds = time.monotonic() - self.begin
        return TuningResult(
            self.machine, tuple(results), self.trials, seconds, self.finished, network, not_compared,
            tuple(self.database.complaints()),
        )  # fmt: skip
