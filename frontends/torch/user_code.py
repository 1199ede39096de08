"""What happened in the user's code, and where, for errors."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

_OURS = Path(__file__).parent
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (str(_OURS), str(Path(torch.__file__).parent)))
_INSTALLED = f"{os.sep}site-packages{os.sep}"


def place_of(frames: Iterable[tuple[FrameType, int]], model: nn.Module) -> str:
    """The innermost module and line of the user's code among frames: "in 'block.conv' (BinaryConv), line 12 of net.py
    (``if x.max() > 1:``)"; empty if there is none.

    Args:
        frames: As ``traceback.walk_stack`` or ``walk_tb`` gives them, in any order of depth.
        model: The module that runs.
    """
    ordered = sorted(frames, key=lambda entry: _depth(entry[0]))
    names = {id(module): (path, module) for path, module in model.named_modules()}
    inside = [names[key] for frame, _ in ordered if (key := id(frame.f_locals.get("self"))) in names]
    files = [(frame.f_code.co_filename, line) for frame, line in ordered]
    # torch and numpy are not the user's; other packages are, if nothing else is.
    own = [entry for entry in files if not entry[0].startswith(_LIBRARIES) and not entry[0].startswith("<")]
    own = [entry for entry in own if _INSTALLED not in entry[0]] or own if inside else []
    parts = []
    if inside:
        path, module = inside[-1]
        parts.append(f"in '{path}' ({type(module).__name__})" if path else f"in the model ({type(module).__name__})")
    if own:
        file, number = own[-1]
        text = linecache.getline(file, number).strip()
        parts.append(f"line {number} of {file}" + (f" ({text})" if text else ""))
    return ", ".join(parts)


def running_place(model: nn.Module) -> str:
    """``place_of`` for the code that runs now."""
    return place_of(traceback.walk_stack(None), model)


def reason_of(error: BaseException, model: nn.Module) -> str:
    """The first line of the innermost cause, which torch wraps in long advice, and the module where it happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if isinstance(error, GuardOnDataDependentSymNode):
        reason = "its control flow depends on the values of a tensor"
    names = {id(module): name for name, module in model.named_modules() if name}
    callers = (id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__))
    inside = [names[caller] for caller in callers if caller in names]
    return f"{reason} (in {inside[-1]!r})" if inside else reason


def _depth(frame: FrameType) -> int:
    depth, outer = 0, frame.f_back
    while outer is not None:
        depth, outer = depth + 1, outer.f_back
    return depth
