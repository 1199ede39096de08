"""Do two servers of an RPC tracker halve the time of a tuning run?

Run ``python benchmarks/tuning_servers.py``. The servers are processes on this machine. The measured kernel sleeps for a
fixed time, so the number of cores does not matter. Every measurement takes the whole way to a board: a session from the
tracker, upload, loading, timing in turns.

The output is the time with one server, with two, and the ratio. The exit code is 1 if the ratio misses its bar.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import tvm
from command_line import parser
from records import Machine, write_json
from tvm.rpc.tracker import Tracker
from tvm.script import tirx as T

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import TuningError
from sbnn_tvm.tuning.build_candidate import CandidateBuild, KernelArgument, LibraryKernel
from sbnn_tvm.tuning.rpc_runner import RpcRunner, serve

BAR = 1.8
"""The bar: the speed of two servers relative to one."""


@dataclass(frozen=True)
class Result:
    """The time of a tuning run.

    Attributes:
        servers: Servers that measure at once.
        measurements: Number of measurements.
        seconds: Time for all measurements.
    """

    servers: int
    measurements: int
    seconds: float


@T.prim_func(s_tir=True)
def sleeping(a: T.Buffer((4,), "float32")):  # type: ignore[valid-type]
    """Sleep for 5 ms."""
    T.evaluate(T.call_extern("int32", "usleep", 5000))
    a[0] = T.float32(1)


def program(folder: Path) -> CandidateBuild:
    """The kernel, built."""
    module = tvm.IRModule({"k0": sleeping.with_attr("global_symbol", "k0")})
    tvm.compile(module, resolve("native").target).export_library(str(folder / "sleeping.so"))
    return CandidateBuild(str(folder / "sleeping.so"), "", (LibraryKernel("k0", (KernelArgument((4,), "float32"),)),))


def runner_of(address: tuple[str, int], servers: int) -> RpcRunner:
    """A runner, as soon as the tracker lists all its servers."""
    for _ in range(200):
        try:
            runner = RpcRunner(*address, "board")
            if runner.parallel == servers:
                return runner
        except TuningError:
            pass
        time.sleep(0.1)
    raise SystemExit("the RPC servers did not start within 20 s")


def measure(servers: int, measurements: int, folder: Path) -> Result:
    """Time a number of measurements on a number of servers of this machine."""
    tracker = Tracker("127.0.0.1", 9190, 9290, silent=True)
    address = ("127.0.0.1", tracker.port)
    running = [serve("127.0.0.1", 9300 + 100 * i, address, "board") for i in range(servers)]
    try:
        runner, sleep = runner_of(address, servers), program(folder)
        with ThreadPoolExecutor(servers) as pool:
            list(pool.map(lambda _: runner.measure(sleep, sleep, 0.1), range(servers)))
            start = time.perf_counter()
            list(pool.map(lambda _: runner.measure(sleep, sleep, 0.5), range(measurements)))
            return Result(servers, measurements, time.perf_counter() - start)
    finally:
        for each in running:
            each.terminate()
        tracker.terminate()


def main() -> int:
    """Measure with one server and with two; the exit code is 1 if the bar is missed."""
    options = parser(__doc__)
    options.add_argument("--measurements", type=int, default=16, help="how many (default: %(default)s)")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(servers, arguments.measurements, Path(folder)) for servers in (1, 2)]
    speedup = results[0].seconds / results[1].seconds
    for result in results:
        print(f"{result.measurements} measurements on {result.servers} servers: {result.seconds:.2f} s")
    print(f"two servers are {speedup:.2f} times as fast: {'pass' if speedup >= BAR else 'FAIL'} (>= {BAR})")
    if arguments.output:
        content = {"machine": asdict(Machine()), "results": [asdict(result) for result in results], "speedup": speedup}
        write_json(arguments.output, content)
    return 0 if speedup >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
