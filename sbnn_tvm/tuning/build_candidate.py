"""Build one candidate alone: a library of its kernels, and the constants that they read."""

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
from sbnn_tvm.passes.layers.kinds import BinaryDense, FloatDense, Layer, LinearLayer
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
class KernelArgument:
    """An array that a kernel reads or writes."""

    shape: tuple[int, ...]
    dtype: str

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Random data: normally distributed floats, or random bits."""
        if np.issubdtype(self.dtype, np.floating):
            return rng.standard_normal(self.shape).astype(self.dtype)
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return np.frombuffer(rng.bytes(size), self.dtype).reshape(self.shape).copy()


@dataclass(frozen=True)
class LibraryKernel:
    """A kernel in a library: its parameters are inputs, constants, and outputs, in this order.

    Attributes:
        name: Its symbol.
        inputs: Inputs; they may hold any data.
        constants: Number of constants; the candidate stores them as ``NAME_0``, ``NAME_1`` and so on.
        outputs: Outputs.
    """

    name: str
    inputs: tuple[KernelArgument, ...]
    constants: int = 0
    outputs: tuple[KernelArgument, ...] = ()


@dataclass(frozen=True)
class CandidateBuild:
    """One way to compute a layer, built: kernels that are called one after the other.

    Attributes:
        library: Path of the shared library.
        constants: Path of the constants, .npz; empty if there are none.
        kernels: The kernels, in the order of their calls.
    """

    library: str
    constants: str
    kernels: tuple[LibraryKernel, ...]

    def arrays(self, kernel: LibraryKernel) -> list[np.ndarray]:
        """The arguments of a kernel, with random inputs."""
        rng = np.random.default_rng(0)
        arrays = [argument.random(rng) for argument in kernel.inputs]
        if kernel.constants:
            with np.load(self.constants, allow_pickle=False) as stored:
                arrays += [stored[f"{kernel.name}_{i}"] for i in range(kernel.constants)]
        return arrays + [np.zeros(argument.shape, argument.dtype) for argument in kernel.outputs]


def store_layer(layer: Layer, folder: Path) -> Path:
    """Write a layer to a file, from which ``build_candidate`` reads it in another process."""
    path = folder / "layer.pickle"
    path.write_bytes(pickle.dumps(layer, protocol=pickle.HIGHEST_PROTOCOL))
    return path


def build_candidate(layer: str, candidate: Candidate, target: str, folder: str, name: str) -> CandidateBuild:
    """Build a candidate.

    Args:
        layer: Path of the layer, from ``store_layer``.
        candidate: One of the layer's candidates.
        target: The TVM target dict as JSON.
        folder: Folder of the files to write.
        name: Name of the files, without suffix.
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
    return CandidateBuild(
        library=str(path.with_suffix(".so")),
        constants=str(path.with_suffix(".npz")) if constants else "",
        kernels=tuple(library_kernel(f"k{i}", kernel) for i, kernel in enumerate(kernels)),
    )


def kernels_of(layer: Layer, candidate: Candidate, isa: Isa) -> list[Kernel]:
    """The kernel of a candidate, with conversions from and to the packed words that binary layers exchange.

    Which conversions a network needs depends on the neighbouring layers; here every family pays for its own.
    """
    built = candidate.build(layer, isa)
    before, after = _from_words(layer, built, isa), []
    if built.stores == Form.PLANES:
        after.append(planes_to_words(planes_of(layer.extent, isa), isa))
    return [*before, built.kernel, *after]


def _from_words(layer: Layer, built: BuiltKernel, isa: Isa) -> list[Kernel]:
    if not isinstance(layer, LinearLayer):
        return []
    conv, dense = layer.shape, isinstance(layer, FloatDense | BinaryDense)
    if built.reads == Form.PLANES:
        return [words_to_planes(planes_of((conv.batch, conv.in_channels, conv.height, conv.width), isa), isa)]
    if built.reads == Form.CHANNELS_LAST and layer.input_domain is not None:
        extent = channels_last((conv.batch, conv.in_channels, conv.height, conv.width))
        return [unpack((conv.width, conv.in_channels) if dense else extent, layer.input_domain, isa)]
    return []


def library_kernel(name: str, kernel: Kernel) -> LibraryKernel:
    """The parameters of a kernel that has a name in a library."""
    params = kernel.func.params
    # The lengths of constants may be symbolic.
    inputs = params[: len(params) - len(kernel.constants) - len(kernel.outputs)]
    read = tuple(KernelArgument(tuple(int(extent) for extent in param.shape), str(param.dtype)) for param in inputs)
    outputs = tuple(KernelArgument(tuple(shape), dtype) for shape, dtype in kernel.outputs)
    return LibraryKernel(name, read, len(kernel.constants), outputs)


@lru_cache(maxsize=1)
def _layer(path: str) -> Layer:
    return pickle.loads(Path(path).read_bytes())


@lru_cache(maxsize=1)
def _target(config: str) -> CpuTarget:
    return resolve(json.loads(config))
