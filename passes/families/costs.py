"""The cost model that all families share. The unit of cost is nanoseconds on x86 and instructions on ARM, on one core.

1. A family counts how often each step of its inner loops runs (``Steps``).
2. The table ``COSTS`` has the cost of one step, per instruction set.
3. The cost of a kernel is the sum over the steps of count times cost.

Only ratios within an instruction set matter. They differ less between machines than the costs themselves.

``benchmarks/fit_cost_model.py --write`` fits the table to measured times, on AArch64 to modelled cycles, on ARMv7 to
counted instructions.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from sbnn_tvm.schedules.isa import Isa


@dataclass(frozen=True)
class Steps:
    """Counts of steps of each kind; in the table COSTS, the cost of one step of each kind.

    Attributes:
        word: A vector of packed words: xor, popcount, add.
        word_float: An element of a float epilogue after popcounts.
        plane: Adding a vector of a plane to the counters, with vectors of full register width.
        half: Same as ``plane``, with vectors of half that width.
        narrow: Same as ``plane``, where several planes share a register.
        shift: A vector of the window that is a shifted input vector.
        gather: A lane of the window that is gathered from the rows of the input.
        compare: Comparing one plane of the counters with the threshold of a channel.
        plane_float: A byte of the counters before a float epilogue. An element has one byte for each 8 bits, and one
            more.
        to_planes: A word converted to planes, padding of the layout included.
        to_words: A word converted from planes, padding of the layout included.
        fetch: A KiB of weights or lists. The layers of a network evict each other's weights from the caches. This cost
            is not fitted, since a kernel that is measured alone finds its weights in the cache. On x86: an Intel Xeon
            (Sapphire or Emerald Rapids) core reads 26 bytes per nanosecond from its third-level cache. On ARM: 10 bytes
            in the time of 3 instructions.
        float_step: A vector of multiply-adds of a direct float convolution.
        sparse_step: A vector of multiply-adds of a sparse float kernel.
        packed_step: Same as ``sparse_step``, on packed activations of one or a few bits.
        element: An element of a float32 map that is converted to another layout, or only read and stored.
        integer_step: 16 multiply-accumulates of bytes.
    """

    word: float = 0.0
    word_float: float = 0.0
    plane: float = 0.0
    half: float = 0.0
    narrow: float = 0.0
    shift: float = 0.0
    gather: float = 0.0
    compare: float = 0.0
    plane_float: float = 0.0
    to_planes: float = 0.0
    to_words: float = 0.0
    fetch: float = 0.0
    float_step: float = 0.0
    sparse_step: float = 0.0
    packed_step: float = 0.0
    element: float = 0.0
    integer_step: float = 0.0

    def cost(self, steps: Steps) -> float:
        """The cost of ``steps``, where ``self`` holds the cost of one step of each kind."""
        return sum(cost * count for cost, count in zip(astuple(self), astuple(steps), strict=True))


# fit_cost_model.py writes these lines, one per instruction set.
# - The float steps of x86 are fitted to 3x3 convolutions of 56x56x64 to 7x7x512. They were measured on another day, at
#   another clock. So they are scaled: a multiply-add costs as much as one instruction of a ``word`` step, as measured
#   on groups of 2 to 24 channels. Such a step has 3 instructions with a vector popcount, 4 with byte shuffles, else 5.
# - neon is the mean of the three classes of cores; neon-dotprod has the same kernels, and no core like the A72. No
#   layer that was measured has ``half`` steps: they cost a little less than ``plane``. The float steps are fitted to
#   1x1, 3x3 and strided convolutions of 14x14 pixels (``--kernels float``).
# - armv7-neon has the instructions of neon as they were counted, with counters 1.25 times as expensive. Its own counts
#   at 14x14x256 are these, all times 1.4.
# - wasm-simd128 is armv7-neon with a dearer popcount, and narrow planes as slow as they were in Node.js on x86.
# - thumb, helium and riscv64 are estimates: instructions of a step, counted by hand; the popcounts of thumb and helium
#   by qemu-system-arm -icount shift=0, in a network of 9.5 M MACs.
# - neon-i8mm is neon-dotprod, but for steps of integers. Those of ARM are the whole calls of the 3x3 layer of
#   benchmarks/int8_instructions.py, in cycles by core; of i8mm, and of armv7-neon, its loop or its instructions.
# - What differs in products of integers alone has the other steps of its base: neon of its class of cores, for example.
#   No core like the A72 has dot products. A target may combine them all the same: it has the step of any core.
# - Steps of integers are estimates: on x86, an instruction that sums products costs as much as a float multiply-add;
#   beside x86 and ARM, instructions of the inner loops. They are only compared with each other.
# - A microcontroller reads its flash fast enough, but has little: there a KiB costs as much as 50,000 instructions.
_FITTED = {
    "avx512-vpopcntdq": Steps(
        0.524,
        0.141,
        0.478,
        0.33,
        1.09,
        1.62,
        0.649,
        0.544,
        0.124,
        1.04,
        0.674,
        39,
        0.1747,
        0.6754,
        0.361,
        0.2562,
        0.0437,
    ),
    "avx512": Steps(
        0.836,
        0.216,
        0.475,
        0.328,
        1.13,
        1.61,
        0.646,
        0.545,
        0.123,
        1.09,
        0.662,
        39,
        0.209,
        0.8081,
        0.4319,
        0.3065,
        0.135,
    ),
    "avx2": Steps(
        0.596, 0.296, 0.641, 0, 1.32, 1.57, 0.654, 0.545, 0.201, 1.49, 1.63, 39, 0.149, 0.2454, 0.1753, 0.2191, 0.149
    ),
    "sse": Steps(
        1.41, 0.33, 0.571, 0.45, 0.651, 0.904, 0.64, 0.23, 0.376, 2, 2.04, 39, 0.282, 0.2452, 0.2452, 0.3678, 0.564
    ),
    "neon": Steps(2.91, 6.43, 6.2, 6.1, 8.03, 9.13, 4.09, 9.69, 4.13, 8.07, 6.53, 307, 1.39, 2.37, 2.93, 1.44, 3.8),
    "neon in-order": Steps(3, 5.87, 7.45, 7.3, 9.59, 10.9, 3.87, 15.4, 4.35, 7, 6.77, 307, 1.16, 3.42, 3.43, 1.41, 3.3),
    "neon a72": Steps(2.88, 8.62, 6.5, 6.4, 7.73, 7.92, 3.3, 7.97, 4.99, 8.38, 6.63, 307, 2.01, 2.27, 3.12, 1.76, 4.1),
    "neon wide": Steps(2.84, 4.79, 4.61, 4.5, 6.8, 8.07, 4.98, 5.82, 3.05, 8.82, 6.17, 307, 1.01, 1.4, 2.22, 1.23, 4),
    "neon-dotprod": Steps(
        2.92, 5.33, 6.03, 5.9, 8.2, 9.49, 4.43, 10.6, 3.7, 7.91, 6.47, 307, 1.08, 2.41, 2.83, 1.32, 1.1
    ),
    "armv7-neon": Steps(4.69, 4.09, 6.3, 6.1, 9.8, 7.5, 4.9, 13.6, 4.4, 8.1, 7.9, 307, 1.563, 1.911, 2.606, 4.343, 5.5),
    "wasm-simd128": Steps(5.7, 4.09, 6.3, 6.1, 13, 7.5, 4.9, 13.6, 4.4, 8.1, 7.9, 307, 1.8, 1.911, 2.606, 4.343, 6),
    "thumb": Steps(52, 8, 28, 14, 28, 30, 6, 16, 6, 40, 40, 50_000, 9, 10, 12, 6, 48),
    "helium": Steps(19, 6, 14, 14, 20, 20, 6, 20, 6, 30, 30, 50_000, 3, 4, 6, 5, 12),
    "riscv64": Steps(7, 6, 13, 6.5, 13, 12, 5, 10, 5, 14, 14, 300, 7, 8, 10, 5, 48),
    "riscv64-v": Steps(15, 5, 6.5, 6.5, 9, 8, 5, 10, 5, 12, 12, 300, 2, 3, 4, 5, 12),
}


def _with_products(base: str, integer_step: float) -> Steps:
    """The costs of an instruction set that differs from another one in its products of integers alone."""
    return replace(_FITTED[base], integer_step=integer_step)


COSTS = _FITTED | {
    "avx512-vnni": _with_products("avx512", 0.0523),
    "avx2-vnni": _with_products("avx2", 0.0745),
    "neon-dotprod in-order": _with_products("neon in-order", 1.13),
    "neon-dotprod a72": _with_products("neon a72", 1.1),
    "neon-dotprod wide": _with_products("neon wide", 1.04),
    "neon-i8mm": _with_products("neon-dotprod", 0.8),
    "neon-i8mm in-order": _with_products("neon in-order", 0.9),
    "neon-i8mm a72": _with_products("neon a72", 0.8),
    "neon-i8mm wide": _with_products("neon wide", 0.65),
}
"""The cost of one step of each kind, by ``Isa.costs``."""


def cost_of(isa: Isa, *steps: Steps) -> float:
    """The sum of the costs of several counts of steps, in the unit of this instruction set."""
    return sum(map(COSTS[isa.costs].cost, steps))


def fetched(size: int) -> Steps:
    """The steps that fetch ``size`` bytes of weights from beyond the second-level cache."""
    return Steps(fetch=size / 1024)
