"""``python -m tests.random_c_libraries [FIRST [NUMBER]]``: check NUMBER networks from FIRST on, by default 1,000."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .batches import BATCH, check_batch


def main(first: int = 0, number: int = 1000) -> int:
    """Print each failure with the number of its batch, which repeats it.

    Returns:
        1 if a batch failed, else 0.
    """
    models = parallel = refused = failures = 0
    for batch in range(first // BATCH, -(-(first + number) // BATCH)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = check_batch(batch, Path(folder))
            except Exception as error:  # the next batches are worth checking, whatever is wrong with this one
                failures += 1
                print(f"FAILED {batch * BATCH}: {type(error).__name__}: {error}", flush=True)
                continue
        models, parallel, refused = models + done.models, parallel + done.parallel, refused + done.refused
        print(
            f"{batch * BATCH}: {models} models, {parallel} with parallel loops, {refused} refused, {failures} failures",
            flush=True,
        )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
