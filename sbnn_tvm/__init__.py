"""Compile sparse binary neural networks from PyTorch to one small, fast CPU library, through Apache TVM.

Importing this package imports nothing else. Each public name imports what it needs when it is first used, so a machine
that only runs compiled models needs only numpy. The distribution sbnn-tvm-runtime has the part for such machines.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbnn_tvm.frontends.torch.convert.post_training import quantize_
    from sbnn_tvm.frontends.torch.export import export_onnx

    from . import zoo
    from .algebra.domain import BinaryDomain
    from .compiler import compile
    from .errors import SbnnError
    from .module import CompiledModule
    from .options import CompileOptions
    from .runtime.loaded_module import LoadedModule
    from .runtime.loading import load
    from .tuning.tuner import tune

__version__ = "0.1.0"

# In a checkout, the stages of the compiler are next to this folder; in an installed package, they are inside it.
_CHECKOUT = Path(__file__).resolve().parent.parent
if __name__ == "sbnn_tvm" and all(
    (_CHECKOUT / stage / "__init__.py").is_file() for stage in ("frontends", "passes", "schedules")
):
    __path__.append(str(_CHECKOUT))

__all__ = [
    "BinaryDomain",
    "CompileOptions",
    "CompiledModule",
    "LoadedModule",
    "SbnnError",
    "compile",
    "export_onnx",
    "load",
    "quantize_",
    "tune",
    "zoo",
]

_HOMES = {
    "BinaryDomain": "sbnn_tvm.algebra.domain",
    "CompileOptions": "sbnn_tvm.options",
    "CompiledModule": "sbnn_tvm.module",
    "LoadedModule": "sbnn_tvm.runtime.loaded_module",
    "SbnnError": "sbnn_tvm.errors",
    "compile": "sbnn_tvm.compiler",
    "export_onnx": "sbnn_tvm.frontends.torch.export",
    "load": "sbnn_tvm.runtime.loading",
    "quantize_": "sbnn_tvm.frontends.torch.convert.post_training",
    "tune": "sbnn_tvm.tuning.tuner",
    "zoo": "sbnn_tvm.zoo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(_HOMES[name])
        value = home if _HOMES[name] == f"{__name__}.{name}" else getattr(home, name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __name__ and _HOMES[name].startswith(error.name or " "):
            reason = "is not in sbnn-tvm-runtime, which only runs compiled models"
        elif missing in ("", __name__):
            raise
        else:
            reason = f"needs {missing}, which is not installed"
        from .errors import MissingPackageError

        raise MissingPackageError(
            f"sbnn_tvm.{name} {reason}: pip install 'sbnn-tvm[compile,torch,verify]'", name=error.name
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
