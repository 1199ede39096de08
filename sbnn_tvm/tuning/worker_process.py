"""Call functions in another process, so that a candidate that crashes or hangs ends only that process."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tvm.support.popen_pool import PopenWorker

from ..errors import TuningError
from .runner import MeasurementError

TIMEOUT = 30.0
"""Seconds that a call may take longer than planned before it counts as hanging."""


def check_cloudpickle() -> None:
    """Check that worker processes can be started: TVM sends functions to them with cloudpickle.

    Raises:
        TuningError: If cloudpickle is not installed.
    """
    try:
        import_module("cloudpickle")
    except ImportError:
        raise TuningError(
            'tuning needs the package cloudpickle, which is not installed: pip install "sbnn-tvm[tune]"'
        ) from None


def in_process(worker: PopenWorker, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
    """Call a function in another process, which is restarted after a crash or a time-out.

    Raises:
        MeasurementError: If the process dies, or the call fails or takes ``TIMEOUT`` longer than ``seconds``.
    """
    try:
        worker.send(function, arguments, timeout=TIMEOUT + seconds)
        return worker.recv()
    except TimeoutError:
        raise MeasurementError(f"it did not end within {TIMEOUT + seconds:.0f} s") from None
    except ChildProcessError:
        raise MeasurementError("the process that ran it died") from None
    except (KeyboardInterrupt, SystemExit):
        worker.kill()
        raise
    except Exception as error:
        raise MeasurementError(last_line(error)) from None


def last_line(error: BaseException) -> str:
    """The last line of an error message: TVM's messages end with the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
