"""Measure candidates on the servers of an RPC tracker, and serve this machine to others.

TVM's runners in MetaSchedule measure one module alone, on random arguments. Ours measures in turns with a reference,
and passes the real constants, because some kernels use them as offsets. It uses TVM's RPC tracker and servers, and its
time evaluator.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ..deploy.targets import CpuTarget
from ..errors import TuningError
from ..runtime.cpu import CpuModel
from ..tuning_database.lookup import code_of
from ..tuning_database.records import SECONDS, TunedMachine
from .build_candidate import CandidateBuild
from .compare_networks import time_remotely
from .measure_candidate import Measurement, measure_remotely
from .runner import MeasurementError, Turns
from .worker_process import TIMEOUT, check_cloudpickle, last_line


class RpcRunner:
    """Measures on all servers that an RPC tracker has under a key, at once.

    ``sbnn-tvm tuning serve`` starts a server that reports its CPU. TVM's own ``python -m tvm.exec.rpc_server`` does
    not: there the tracker's key stands for the CPU.
    """

    unit = SECONDS

    def __init__(self, host: str, port: int, key: str, threads: int = 1) -> None:
        """Ask the tracker for its servers.

        Raises:
            TuningError: If there is no tracker, or it has no server under the key.
        """
        self.address, self.key, self.threads = (host, port), key, threads
        try:
            socket.create_connection((host, port), timeout=10).close()  # TVM would try for a minute
            self._tracker = tvm.rpc.connect_tracker(host, port)
            summary = self._tracker.summary()
        except (RuntimeError, OSError) as error:
            raise TuningError(
                f"there is no RPC tracker at {host}:{port} ({last_line(error)}): start one there by "
                f'`python -m tvm.exec.rpc_tracker --port {port}`, which needs pip install "sbnn-tvm[tune]"'
            ) from None
        servers = [info["key"] for info in summary["server_info"]]
        self.parallel = servers.count(f"server:{key}")
        if not self.parallel:
            known = ", ".join(sorted({name.removeprefix("server:") for name in servers})) or "none"
            raise TuningError(f"the tracker at {host}:{port} has no server with the key {key!r}; it has: {known}")

    def machine(self, target: CpuTarget) -> TunedMachine:
        """The machine of one server: all servers of a key must be alike."""
        model = CpuModel(f"board:{self.key}", ())
        try:
            session = self._session(TIMEOUT)
            try:
                described = json.loads(session.get_function("sbnn_tvm.describe_cpu")())
                model = CpuModel(str(described["name"]), tuple(described["caches"]))
            except (AttributeError, ValueError, KeyError, TypeError):
                pass  # TVM's own server
        except (RuntimeError, OSError) as error:
            raise TuningError(f"the RPC server {self.key!r} does not answer: {last_line(error)}") from None
        return TunedMachine(model.name, model.caches, target.isa.name, code_of(target), self.threads)

    def measure(self, reference: CandidateBuild, candidate: CandidateBuild, seconds: float) -> Measurement:
        """Same as in Runner. Each measurement has its own session, so that one cannot harm the next."""
        try:
            session = self._session(TIMEOUT + seconds)
            return measure_remotely(session, lambda: self._configure(session), reference, candidate, seconds)
        except Exception as error:
            raise MeasurementError(last_line(error)) from None

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Same as in Runner. One server runs all of them."""
        try:
            session = self._session(TIMEOUT + 4 * seconds)
            return time_remotely(session, lambda: self._configure(session), libraries, inputs, seconds)
        except Exception as error:
            raise MeasurementError(last_line(error)) from None

    def close(self) -> None:
        """Disconnect from the tracker."""
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
    """Start a server for RpcRunner on this machine, in another process; ``terminate()`` ends it.

    Anyone who reaches the tracker or the server can run any code on this machine: use it in a trusted network only.

    Raises:
        TuningError: If cloudpickle is not installed, there is no tracker, or no port of the host is free.
    """
    check_cloudpickle()
    try:
        socket.create_connection(tracker, timeout=10).close()  # TVM's server would print a traceback and go on
    except (OSError, OverflowError) as error:
        raise TuningError(f"there is no RPC tracker at {tracker[0]}:{tracker[1]} ({last_line(error)})") from None
    try:
        return tvm.rpc.Server(host, port, port + 100, tracker_addr=tracker, key=key, server_init_callback=_register)
    except Exception as error:
        raise TuningError(f"no server can listen on {host}:{port} ({last_line(error)})") from None


def _register() -> None:
    """Let a server report its CPU."""
    import json

    import tvm

    from ..runtime.cpu import this_cpu_model
    from ..runtime.threads import use_threads

    @tvm.register_global_func("sbnn_tvm.describe_cpu", override=True)
    def describe_cpu() -> str:
        model = this_cpu_model()
        return json.dumps({"name": model.name, "caches": list(model.caches)})

    @tvm.register_global_func("sbnn_tvm.use_threads", override=True)
    def use(threads: int) -> None:
        use_threads(threads)
