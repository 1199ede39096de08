"""The errors that a user can cause. Every message is one sentence: what is wrong, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class DefectError(CompileError):
    """The compiler failed at something that it should either do or refuse; ``__cause__`` is the exception."""


class VerificationError(SbnnError):
    """The compiled model differs from the reference."""


class EmulationError(SbnnError, RuntimeError):
    """A kernel cannot be run alone: it refused its arguments, accessed memory outside them, or needs what is not there.

    The emulator lacks TVM's runtime, for example.
    """


class BoardError(SbnnError):
    """A board cannot be reached, or a model cannot be measured on it."""


class TuningError(SbnnError):
    """A network cannot be tuned, or a tuning database cannot be used."""


@contextmanager
def defects_named(step: str) -> Iterator[None]:
    """Turns an exception that is no ``SbnnError`` into a sentence that says where it happened.

    Args:
        step: What is being done, and to which layer: "lowering layer 'conv1'".

    Raises:
        DefectError: If the body raises anything but an ``SbnnError`` or an interruption.
        CompileError: If the memory does not suffice.
    """
    try:
        yield
    except SbnnError:
        raise
    except MemoryError as error:
        raise CompileError(f"the memory of this machine does not suffice for {step}; make the model smaller") from error
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise DefectError(
            f"a defect of sbnn_tvm, not of your model: {step} failed ({reason[:300]}); please report it with the model"
        ) from error
