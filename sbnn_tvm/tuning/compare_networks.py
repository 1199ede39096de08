"""Time a whole network with tuned kernels in turns with the untuned network, here or through an RPC session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.relax import VirtualMachine

from sbnn_tvm.passes.lowering.lower import PREPARE

from ..errors import TuningError
from ..module import CompiledModule
from ..profiling.timing import burst, interleave_bursts
from ..runtime.inputs import random_inputs
from ..runtime.loading import load, read_metadata
from ..temporary_folder import temporary_folder
from ..tuning_database.lookup import choices_key
from ..tuning_database.records import NetworkRecord, TunedMachine
from .measure_candidate import burst_of
from .runner import Runner, Turns

NETWORK_SECONDS = 12.0
"""Time to compare the tuned network with the untuned one."""


def compare_networks(
    plain: CompiledModule,
    tuned: CompiledModule,
    runner: Runner,
    machine: TunedMachine,
    seconds: float = NETWORK_SECONDS,
) -> NetworkRecord:
    """Run a network tuned and untuned in turns.

    Args:
        plain: The untuned network.
        tuned: The tuned network.
        runner: Runs them.
        machine: The machine that the runner uses.
        seconds: Approximate time to measure.

    Raises:
        MeasurementError: If the runner cannot run these networks, or any.
        TuningError: If there is no space for temporary files.
    """
    with temporary_folder(TuningError) as folder:
        libraries = {}
        for name, module in (("untuned", plain), ("tuned", tuned)):
            libraries[name] = module.export(folder / f"{name}.so", "tvm")  # as RPC servers need it
            # Two copies of the same code show the noise of the measurement, including that of their places in memory.
            libraries[f"{name} again"] = Path(shutil.copyfile(libraries[name], folder / f"{name} again.so"))
        inputs = random_inputs(plain.inputs, np.random.default_rng(0))
        turns = runner.time_networks(libraries, inputs, seconds)
    # The fastest turn may be an outlier: take the 10th percentile.
    times = {name: float(np.quantile([min(turn) for turn in each], 0.1)) for name, each in turns.items()}
    pairs = [(times[name], times[f"{name} again"]) for name in ("untuned", "tuned")]
    noise = max(0.01, *(max(pair) / min(pair) - 1 for pair in pairs))
    key = choices_key(tuned.lowered.layers, tuned.target.isa)
    return NetworkRecord(key, tuned.report.model, machine, min(pairs[0]) / min(pairs[1]), noise)


def time_locally(libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float, threads: int) -> Turns:
    """Run libraries in turns on this machine."""
    runs = {name: partial(load(path, threads).run, *inputs) for name, path in libraries.items()}
    return interleave_bursts({name: partial(burst, run) for name, run in runs.items()}, seconds)


def time_remotely(
    session: Any,
    configure: Callable[[], None],
    libraries: Mapping[str, Path],
    inputs: Sequence[np.ndarray],
    seconds: float,
) -> Turns:
    """Run libraries in turns on the machine of an RPC session."""
    configure()
    device, bursts = session.cpu(), {}
    tensors = [tvm.runtime.tensor(array, device) for array in inputs]
    for number, (name, path) in enumerate(libraries.items()):
        session.upload(str(path), f"network{number}.so")
        machine = VirtualMachine(session.load_module(f"network{number}.so"), device)
        constants: Sequence[Any] = ()
        if read_metadata(path).prepares:
            machine.set_input(PREPARE)
            machine.invoke_stateful(PREPARE)
            constants = machine.get_outputs(PREPARE)
        machine.set_input("main", *tensors, *constants)
        bursts[name] = burst_of(machine.module, "invoke_stateful", ["main"], device)
    return interleave_bursts(bursts, seconds)
