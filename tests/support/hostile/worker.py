"""A process that compiles hostile files: it dies of a crash, of a hang, or of memory, and never takes a test with it.

It reads one request a line, ``<seed> <depth>``, and answers with one JSON object a line; a line ``stage <name>`` goes
before each step, so that whoever reads knows in which step it died.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import numpy as np

import sbnn_tvm
from sbnn_tvm.compiler import lower_model
from sbnn_tvm.errors import DefectError, SbnnError
from sbnn_tvm.options import CompileOptions

from .mutations import mutated

SECONDS = 20
"""CPU time for a file."""
PATIENCE = 180
"""Seconds until a file that needs no CPU time counts as hanging; other processes may keep this one waiting."""
MEMORY = 2**30
"""Bytes that a file may take beyond what the process has."""


def main() -> None:
    """Answer requests until the input ends."""
    _limit_memory()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where it hangs, then ends, in C++ as well
    for line in sys.stdin:
        seed, depth = (int(word) for word in line.split())
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = _try(seed, depth)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    sbnn_tvm.compile(mutated_base())  # load what loads late
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def mutated_base() -> bytes:
    """A sound file."""
    from .base_models import base_model

    return base_model("mlp")


def _try(seed: int, depth: int) -> dict[str, Any]:
    """Import and passes (depth 0); machine code and a run as well (1); compared with onnxruntime (2)."""
    start, verdict, text = time.process_time(), "accepted", ""
    try:
        print("stage compile", flush=True)
        data = mutated(seed)
        front = lower_model(data, "native", CompileOptions())
        if depth > 0:
            print("stage build", flush=True)
            module = front.build()
            library = module.library
        if depth > 1:
            print("stage run", flush=True)
            text = _compare(module, library, data)
            verdict = "wrong" if text else "right"
    except DefectError as error:
        verdict, text = "defect", f"{error} <- {error.__cause__!r}"
    except SbnnError as error:
        verdict, text = "refused", str(error)
    except Exception as error:
        verdict, text = "exception", f"{type(error).__name__}: {error}"
    return {"seed": seed, "verdict": verdict, "text": text[:2000], "seconds": round(time.process_time() - start, 2)}


def _compare(module: Any, library: Any, data: bytes) -> str:
    """The difference to onnxruntime, if that loads the file and runs it."""
    import onnxruntime

    rng = np.random.default_rng(0)
    feeds = {spec.name: _draw(rng, spec) for spec in module.inputs}
    got = library.run(*feeds.values())
    got = got if isinstance(got, tuple) else (got,)
    print("stage reference", flush=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        expected = session.run([spec.name for spec in module.outputs], feeds)
    except Exception:  # it refuses files that we accept
        return ""
    for spec, want, have in zip(module.outputs, expected, got, strict=True):
        if want.shape != have.shape or want.dtype != have.dtype:
            return f"{spec.name}: {have.dtype}{list(have.shape)} instead of {want.dtype}{list(want.shape)}"
        if want.size and not np.allclose(want, have, rtol=1e-3, atol=1e-3, equal_nan=True):
            different = ~np.isclose(want, have, rtol=1e-3, atol=1e-3, equal_nan=True)
            return f"{spec.name}: {have[different][0]} instead of {want[different][0]} ({different.mean():.0%})"
    return ""


def _draw(rng: np.random.Generator, spec: Any) -> np.ndarray:
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return rng.standard_normal(spec.shape).astype(spec.dtype)
    return rng.integers(0, 2, spec.shape).astype(spec.dtype)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
