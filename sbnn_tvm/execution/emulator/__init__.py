"""Run ARM kernels on another machine in an emulator, with exact results and exact instruction counts."""

from .emulator import EmulationError, Emulator

__all__ = ["EmulationError", "Emulator"]
