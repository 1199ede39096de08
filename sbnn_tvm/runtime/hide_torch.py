"""Import TVM without PyTorch: TVM does without, but imports it wherever it is installed, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hide_torch() -> Iterator[None]:
    """Hide torch from the imports in the body of the ``with``, unless it is imported already."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes "import torch" an ImportError
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]
