"""Find the measurements of a tuning database that the compiler can use for a target."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from sbnn_tvm.passes.families.choose import Candidate, Tuned, candidates
from sbnn_tvm.passes.layers.kinds import Layer
from sbnn_tvm.passes.lowering.lower import LoweredLayer
from sbnn_tvm.schedules.isa import Isa

from ..deploy.targets import CpuTarget
from ..errors import CompileError
from ..runtime.cpu import this_cpu_model
from .database import Database
from .records import TunedMachine
from .tasks import task_key, title_of

NOISE = 1.03
"""The smallest gain that counts; smaller ones may be noise."""


@dataclass(frozen=True, eq=False)
class TuningLookup:
    """The measurements of one machine, by task.

    Attributes:
        database: The measurements.
        machine: The machine whose measurements are used; None if there are none for the target.
        unknown: Names in the database that are no candidates of a layer, by title of its task; filled by calls.
    """

    database: Database
    machine: TunedMachine | None
    unknown: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str | os.PathLike[str], target: CpuTarget, cpu: str | None = None) -> TuningLookup:
        """The measurements of a database that are valid for a target.

        Args:
            path: The database.
            target: The target. If it is native, only measurements of this machine's CPU are used; otherwise those of
                the CPU in the database that has its instruction set and code.
            cpu: Name of the CPU whose measurements to use, or a part of it.

        Raises:
            TuningError: If the file is missing or cannot be read.
            CompileError: If several CPUs are possible, or none has the name ``cpu``.
        """
        database = Database(path, must_exist=True)
        code = code_of(target)
        fitting = [each for each in database.machines() if (each.isa, each.code) == (target.isa.name, code)]
        if cpu is not None:
            fitting = [each for each in fitting if cpu in each.cpu]
            if not fitting:
                raise CompileError(
                    f"tuning: {path} has no measurements of a CPU {cpu!r} for {target.isa.name} ({code}); "
                    f"it has: {known_machines(database)}"
                )
        elif target.native:
            own = this_cpu_model()
            fitting = [each for each in fitting if (each.cpu, each.caches) == (own.name, own.caches)]
        if len({(each.cpu, each.caches) for each in fitting}) > 1:
            names = "; ".join(dict.fromkeys(each.cpu for each in fitting))
            raise CompileError(
                f"tuning: {path} has measurements of several CPUs, name one of them (tuning_cpu): {names}"
            )
        return cls(database, min(fitting, key=lambda each: each.threads, default=None))

    def __call__(self, layer: Layer, isa: Isa, space: Sequence[Candidate]) -> Tuned | None:
        """The best candidate of a layer; None to use the untuned one. Serves as ``Decisions.tuned``."""
        if self.machine is None or len(space) < 2:
            return None
        task = task_key(layer, isa)
        unknown = self.database.names(task, self.machine) - {each.name for each in space}
        if unknown:  # a family that the user forced has not all candidates
            unknown -= {each.name for each in candidates(layer, isa)}
        if unknown:
            self.unknown[title_of(layer, isa)] = sorted(unknown)
        return self.best(task, space, unknown)

    def best(self, task: str, space: Sequence[Candidate], unknown: Collection[str] = ()) -> Tuned | None:
        """The fastest candidate of a task; None if none is faster than the first by more than the noise.

        Args:
            task: Key of the task.
            space: The candidates to choose from.
            unknown: Names that are no candidates of the task. Their measurements do not count.
        """
        if self.machine is None:
            return None
        gains = self.database.gains(task, self.machine, deciding=True, without=unknown)
        untuned = gains.get(space[0].name)
        if untuned is None:
            return None
        found = {each: gains[each.name] / untuned for each in space if each.name in gains}
        best = max(found, key=lambda each: found[each])
        return Tuned(best, found[best]) if found[best] >= NOISE else None

    def complaints(self) -> list[str]:
        """Sentences about lines of the database that cannot be used."""
        named = (
            f"{self.database.path}: measurements of {title} are skipped, since this version has no {', '.join(names)}"
            for title, names in self.unknown.items()
        )
        return [*self.database.complaints(), *named]

    def slower(self, layers: Iterable[LoweredLayer], isa: Isa) -> bool:
        """Whether the network of these layers was measured and found slower than the untuned network."""
        if self.machine is None:
            return False
        verdict = self.database.verdict(choices_key(layers, isa), self.machine)
        return verdict is not None and verdict.slower


def choices_key(layers: Iterable[LoweredLayer], isa: Isa) -> str:
    """A key that is equal for networks with the same tasks and kernels."""
    pairs = sorted((task_key(entry.layer, isa), entry.choice.candidate.name) for entry in layers)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def code_of(target: CpuTarget) -> str:
    """The CPU and features that LLVM generates code for, as in ``TunedMachine.code``."""
    config = target.tvm
    return ",".join([str(config.get("mcpu", "generic")), *map(str, config.get("mattr", ()))])


def known_machines(database: Database) -> str:
    """The machines of a database, as text for messages."""
    return "; ".join(map(str, database.machines())) or "nothing"
