"""``python -m tests.random_kernels [FIRST [NUMBER]]``: check NUMBER kernels from FIRST on; by default 20,000 from 0."""

from __future__ import annotations

import sys
import time
from collections import Counter

from .kernels import check


def main(first: int = 0, number: int = 20_000) -> int:
    """Print each failure with the number that repeats it, and the time of a kernel of each family.

    Returns:
        1 if a kernel failed, else 0.
    """
    seconds: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    failures = 0
    for seed in range(first, first + number):
        start = time.process_time()
        try:
            family = check(seed)
        except AssertionError as error:
            failures += 1
            print(f"FAILED {error}", flush=True)
            continue
        seconds[family] += time.process_time() - start
        kernels[family] += 1
        if (seed + 1 - first) % 500 == 0:
            print(f"{seed + 1 - first} kernels, {failures} failures", flush=True)
    for family, count in sorted(kernels.items()):
        print(f"{family}: {count} kernels, {seconds[family] / count:.3f} s each")
    print(f"{number} kernels from {first}: {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
