"""What can go wrong for a user. Every message is one sentence: what, what was expected, what to do."""

from __future__ import annotations


class SbnnError(Exception):
    """The base of all errors that a user can cause; the command line prints them without a traceback."""


class ModelError(SbnnError):
    """The model cannot be read, or holds something that the compiler does not know."""


class TargetError(SbnnError):
    """The target is unknown, contradicts itself, or does not fit this machine."""


class InputError(SbnnError):
    """The arrays given to a compiled model do not fit it."""


class LibraryError(SbnnError):
    """A shared library cannot be written, read, or run on this machine."""


class CompileError(SbnnError):
    """The compiler cannot build this model for this target."""


class VerificationError(SbnnError):
    """The compiled model and its reference disagree."""


class TuningError(SbnnError):
    """A network cannot be tuned, or a tuning database cannot be used."""
