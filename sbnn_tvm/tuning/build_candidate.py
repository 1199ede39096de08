"""Machine code for a candidate, alone: a library of the kernels that it needs, and the constants that they read."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tvm

from sbnn_tvm.passes.families.choose import Candidate
from sbnn_tvm.passes.families.family import BuiltKernel
from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.passes.layers.kinds import BinaryDense, FloatDense, Layer, Linear
from sbnn_tvm.passes.lowering.lower import planes_of
from sbnn_tvm.passes.lowering.machine_code import MACHINE_CODE
from sbnn_tvm.passes.relax.graph import channels_last
from sbnn_tvm.schedules.bits.packing import unpack
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.plane_conversions import planes_to_words, words_to_planes

from ..deploy.linking import write_library
from ..deploy.targets import CpuTarget, resolve


@dataclass(frozen=True)
class Argument:
    """An array that a kernel reads or writes."""

    shape: tuple[int, ...]
    dtype: str

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Data for it: normal numbers, or random bits."""
        if np.issubdtype(self.dtype, np.floating):
            return rng.standard_normal(self.shape).astype(self.dtype)
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return np.frombuffer(rng.bytes(size), self.dtype).reshape(self.shape).copy()


@dataclass(frozen=True)
class Function:
    """A kernel in a library: it takes inputs, constants, and outputs, in this order.

    Attributes:
        name: Its symbol.
        inputs: May hold anything.
        constants: How many arrays ``NAME_0``, ``NAME_1`` ... of the program it reads.
        outputs: What it writes.
    """

    name: str
    inputs: tuple[Argument, ...]
    constants: int = 0
    outputs: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Program:
    """One way to compute a layer: kernels that are called one after the other.

    Attributes:
        library: Path of the shared library.
        constants: Path of the constants, .npz; empty if there are none.
        functions: The kernels.
    """

    library: str
    constants: str
    functions: tuple[Function, ...]

    def arrays(self, function: Function) -> list[np.ndarray]:
        """The arguments of a kernel, with random inputs."""
        rng = np.random.default_rng(0)
        arrays = [argument.random(rng) for argument in function.inputs]
        if function.constants:
            with np.load(self.constants, allow_pickle=False) as stored:
                arrays += [stored[f"{function.name}_{i}"] for i in range(function.constants)]
        return arrays + [np.zeros(argument.shape, argument.dtype) for argument in function.outputs]


def store_layer(layer: Layer, folder: Path) -> Path:
    """Write a layer where ``build_program`` finds it, in another process."""
    path = folder / "layer.pickle"
    path.write_bytes(pickle.dumps(layer, protocol=pickle.HIGHEST_PROTOCOL))
    return path


def build_program(layer: str, candidate: Candidate, target: str, folder: str, name: str) -> Program:
    """Build a candidate.

    Args:
        layer: Path of the layer, from ``store_layer``.
        candidate: One of the layer's.
        target: The TVM target dict as JSON.
        folder: For the files.
        name: Of the files, without an ending.
    """
    cpu = _target(target)
    kernels = kernels_of(_layer(layer), candidate, cpu.isa)
    constants = {f"k{i}_{j}": array for i, kernel in enumerate(kernels) for j, array in enumerate(kernel.constants)}
    path = Path(folder) / name
    if constants:
        np.savez(path.with_suffix(".npz"), allow_pickle=False, **constants)
    functions = {f"k{i}": kernel.func.with_attr("global_symbol", f"k{i}") for i, kernel in enumerate(kernels)}
    write_library(
        tvm.compile(tvm.IRModule(functions), cpu.target, tir_pipeline=MACHINE_CODE), path.with_suffix(".so"), cpu
    )
    return Program(
        library=str(path.with_suffix(".so")),
        constants=str(path.with_suffix(".npz")) if constants else "",
        functions=tuple(function_of(f"k{i}", kernel) for i, kernel in enumerate(kernels)),
    )


def kernels_of(layer: Layer, candidate: Candidate, isa: Isa) -> list[Kernel]:
    """The kernel of a candidate, between conversions from the packed words that binary layers exchange, and to them.

    What a network needs of the conversions depends on the layers around; here every family pays for its own.
    """
    built = candidate.build(layer, isa)
    before, after = _from_words(layer, built, isa), []
    if built.stores == Form.PLANES:
        after.append(planes_to_words(planes_of(layer.extent, isa), isa))
    return [*before, built.kernel, *after]


def _from_words(layer: Layer, built: BuiltKernel, isa: Isa) -> list[Kernel]:
    if not isinstance(layer, Linear):
        return []
    conv, dense = layer.shape, isinstance(layer, FloatDense | BinaryDense)
    if built.reads == Form.PLANES:
        return [words_to_planes(planes_of((conv.batch, conv.in_channels, conv.height, conv.width), isa), isa)]
    if built.reads == Form.CHANNELS_LAST and layer.input_domain is not None:
        extent = channels_last((conv.batch, conv.in_channels, conv.height, conv.width))
        return [unpack((conv.width, conv.in_channels) if dense else extent, layer.input_domain, isa)]
    return []


def function_of(name: str, kernel: Kernel) -> Function:
    """What a kernel takes, under a name in a library."""
    params = kernel.func.params
    # The lengths of constants may be left open.
    inputs = params[: len(params) - len(kernel.constants) - len(kernel.outputs)]
    read = tuple(Argument(tuple(int(extent) for extent in param.shape), str(param.dtype)) for param in inputs)
    outputs = tuple(Argument(tuple(shape), dtype) for shape, dtype in kernel.outputs)
    return Function(name, read, len(kernel.constants), outputs)


@lru_cache(maxsize=1)
def _layer(path: str) -> Layer:
    return pickle.loads(Path(path).read_bytes())


@lru_cache(maxsize=1)
def _target(config: str) -> CpuTarget:
    return resolve(json.loads(config))
