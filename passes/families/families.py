"""All kernel families. To add one: a folder in schedules/, a file with its door here, and a line in the list."""

from __future__ import annotations

from .counters import COUNTERS
from .family import Family
from .float32 import FLOAT
from .popcount import POPCOUNT
from .sparse_float import SPARSE_FLOAT
from .words import WORDS

FAMILIES: tuple[Family, ...] = (POPCOUNT, COUNTERS, FLOAT, SPARSE_FLOAT, WORDS)
"""Of two families with equal costs the first is taken."""

BY_NAME = {family.name: family for family in FAMILIES}
