"""The list of all kernel families.

To add a family, write its kernels in a folder of schedules/, its interface in a file here, and add a line to the list.
"""

from __future__ import annotations

from .counters import COUNTERS
from .family import Family
from .float32 import FLOAT
from .int8 import INT8
from .popcount import POPCOUNT
from .sparse_float import SPARSE_FLOAT
from .words import WORDS

FAMILIES: tuple[Family, ...] = (POPCOUNT, COUNTERS, FLOAT, INT8, SPARSE_FLOAT, WORDS)
"""All families. If two have equal costs, the first one is chosen."""

BY_NAME = {family.name: family for family in FAMILIES}
