"""TVM's runtime library, without the compiler."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from .hide_torch import hide_torch


@lru_cache(maxsize=1)
def tvm_runtime() -> ModuleType:
    """tvm_ffi with TVM's runtime library loaded. In a process that has imported tvm, it is loaded already.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    if "tvm" not in sys.modules and importlib.util.find_spec("tvm") is None:
        raise ModuleNotFoundError("No module named 'tvm'", name="tvm")
    with hide_torch():
        import tvm_ffi
    if "tvm" not in sys.modules:
        spec = importlib.util.find_spec("tvm")
        assert spec is not None and spec.submodule_search_locations is not None
        folders = [Path(folder) / "lib" for folder in spec.submodule_search_locations]
        from tvm_ffi.libinfo import load_lib_ctypes

        # Same as in tvm/base.py. The second library has functions of a few operators, for example sorting.
        load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
        load_lib_ctypes("apache-tvm", "tvm_runtime_extra", "RTLD_LOCAL", extra_lib_paths=folders)
    return tvm_ffi
