"""The errors that a user can cause. Every message is one sentence: what is wrong, what was expected, what to do."""

from __future__ import annotations

from .printable import printable


class SbnnError(Exception):
    """The base of all errors that a user can cause; the command line prints them without a traceback.

    Messages contain names of files and layers, which may hold any characters: as text, those of control are escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ArgumentError(SbnnError, ValueError):
    """An argument of a layer, a training method or a search has a value that is not allowed."""


class MissingPackageError(SbnnError, ModuleNotFoundError):
    """A package of an extra is not installed."""


class ModelError(SbnnError):
    """The model cannot be read, or has something that the compiler does not support."""


class TargetError(SbnnError):
    """The target is unknown, contradicts itself, or cannot run on this machine."""


class InputError(SbnnError):
    """The arrays given to a compiled model do not match its inputs."""


class LibraryError(SbnnError):
    """A shared library cannot be written, read, or run on this machine."""


class CompileError(SbnnError):
    """The compiler cannot build this model for this target."""


class VerificationError(SbnnError):
    """The compiled model differs from the reference."""


class EmulationError(SbnnError, RuntimeError):
    """A kernel cannot be run alone: it refused its arguments, accessed memory outside them, or needs what is not there.

    The emulator lacks TVM's runtime, for example.
    """


class TuningError(SbnnError):
    """A network cannot be tuned, or a tuning database cannot be used."""
