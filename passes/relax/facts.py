"""Facts that one phase finds about values and a later phase needs: typed attributes of the module."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.ir import IRModule

_INTEGER_SUMS = "sbnn.integer_sums"


def with_integer_sums(mod: IRModule, sums: Mapping[str, str]) -> IRModule:
    """Record which integer sums replace sums of float products.

    The reference rounds such a float sum, the integer sum is exact. So bits computed from it may differ from the
    reference within rounding.

    Args:
        mod: The module that computes the integer sums.
        sums: Name of each integer sum, and name of the float sum that it replaces.
    """
    return mod.with_attr(_INTEGER_SUMS, dict(sums))


def integer_sums(mod: IRModule) -> dict[str, str]:
    """What :func:`with_integer_sums` recorded."""
    recorded = (mod.attrs or {}).get(_INTEGER_SUMS, {})
    return {str(key): str(value) for key, value in recorded.items()}
