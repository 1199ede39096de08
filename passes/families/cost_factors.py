"""What the inner loops of binary layers cost on each instruction set; cost_model.py counts how often they run.

``benchmarks/fit_cost_model.py --write`` measures, counts instructions for ARM, and writes the lines. Only ratios within
an instruction set matter, which differ less between machines than the costs themselves.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Factors:
    """The costs of steps, nanoseconds on x86 and instructions on ARM; or the numbers of steps.

    Attributes:
        word: A vector of packed words: xor, popcount, add.
        word_float: An element of a float epilogue behind popcounts.
        plane: Adding one vector of a plane to the counters, as wide as a register.
        half: The same, half as wide.
        narrow: The same, where several planes lie side by side in a register.
        shift: A vector of the window that is an input vector, shifted.
        gather: A lane of the window that is gathered from the input's rows.
        compare: A plane of a channel's threshold.
        plane_float: A byte of the counters before a float epilogue, which must be taken apart: an element has one for
            each 8 bits, and one more.
        to_planes: A word converted to planes, or room for one.
        to_words: A word converted from planes, or room for one.
        fetch: A KiB of weights or lists, which layers of a network drive out of each other's caches. Not fitted, since
            a kernel that is measured alone finds them there: on x86 from the 26 bytes a nanosecond at which a core of
            an Intel Xeon (Sapphire or Emerald Rapids) reads its third-level cache, on ARM as if 10 bytes came in the
            time of 3 instructions.
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

    def cost(self, steps: Factors) -> float:
        """What so many steps cost together."""
        return sum(cost * count for cost, count in zip(astuple(self), astuple(steps), strict=True))


# A line each, as fit_cost_model.py writes them. But armv7-neon is neon with counters 1.25 times as dear: its own counts
# at 14x14x256 are that, times 1.4 for all steps alike.
FACTORS = {
    "avx512-vpopcntdq": Factors(0.524, 0.141, 0.478, 0.33, 1.09, 1.62, 0.649, 0.544, 0.124, 1.04, 0.674, 39),
    "avx512": Factors(0.836, 0.216, 0.475, 0.328, 1.13, 1.61, 0.646, 0.545, 0.123, 1.09, 0.662, 39),
    "avx2": Factors(0.596, 0.296, 0.641, 0, 1.32, 1.57, 0.654, 0.545, 0.201, 1.49, 1.63, 39),
    "sse": Factors(1.41, 0.33, 0.571, 0.45, 0.651, 0.904, 0.64, 0.23, 0.376, 2, 2.04, 39),
    "neon": Factors(4.69, 4.09, 5.01, 4.9, 7.81, 6.04, 3.92, 10.9, 3.5, 6.5, 6.33, 307),
    "armv7-neon": Factors(4.69, 4.09, 6.3, 6.1, 9.8, 7.5, 4.9, 13.6, 4.4, 8.1, 7.9, 307),
}
