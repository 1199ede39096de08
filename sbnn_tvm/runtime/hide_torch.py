"""Import TVM without PyTorch. TVM does not need PyTorch, but imports it if it is installed, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hide_torch() -> Iterator[None]:
    """Hide torch from imports in the body of the ``with``, unless torch is already imported."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes "import torch" an ImportError
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]
