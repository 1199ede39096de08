"""Sends hostile files to a worker process, and starts another one when it dies."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.paths import ROOT


@dataclass(frozen=True)
class Answer:
    """What became of a file.

    Attributes:
        seed: Of ``mutated``.
        verdict: ``accepted``, ``right`` or ``refused``; otherwise a failure: ``wrong``, ``defect``, ``exception``,
            ``died``.
        text: The sentence, the difference, or what the process said at last.
        seconds: CPU time.
    """

    seed: int
    verdict: str
    text: str
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this is a defect of the compiler."""
        return self.verdict not in ("accepted", "right", "refused")


class _Worker:
    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "tests.support.hostile.worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)

    def ask(self, seed: int, depth: int) -> Answer | None:
        """The answer; None if the reference died, which is no concern of ours."""
        assert self.process.stdin and self.process.stdout
        print(seed, depth, file=self.process.stdin, flush=True)
        stage = ""
        for line in self.process.stdout:
            if line.startswith("stage "):
                stage = line.split()[1]
            elif line.startswith("{"):
                return Answer(**json.loads(line))
        code = self.process.wait()
        self.errors.seek(0)
        return None if stage == "reference" else Answer(seed, "died", f"{stage}, {code}: {self.errors.read()[-3000:]}")

    def end(self) -> None:
        """End the process."""
        self.process.communicate()
        self.errors.close()


def answers(seeds: Sequence[int], depth_of: Callable[[int], int]) -> Iterator[Answer]:
    """Try the files of these seeds one after another.

    Args:
        seeds: Of ``mutated``.
        depth_of: How far an accepted file goes, by its seed: 0 lowered, 1 built, 2 compared with onnxruntime.
    """
    worker: _Worker | None = None
    for seed in seeds:
        worker = worker or _Worker()
        answer = worker.ask(seed, depth_of(seed))
        if answer is None or answer.verdict == "died":
            worker.end()
            worker = None
        yield answer or Answer(seed, "accepted", "onnxruntime died")
    if worker is not None:
        worker.end()


def depth_of(seed: int) -> int:
    """Every fifth accepted file is compared with onnxruntime; machine code costs more than all before it."""
    return 2 if seed % 5 == 0 else 0


def main() -> None:
    """``python -m tests.support.hostile.run_files FIRST LAST``: print every failure, and a count of the verdicts."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    count: Counter[str] = Counter()
    for answer in answers(range(first, last), depth_of):
        count[answer.verdict] += 1
        if answer.failed or answer.seconds > 5:
            print(answer, flush=True)
    print(count)


if __name__ == "__main__":
    main()
