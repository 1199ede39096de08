"""The door of the sparse float kernels (schedules/sparse_float/): a multiply-add for each weight that is not 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d, sparse_float_dense, vector_steps

from ..layers.forms import Form
from ..layers.kinds import FloatConv2d, FloatDense, FloatLinear, Layer
from .costs import Steps, cost_of
from .family import Bound, BuiltKernel, Family, Member, Resource


@dataclass(frozen=True)
class SparseFloat(Family):
    """Convolutions and dense layers of float32 weights, most of which are 0."""

    name: ClassVar[str] = "sparse_float"
    skips_zeros: ClassVar[bool] = True

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One, for any linear layer that is not depthwise."""
        return (None,) if isinstance(layer, FloatLinear) and not layer.shape.depthwise else ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Multiply-adds of the weights that are not 0, and the input and output in another layout."""
        if not isinstance(layer, FloatLinear):
            raise TypeError(f"no {self} layer: {layer}")
        shape, domain = layer.shape, layer.input_domain
        pixels = shape.out_height * shape.out_width
        elements = shape.batch * (shape.height * shape.width * shape.in_channels + pixels * shape.out_channels)
        vectors = int(np.count_nonzero(layer.weight)) * vector_steps(shape, isa, domain)
        steps = Steps(sparse_step=vectors) if domain is None else Steps(packed_step=vectors)
        return cost_of(isa, steps, Steps(element=elements))

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """A kernel of schedules.sparse_float.kernel."""
        domain = layer.input_domain
        if domain is not None and domain.bits > 1 and isinstance(layer, FloatDense) and len(layer.extent) > 2:
            domain = None  # the planes of codes follow the first axis, not the rows
        reads = Form.CHANNELS_LAST if domain is None else Form.BITS
        match layer:
            case FloatDense():
                kernel = sparse_float_dense(layer.shape.width, layer.weight, layer.program, isa, domain)
            case FloatConv2d():
                kernel = sparse_float_conv2d(layer.shape, layer.weight, layer.program, isa, domain)
            case _:
                raise TypeError(f"no {self} layer: {layer}")
        return BuiltKernel(kernel, reads)

    def bound(self, layer: Layer) -> Bound | None:
        """A multiply-add for each weight that is not 0 and each pixel."""
        if not isinstance(layer, FloatLinear):
            return None
        return Bound(Resource.MULTIPLY_ADD, layer.macs * layer.counted_density)


SPARSE_FLOAT = SparseFloat()
