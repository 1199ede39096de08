"""What a float layer costs with all its weights, and with those alone that are not 0: which of the two kernels to take.

Costs are linear in what the inner loops do, on one core: nanoseconds on x86, instructions on ARM, as in cost_model.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from sbnn_tvm.algebra.domain import Domain
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import vector_steps


@dataclass(frozen=True)
class _Factors:
    """The inner loops of one instruction set.

    Attributes:
        dense: A vector of multiply-adds of schedules.direct_float.
        sparse: One of schedules.sparse_float.
        packed: The same on activations of a few bits.
        element: An element of the input or output that is brought into planes, or back to channels last.
    """

    dense: float
    sparse: float
    packed: float
    element: float


# x86: fitted on a Sapphire Rapids at 3.4 GHz to 3x3 convolutions of 56x56x64 to 7x7x512. ARM: instructions.
_FACTORS = {
    "avx512-vpopcntdq": _Factors(0.15, 0.58, 0.31, 0.22),
    "avx512": _Factors(0.15, 0.58, 0.31, 0.22),
    "avx2": _Factors(0.17, 0.28, 0.2, 0.25),
    "sse": _Factors(0.23, 0.2, 0.2, 0.3),
    "neon": _Factors(1.4, 1.7, 2.6, 4.0),
    "armv7-neon": _Factors(1.8, 2.2, 3.0, 5.0),
}


def float_cost(shape: Conv2dShape, isa: Isa) -> float:
    """Cost of schedules.direct_float, for a convolution or a dense layer (dense.dense_shape)."""
    pixels = shape.batch * shape.out_height * shape.out_width
    taps = shape.group_in_channels * shape.kernel[0] * shape.kernel[1]
    vectors = shape.groups * -(-shape.group_out_channels // isa.float_lanes)
    return _FACTORS[isa.name].dense * pixels * taps * vectors


def sparse_float_cost(shape: Conv2dShape, nonzero: int, isa: Isa, domain: Domain | None) -> float:
    """Cost of schedules.sparse_float.

    Args:
        shape: The layer; of a dense one, dense.dense_shape's.
        nonzero: Weights that are not 0.
        isa: The instruction set.
        domain: The values of the activations, if they have a few bits.
    """
    factors, pixels = _FACTORS[isa.name], shape.out_height * shape.out_width
    elements = shape.batch * (shape.height * shape.width * shape.in_channels + pixels * shape.out_channels)
    step = factors.sparse if domain is None else factors.packed
    return step * nonzero * vector_steps(shape, isa, domain) + factors.element * elements
