"""The family of sparse float kernels (schedules/sparse_float/), which compute one multiply-add per nonzero weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.algebra.domain import Domain
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d, sparse_float_dense, vector_steps

from ..layers.forms import Form
from ..layers.kinds import FloatConvolution, FloatDense, FloatLinearLayer, Layer
from .costs import Steps, cost_of
from .family import Bound, BuiltKernel, Family, Member, Resource


@dataclass(frozen=True)
class SparseFloatFamily(Family):
    """Convolutions and dense layers with float32 weights, most of them 0."""

    name: ClassVar[str] = "sparse_float"
    skips_zeros: ClassVar[bool] = True

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """A single member, for float linear layers that are not depthwise."""
        return (None,) if isinstance(layer, FloatLinearLayer) and not layer.shape.depthwise else ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the multiply-adds of nonzero weights, and of converting the layouts of input and output."""
        if not isinstance(layer, FloatLinearLayer):
            raise TypeError(f"no {self} layer: {layer}")
        return cost_of(isa, sparse_steps(layer.shape, layer.weight, isa, layer.input_domain))

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.sparse_float.kernel."""
        domain = layer.input_domain
        if domain is not None and domain.bits > 1 and isinstance(layer, FloatDense) and len(layer.extent) > 2:
            domain = None  # the planes of codes follow the first axis, but the kernel reads rows
        reads = Form.CHANNELS_LAST if domain is None else Form.BITS
        match layer:
            case FloatDense():
                kernel = sparse_float_dense(layer.shape.width, layer.weight, layer.program, isa, domain)
            case FloatConvolution():
                kernel = sparse_float_conv2d(layer.shape, layer.weight, layer.program, isa, domain)
            case _:
                raise TypeError(f"no {self} layer: {layer}")
        return BuiltKernel(kernel, reads)

    def bound(self, layer: Layer) -> Bound | None:
        """One multiply-add per nonzero weight and output pixel."""
        if not isinstance(layer, FloatLinearLayer):
            return None
        return Bound(Resource.MULTIPLY_ADD, layer.macs * layer.counted_density)


SPARSE_FLOAT = SparseFloatFamily()


def sparse_steps(shape: Conv2dShape, weight: np.ndarray, isa: Isa, domain: Domain | None) -> Steps:
    """Steps of a sparse float kernel; ``domain`` has the values of packed activations, None for floats."""
    pixels = shape.out_height * shape.out_width
    elements = shape.batch * (shape.height * shape.width * shape.in_channels + pixels * shape.out_channels)
    vectors = int(np.count_nonzero(weight)) * vector_steps(shape, isa, domain)
    return Steps(sparse_step=0 if domain else vectors, packed_step=vectors if domain else 0, element=elements)
