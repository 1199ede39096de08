"""Run ARM kernels on another machine in an emulator, with exact results and exact instruction counts."""

from ...errors import EmulationError
from .emulator import Emulator, ExecutedCode

__all__ = ["EmulationError", "Emulator", "ExecutedCode"]
