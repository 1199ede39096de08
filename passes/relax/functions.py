"""The Relax operators that are functions of one number, which epilogues compute with a known error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from sbnn_tvm.schedules.tir.functions import Function

FUNCTIONS: Mapping[str, Function] = {name: name for name in get_args(Function)}
"""By the name of the operator (without ``relax.``), the step of an epilogue."""
