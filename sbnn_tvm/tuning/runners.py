"""Where candidates are measured: in a process of this machine, on boards of an RPC tracker, or in an emulator.

TVM's runners of MetaSchedule measure one module alone, on random arguments. Ours measure in turns with a reference,
and pass the real constants, since some kernels follow offsets in them; of TVM they use the worker processes, the RPC
tracker and servers, and the time evaluator.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm
from tvm.support.popen_pool import PopenWorker

from ..deploy.targets import CpuTarget
from ..errors import TuningError
from ..runtime.cpu import Model, this_model
from ..runtime.threads import check_num_threads
from ..tuning_database.database import INSTRUCTIONS, SECONDS, Machine
from ..tuning_database.lookup import code_of
from .build_candidate import Program
from .compare_networks import Turns, time_locally, time_remotely
from .measure_candidate import Measurement, measure_locally, measure_remotely

TIMEOUT = 30.0
"""Seconds beyond those that a measurement is meant to take, after which a candidate hangs."""


class MeasurementError(Exception):
    """A candidate crashed, hung, or could not be run."""


class Runner(Protocol):
    """Measures programs.

    Attributes:
        unit: Of the costs: ``"seconds"`` or ``"instructions"``.
        parallel: How many measurements may run at once.
    """

    unit: str
    parallel: int

    def machine(self, target: CpuTarget) -> Machine:
        """Where the measurements for a target hold.

        Raises:
            TuningError: If code for the target does not run there.
        """

    def measure(self, reference: Program, candidate: Program, seconds: float) -> Measurement:
        """Measure a program in turns with a reference.

        Raises:
            MeasurementError: If one of them cannot be measured.
        """

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Let compiled models take turns.

        Args:
            libraries: The models, by name.
            inputs: Of each of them.
            seconds: For all of them, about.

        Raises:
            MeasurementError: If they cannot be run.
        """

    def close(self) -> None:
        """Give back what was used."""


class LocalRunner:
    """Measures on this machine, in a process of its own: a candidate that crashes or hangs takes only that along."""

    unit, parallel = SECONDS, 1

    def __init__(self, threads: int = 1) -> None:
        """Use ``threads`` threads for each kernel."""
        self.threads = check_num_threads(threads)
        self._worker = PopenWorker()

    def machine(self, target: CpuTarget) -> Machine:
        """This one."""
        if not target.native:
            raise TuningError(
                f"code for {target} ({target.triple}) does not run on this machine: tune it on boards "
                f"(RpcRunner, --tracker), or estimate (EstimatedRunner, --estimate)"
            )
        model = this_model()
        return Machine(model.name, model.caches, target.isa.name, code_of(target), self.threads)

    def measure(self, reference: Program, candidate: Program, seconds: float) -> Measurement:
        """As of Runner."""
        return in_process(self._worker, measure_locally, (reference, candidate, seconds, self.threads), seconds)

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """As of Runner."""
        return in_process(self._worker, time_locally, (libraries, inputs, seconds, self.threads), 4 * seconds)

    def close(self) -> None:
        """End the process."""
        self._worker.kill()


def in_process(worker: PopenWorker, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
    """Call a function in another process, which is started anew after a crash or a time-out.

    Raises:
        MeasurementError: If the process dies, or the call takes ``TIMEOUT`` longer than ``seconds``, or fails.
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
        raise MeasurementError(_last_line(error)) from None


class RpcRunner:
    """Measures on the servers that an RPC tracker knows under a key, on all of them at once.

    A server is started on a board by ``sbnn-tvm tuning serve``, which tells its CPU, or by TVM's own
    ``python -m tvm.exec.rpc_server``: then the tracker's key stands for the CPU.
    """

    unit = SECONDS

    def __init__(self, host: str, port: int, key: str, threads: int = 1) -> None:
        """Ask the tracker for its servers.

        Raises:
            TuningError: If there is no tracker, or it knows no server under the key.
        """
        self.address, self.key, self.threads = (host, port), key, threads
        try:
            socket.create_connection((host, port), timeout=10).close()  # TVM would try for a minute
            self._tracker = tvm.rpc.connect_tracker(host, port)
            summary = self._tracker.summary()
        except (RuntimeError, OSError) as error:
            raise TuningError(f"there is no RPC tracker at {host}:{port}: {_last_line(error)}") from None
        servers = [info["key"] for info in summary["server_info"]]
        self.parallel = servers.count(f"server:{key}")
        if not self.parallel:
            known = ", ".join(sorted({name.removeprefix("server:") for name in servers})) or "none"
            raise TuningError(f"the tracker at {host}:{port} has no server with the key {key!r}; it has: {known}")

    def machine(self, target: CpuTarget) -> Machine:
        """That of a server; all of a key are taken to be alike."""
        model = Model(f"board:{self.key}", ())
        try:
            session = self._session(TIMEOUT)
            try:
                described = json.loads(session.get_function("sbnn_tvm.describe_cpu")())
                model = Model(str(described["name"]), tuple(described["caches"]))
            except (AttributeError, ValueError, KeyError):
                pass  # TVM's own server
        except (RuntimeError, OSError) as error:
            raise TuningError(f"the RPC server {self.key!r} does not answer: {_last_line(error)}") from None
        return Machine(model.name, model.caches, target.isa.name, code_of(target), self.threads)

    def measure(self, reference: Program, candidate: Program, seconds: float) -> Measurement:
        """As of Runner; each measurement has a session of its own, so that one cannot harm the next."""
        try:
            session = self._session(TIMEOUT + seconds)
            return measure_remotely(session, lambda: self._configure(session), reference, candidate, seconds)
        except Exception as error:
            raise MeasurementError(_last_line(error)) from None

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """As of Runner: one server runs all of them."""
        try:
            session = self._session(TIMEOUT + 4 * seconds)
            return time_remotely(session, lambda: self._configure(session), libraries, inputs, seconds)
        except Exception as error:
            raise MeasurementError(_last_line(error)) from None

    def close(self) -> None:
        """Leave the tracker."""
        self._tracker.close()

    def _session(self, timeout: float) -> Any:
        tracker = tvm.rpc.connect_tracker(*self.address)  # a connection serves one thread
        return tracker.request(self.key, priority=1, session_timeout=round(timeout))

    def _configure(self, session: Any) -> None:
        try:
            session.get_function("sbnn_tvm.use_threads")(self.threads)
        except AttributeError:
            session.get_function("runtime.config_threadpool")(1, self.threads)


def serve(host: str, port: int, tracker: tuple[str, int], key: str) -> tvm.rpc.Server:
    """Start a server for RpcRunner on this machine, in a process of its own; ``terminate()`` ends it.

    Whoever reaches the tracker or the server can run any code on this machine: use it in a trusted network only.
    """
    return tvm.rpc.Server(host, port, port + 100, tracker_addr=tracker, key=key, server_init_callback=_register)


def _register() -> None:
    """Let a server tell its CPU."""
    import json

    import tvm
    import tvm_ffi

    from ..runtime.cpu import this_model
    from ..runtime.threads import use_threads

    @tvm.register_global_func("sbnn_tvm.describe_cpu", override=True)
    def describe_cpu() -> str:
        model = this_model()
        return json.dumps({"name": model.name, "caches": list(model.caches)})

    @tvm.register_global_func("sbnn_tvm.use_threads", override=True)
    def use(threads: int) -> None:
        use_threads(tvm_ffi, threads)


class EstimatedRunner:
    """Counts instructions in an emulator, for ARM targets without hardware.

    An instruction count says nothing of latencies and caches. Records and reports call it an estimate.
    """

    unit, parallel = INSTRUCTIONS, 1

    def __init__(self) -> None:
        self._worker = PopenWorker()
        self._features: frozenset[str] = frozenset()

    def machine(self, target: CpuTarget) -> Machine:
        """No machine at all."""
        if target.machine not in ("aarch64", "arm"):
            raise TuningError(f"instructions are counted for ARM targets, and {target} is for {target.machine}")
        self._features = target.features
        return Machine("estimated (instructions)", (), target.isa.name, code_of(target), 1)

    def measure(self, reference: Program, candidate: Program, seconds: float) -> Measurement:
        """As of Runner; counts are exact, whatever ``seconds`` is."""
        count = in_process(self._worker, count_instructions, (candidate, self._features), 300.0)
        return Measurement(count, in_process(self._worker, count_instructions, (reference, self._features), 300.0))

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Networks are not run: what kernels cost alone, they cost together."""
        raise MeasurementError("instructions are counted, and add up")

    def close(self) -> None:
        """End the process."""
        self._worker.kill()


_counted: dict[Program, int] = {}


def count_instructions(program: Program, features: frozenset[str]) -> int:
    """Instructions of all kernels of a program, on one thread."""
    from ..execution.emulator import Emulator

    if program not in _counted:
        emulator = Emulator.from_kernels(program.library, features)
        counts = (emulator.instructions(each.name, program.arrays(each)) for each in program.functions)
        _counted[program] = sum(counts)
    return _counted[program]


def runner_named(name: str, threads: int = 1) -> Runner:
    """``"local"``, ``"estimated"`` or ``"rpc://host:port/key"``.

    Raises:
        TuningError: If the text is none of these.
    """
    if name == "local":
        return LocalRunner(threads)
    if name == "estimated":
        return EstimatedRunner()
    found = re.fullmatch(r"rpc://([^/:]+):(\d+)/(.+)", name)
    if found is None:
        raise TuningError(f"a runner is 'local', 'estimated' or 'rpc://host:port/key', but got {name!r}")
    return RpcRunner(found[1], int(found[2]), found[3], threads)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
