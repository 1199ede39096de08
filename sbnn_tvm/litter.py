"""What killed processes left behind: found by name, owner and age, and removed by the next one that writes there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_DAY = 24 * 60 * 60


def old_litter(folder: Path, name: re.Pattern[str]) -> Iterator[Path]:
    """Files and folders of this user in ``folder`` that were last changed more than a day ago.

    Args:
        folder: Where to look, not in folders below it. If it cannot be read, nothing is found.
        name: What the whole name must match. No other program and no person may use such names.
    """
    try:
        names = [each for each in os.listdir(folder) if name.fullmatch(each)]
    except OSError:
        return
    for each in names:
        try:
            status = os.lstat(folder / each)
        except OSError:  # its process is just removing it
            continue
        if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _DAY:
            yield folder / each
