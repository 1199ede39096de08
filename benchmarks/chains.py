"""Chains of convolutions with random weights, computed by the kernels of this project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from contestant import Contestant
from layers import Layer

from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.passes.lowering.machine_code import MACHINE_CODE
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    CodesOutput,
    FloatOutput,
    IntegerThreshold,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.words import pack_channels, unpack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True, eq=False)
class BinaryChain:
    """Convolutions of {-1, +1} activations with {-1, +1} weights, zero padding, and a threshold per channel between.

    Attributes:
        shapes: The convolutions, in order.
        bits: bool [N, H, W, C], the input of the first convolution; True stands for +1.
        signs: For each convolution bool [OC, C, kh, kw]; True stands for +1.
        thresholds: For each convolution int64 [OC]; the output bit is sum >= threshold.
    """

    shapes: list[Conv2dShape]
    bits: np.ndarray
    signs: list[np.ndarray]
    thresholds: list[np.ndarray]

    @classmethod
    def random(cls, layer: Layer, rng: np.random.Generator) -> BinaryChain:
        """A chain with about as many -1 as +1, in weights and in feature maps."""
        s = layer.shape
        bits = rng.integers(0, 2, (s.batch, s.height, s.width, s.in_channels)).astype(bool)
        signs = [rng.integers(0, 2, (s.out_channels, s.in_channels, *s.kernel)).astype(bool) for s in layer.shapes]
        thresholds = [
            np.rint(rng.standard_normal(s.out_channels) * np.sqrt(w[0].size) / 2).astype(np.int64)
            for s, w in zip(layer.shapes, signs, strict=True)
        ]
        return cls(layer.shapes, bits, signs, thresholds)

    def start(self, links: int) -> BinaryChain:
        """The chain of the first ``links`` convolutions."""
        return BinaryChain(self.shapes[:links], self.bits, self.signs[:links], self.thresholds[:links])

    def output(self, target: CpuTarget) -> np.ndarray:
        """The output bits of the chain, bool [N, H, W, OC], computed by float32 convolutions of -1, 0 and +1."""
        bits = self.bits
        for shape, signs, threshold in zip(self.shapes, self.signs, self.thresholds, strict=True):
            kernel = float_conv2d(shape, _values(signs), STORE, target.isa)
            convolution, sums = compiled([kernel], _values(bits), target)
            convolution.run()
            bits = sums.numpy() >= threshold
        return bits


@dataclass(frozen=True, eq=False)
class FloatChain:
    """Float32 convolutions, padded with zeros.

    Attributes:
        shapes: The convolutions, in order.
        data: float32 [N, H, W, C], the input of the first convolution.
        weights: For each convolution float32 [OC, C, kh, kw].
    """

    shapes: list[Conv2dShape]
    data: np.ndarray
    weights: list[np.ndarray]

    @classmethod
    def random(cls, layer: Layer, rng: np.random.Generator) -> FloatChain:
        """A chain whose values keep their magnitude from layer to layer."""
        s = layer.shape
        data = rng.standard_normal((s.batch, s.height, s.width, s.in_channels), np.float32)
        weights = [
            rng.standard_normal((s.out_channels, s.in_channels, *s.kernel), np.float32)
            / np.float32(np.sqrt(s.in_channels * np.prod(s.kernel)))
            for s in layer.shapes
        ]
        return cls(layer.shapes, data, weights)


@dataclass(frozen=True, eq=False)
class Int8Chain:
    """Convolutions of bytes: uint8 activations with the zero point 128, int8 weights, a float multiplier, uint8 again.

    Attributes:
        shapes: The convolutions, in order.
        data: uint8 [N, H, W, C], the input of the first convolution.
        weights: For each convolution int8 [OC, C, kh, kw].
        multipliers: For each convolution what its integer sums are multiplied with.
    """

    shapes: list[Conv2dShape]
    data: np.ndarray
    weights: list[np.ndarray]
    multipliers: list[np.float32]

    @classmethod
    def random(cls, layer: Layer, rng: np.random.Generator) -> Int8Chain:
        """A chain whose values keep their magnitude from layer to layer.

        The weights have 7 bits: with 8, onnxruntime's sums of two products saturate on CPUs without VNNI.
        """
        s = layer.shape
        data = rng.integers(0, 256, (s.batch, s.height, s.width, s.in_channels)).astype(np.uint8)
        weights = [
            rng.integers(-63, 64, (s.out_channels, s.in_channels, *s.kernel)).astype(np.int8) for s in layer.shapes
        ]
        return cls(layer.shapes, data, weights, [np.float32(1 / (37 * np.sqrt(w[0].size))) for w in weights])


def int8_contestant(chain: Int8Chain, target: CpuTarget) -> tuple[Contestant, np.ndarray]:
    """A chain by kernels on bytes, and its output, uint8 [N, H, W, OC]."""
    kernels = []
    for shape, weight, multiplier in zip(chain.shapes, chain.weights, chain.multipliers, strict=True):
        program = Program((Step("multiply", Ref(0), Scalar(float(multiplier))),), (CodesOutput(Ref(1), "uint8", 128),))
        kernels.append(int8_conv2d(shape, weight, 128, program, target.isa, data_dtype="uint8"))
    contestant, output = compiled(kernels, chain.data, target)
    contestant.run()
    return contestant, output.numpy()


def binary_contestant(chain: BinaryChain, target: CpuTarget) -> Contestant:
    """A chain by popcount kernels, packed bits in and out; its output is checked."""
    isa = target.isa
    kernels = [
        popcount_conv2d(shape, signs, 0, IntegerThreshold(threshold, np.zeros(len(threshold), bool)), isa)
        for shape, signs, threshold in zip(chain.shapes, chain.signs, chain.thresholds, strict=True)
    ]
    contestant, words = compiled(kernels, pack_channels(chain.bits, isa), target)
    contestant.run()
    bits = unpack_channels(words.numpy(), chain.shapes[-1].out_channels)
    np.testing.assert_array_equal(bits, chain.output(target))
    return contestant


def float_contestant(chain: FloatChain, target: CpuTarget) -> tuple[Contestant, np.ndarray]:
    """A chain by float32 kernels, and its output, float32 [N, H, W, OC]."""
    kernels = [float_conv2d(s, w, STORE, target.isa) for s, w in zip(chain.shapes, chain.weights, strict=True)]
    contestant, output = compiled(kernels, chain.data, target)
    contestant.run()
    return contestant, output.numpy()


def kernel_contestant(
    kernel: Kernel, inputs: Sequence[np.ndarray], target: CpuTarget
) -> tuple[Contestant, list[tvm.runtime.Tensor]]:
    """One kernel on its inputs, and its outputs, which are computed already."""
    function = library_of(kernel, target)["kernel"]
    outputs = [tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in kernel.outputs]
    arguments = [*map(tvm.runtime.tensor, (*inputs, *kernel.constants)), *outputs]
    function(*arguments)
    return Contestant(lambda: function(*arguments)), outputs


def compiled(kernels: list[Kernel], data: np.ndarray, target: CpuTarget) -> tuple[Contestant, tvm.runtime.Tensor]:
    """Kernels that run one after the other on ``data``, and the output of the last; call ``run`` to compute it."""
    calls = []
    tensor = tvm.runtime.tensor(data)
    for kernel in kernels:
        function = library_of(kernel, target)["kernel"]
        ((shape, dtype),) = kernel.outputs
        output = tvm.runtime.tensor(np.zeros(shape, dtype))
        calls.append((function, [tensor, *map(tvm.runtime.tensor, kernel.constants), output]))
        tensor = output

    def run() -> None:
        for function, arguments in calls:
            function(*arguments)

    return Contestant(run, len(calls)), tensor


def library_of(kernel: Kernel, target: CpuTarget) -> tvm.runtime.Executable:
    """A kernel in machine code, as the function ``"kernel"``."""
    module = tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
    return tvm.compile(module, target.target, tir_pipeline=MACHINE_CODE)


def residual_epilogue(channels: int, rng: np.random.Generator) -> Program:
    """The epilogue of a residual network: scale, bias, residual (tensor 0) and PReLU; it stores floats and bits."""

    def constant() -> Channel:
        return Channel(rng.standard_normal(channels).astype(np.float32))

    steps = (
        Step("multiply", Ref(0), constant()),
        Step("add", Ref(1), constant()),
        Step("add", Ref(2), Tensor(0)),
        Step("prelu", Ref(3), constant()),
    )
    return Program(steps, (FloatOutput(Ref(4)), BitsOutput(Ref(4), Scalar(0.0))))


def _values(bits: np.ndarray) -> np.ndarray:
    return np.where(bits, np.float32(1), np.float32(-1))
