"""Whether servers of an RPC tracker measure at once: tasks of a fixed run time, on one server and on two.

Run ``python benchmarks/tuning_servers.py``. The servers are processes of this machine. Each measurement times a kernel
that sleeps, so that the machine's own cores do not matter, and goes all the way to a board: a session from the tracker,
uploading, loading, timing in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import tvm
from records import Machine
from tvm.rpc.tracker import Tracker
from tvm.script import tirx as T

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import TuningError
from sbnn_tvm.tuning.build_candidate import CandidateBuild, KernelArgument, LibraryKernel
from sbnn_tvm.tuning.rpc_runner import RpcRunner, serve

BAR = 1.8
"""How many times faster two servers must be than one."""


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        servers: At once.
        measurements: In all.
        seconds: For all of them.
    """

    servers: int
    measurements: int
    seconds: float


@T.prim_func(s_tir=True)
def sleeping(a: T.Buffer((4,), "float32")):  # type: ignore[valid-type]
    """A kernel that takes 5 ms."""
    T.evaluate(T.call_extern("int32", "usleep", 5000))
    a[0] = T.float32(1)


def program(folder: Path) -> CandidateBuild:
    """The kernel, built."""
    module = tvm.IRModule({"k0": sleeping.with_attr("global_symbol", "k0")})
    tvm.compile(module, resolve("native").target).export_library(str(folder / "sleeping.so"))
    return CandidateBuild(str(folder / "sleeping.so"), "", (LibraryKernel("k0", (KernelArgument((4,), "float32"),)),))


def runner_of(address: tuple[str, int], servers: int) -> RpcRunner:
    """The runner, once the tracker knows its servers."""
    for _ in range(200):
        try:
            runner = RpcRunner(*address, "board")
            if runner.parallel == servers:
                return runner
        except TuningError:
            pass
        time.sleep(0.1)
    raise SystemExit("the servers did not come up")


def measure(servers: int, measurements: int, folder: Path) -> Result:
    """Time a number of measurements on so many servers."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=int, default=16, help="in all (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the results there, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(servers, arguments.measurements, Path(folder)) for servers in (1, 2)]
    speedup = results[0].seconds / results[1].seconds
    for result in results:
        print(f"{result.measurements} measurements on {result.servers} servers: {result.seconds:.2f} s")
    print(f"two servers are {speedup:.2f} times faster: {'pass' if speedup >= BAR else 'FAIL'} (>= {BAR})")
    if arguments.output:
        content = {"machine": asdict(Machine()), "results": [asdict(result) for result in results], "speedup": speedup}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if speedup >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
