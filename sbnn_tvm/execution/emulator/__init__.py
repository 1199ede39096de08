"""Run ARM kernels on another machine: exact results and exact instruction counts, from Python packages alone."""

from .emulator import EmulationError, Emulator

__all__ = ["EmulationError", "Emulator"]
