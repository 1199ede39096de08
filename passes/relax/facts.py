"""Facts about values that one phase finds and a later phase needs, stored as attributes of the module."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.ir import IRModule

_INTEGER_SUMS = "sbnn.integer_sums"


def with_integer_sums(mod: IRModule, sums: Mapping[str, str]) -> IRModule:
    """Record which integer sums replace sums of float products.

    The reference rounds the float sum; the integer sum is exact. A bit computed from the integer sum may therefore
    differ from the reference if the value is within rounding of the threshold.

    Args:
        mod: The module that computes the integer sums.
        sums: For the name of each integer sum, the name of the float sum that it replaces.
    """
    return mod.with_attr(_INTEGER_SUMS, dict(sums))


def integer_sums(mod: IRModule) -> dict[str, str]:
    """Read the record of :func:`with_integer_sums`; empty if there is none."""
    recorded = (mod.attrs or {}).get(_INTEGER_SUMS, {})
    return {str(key): str(value) for key, value in recorded.items()}
