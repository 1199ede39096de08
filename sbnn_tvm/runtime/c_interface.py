"""The C functions of a standalone library, as its header declares them, for ctypes."""

from __future__ import annotations

from ctypes import CDLL, POINTER, Structure, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

ERRORS = {
    1: "a pointer is NULL",
    2: "the memory for its context is too small",
    3: "its context is damaged",
    4: "an input or output has another size than its record says",
    5: "an option has a value that is not allowed",
    6: "this CPU lacks an instruction that it needs",
    7: "no thread can be started",
    8: "a kernel failed",
    9: "the memory of its inputs and outputs overlaps",
    10: "another call uses its context",
}
"""What the codes ``SBNN_ERROR_...`` mean; 0 is ``SBNN_OK``."""


MOST_THREADS = 256
"""More threads are refused as an option."""


class Options(Structure):
    """``sbnn_options``: how a context runs the model. A field with 0 has its default."""

    _fields_ = (("threads", c_size_t), ("later", c_size_t * 7))  # room for fields that a later library may read


class Input(Structure):
    """``sbnn_input``: the memory of an input."""

    _fields_ = (("data", c_void_p), ("bytes", c_size_t))


class Output(Structure):
    """``sbnn_output``: the memory of an output."""

    _fields_ = (("data", c_void_p), ("bytes", c_size_t))


@dataclass(frozen=True)
class Functions:
    """The functions of a library that a context needs. Other Python threads go on while one runs.

    Attributes:
        context_bytes: ``size_t context_bytes(const sbnn_options *)``.
        init: ``int init(void *context, size_t bytes, const sbnn_options *)``.
        run: ``int run(void *context, const sbnn_input *, const sbnn_output *)``.
        close: ``void close(void *context)``.
    """

    context_bytes: Any
    init: Any
    run: Any
    close: Any

    @classmethod
    def of(cls, library: CDLL, symbol: str) -> Functions:
        """The functions whose names begin with ``symbol``.

        Raises:
            AttributeError: If the library lacks one.
        """

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, f"{symbol}_{name}")
            found.restype, found.argtypes = result, arguments
            return found

        options = POINTER(Options)
        return cls(
            function("context_bytes", c_size_t, options),
            function("init", c_int, c_void_p, c_size_t, options),
            function("run", c_int, c_void_p, POINTER(Input), POINTER(Output)),
            function("close", None, c_void_p),
        )


def options(threads: int) -> Options:
    """Options for a number of threads."""
    return Options(threads)
