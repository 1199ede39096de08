"""The errors that a user can cause. Every message is one sentence: what is wrong, what was expected, what to do."""

from __future__ import annotations


class SbnnError(Exception):
    """The base of all errors that a user can cause; the command line prints them without a traceback."""


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


class TuningError(SbnnError):
    """A network cannot be tuned, or a tuning database cannot be used."""
