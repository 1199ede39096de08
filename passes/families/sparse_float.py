"""The family of sparse float kernels (schedules/sparse_float/), which compute one multiply-add per nonzero weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.schedules.isa import Isa
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
        shape, domain = layer.shape, layer.input_domain
        pixels = shape.out_height * shape.out_width
        elements = shape.batch * (shape.height * shape.width * shape.in_channels + pixels * shape.out_channels)
        vectors = int(np.count_nonzero(layer.weight)) * vector_steps(shape, isa, domain)
        steps = Steps(sparse_step=vectors) if domain is None else Steps(packed_step=vectors)
        return cost_of(isa, steps, Steps(element=elements))

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
