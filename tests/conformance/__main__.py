"""``make conformance``: run ONNX's conformance cases and print a table by operator."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from .cases import cases
from .documentation import page
from .outcome import Outcome, Verdict, outcome


def _run(index: int) -> Outcome:
    return outcome(cases()[index])


def run(indices: Iterable[int], workers: int) -> Iterator[Outcome]:
    """Run cases in worker processes; one that ends its process counts as an exception."""
    waiting = list(indices)
    while waiting:
        with ProcessPoolExecutor(workers) as pool:
            futures = {index: pool.submit(_run, index) for index in waiting}
            broken = []
            for index, future in futures.items():
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken.append(index)
        waiting = []
        for index in broken:  # alone, to see which one it was
            with ProcessPoolExecutor(1) as pool:
                try:
                    yield pool.submit(_run, index).result()
                except BrokenProcessPool:
                    case = cases()[index]
                    yield Outcome(case.name, case.operator, Verdict.EXCEPTION, "the process died")


def main() -> int:
    """Run all cases, or those whose names contain the given text."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="run only the cases whose names contain this")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", help="write every outcome to this JSON file")
    parser.add_argument("--docs", help="write docs/operators.md to this file")
    arguments = parser.parse_args()
    chosen = [index for index, case in enumerate(cases()) if arguments.pattern in case.name]
    outcomes = list(run(chosen, arguments.workers))
    table: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for found in outcomes:
        table[found.operator][found.verdict] += 1
    print(f"{'operator':28}" + "".join(f"{verdict.value:>11}" for verdict in Verdict))
    for operator, counts in sorted(table.items()):
        print(f"{operator:28}" + "".join(f"{counts[verdict]:11}" for verdict in Verdict))
    total = Counter(found.verdict for found in outcomes)
    print(f"{'all':28}" + "".join(f"{total[verdict]:11}" for verdict in Verdict))
    for found in outcomes:
        if found.verdict in (Verdict.WRONG, Verdict.EXCEPTION) or arguments.pattern:
            print(f"{found.verdict.value} {found.case}: {found.reason[:300]}")
    if arguments.output:
        with open(arguments.output, "w") as file:
            json.dump([asdict(found) | {"verdict": found.verdict.value} for found in outcomes], file, indent=1)
    if arguments.docs:
        Path(arguments.docs).write_text(page(outcomes))
    return int(total[Verdict.WRONG] + total[Verdict.EXCEPTION] > 0)


if __name__ == "__main__":
    sys.exit(main())
