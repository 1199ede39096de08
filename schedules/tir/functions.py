"""Functions of float32 vectors, as LLVM functions: exp, log, sqrt, sigmoid, tanh, erf, and exact ones such as round.

Each is a polynomial (or a quotient of two) after a reduction of its argument, in float32 throughout, with the same
operations on every target. Only fused multiply-adds differ: they are used where the target has them. ``sqrt`` is exact
(IEEE). ``ULPS`` has the largest error of the others, which the tests hold. NaN stays NaN; infinities give the limits.

The polynomials of exp, log and tanh are those of Cephes (S. L. Moshier, netlib.org/cephes, single precision); that of
erf is a minimax fit of ``erf(x) / x`` in x^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np

from .llvm import LlvmFunction
from .vectors import VectorType

Function = Literal["exp", "log", "sqrt", "sigmoid", "tanh", "erf", "abs", "round", "floor", "ceil"]

ULPS: Mapping[Function, int] = {
    "exp": 2, "log": 2, "sqrt": 0, "sigmoid": 3, "tanh": 3, "erf": 8, "abs": 0, "round": 0, "floor": 0, "ceil": 0,
}  # fmt: skip
"""Largest error in units in the last place of the result. Denormal results may be 0. Ties are rounded to even."""
EXACT: frozenset[str] = frozenset(name for name, ulps in ULPS.items() if not ulps)
"""The functions whose results are those of any other IEEE implementation."""

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
_ERF_END = 3.92
_ERF_OVER = (
    2.0504101030383026e-06, 0.0002848554286174476, 0.00376415834762156,
    0.05274417623877525, 0.19037166237831116, 1.1283791065216064,
)  # fmt: skip
_ERF_UNDER = (
    3.80936726287473e-05, 0.0011621937155723572, 0.0149662671610713, 0.11409477889537811, 0.502045214176178, 1.0,
)  # fmt: skip

_MAGIC = 1.5 * 2**23
"""Adding this number rounds a float below 2^22 to a whole number, which is then in the low bits."""


@cache
def function(name: Function, vector: VectorType) -> LlvmFunction:
    """The function of one float32 vector.

    Args:
        name: The function.
        vector: The type of the argument and the result.
    """
    code = _Code(vector)
    result = _BODIES[name](code, "%x")
    declare = "".join(f"declare {text}\n" for text in sorted(code.declared))
    arguments = [f"{vector.llvm} %x"]
    return LlvmFunction.of(
        f"sbnn_{name}_{vector}", vector, arguments, [*code.lines, f"ret {vector.llvm} {result}"], declare
    )


@dataclass(eq=False)
class _Code:
    """The instructions of a function. Methods append one and return the name of its result."""

    vector: VectorType
    lines: list[str] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)

    @property
    def ints(self) -> str:
        """The type of the vector's bits."""
        return VectorType("int32", self.vector.lanes).llvm

    def number(self, value: float) -> str:
        """A float32 constant in every lane."""
        bits = int(np.float64(np.float32(value)).view(np.uint64))
        return self._splat("float", f"0x{bits:016X}")

    def integer(self, value: int) -> str:
        """An int32 constant in every lane."""
        return self._splat("i32", str(value))

    def op(self, name: str, a: str, b: str, kind: str = "") -> str:
        """A binary instruction, on floats unless ``kind`` is another type."""
        return self._line(f"{name} {kind or self.vector.llvm} {a}, {b}")

    def muladd(self, a: str, b: str, c: str) -> str:
        """``a * b + c``, fused where the target does that in one instruction."""
        return self.call("fmuladd", a, b, c)

    def call(self, intrinsic: str, *args: str) -> str:
        """An intrinsic of LLVM on floats."""
        kind, lanes = self.vector.llvm, self.vector.lanes
        name = f"@llvm.{intrinsic}." + (f"v{lanes}f32" if lanes > 1 else "f32")
        self.declared.add(f"{kind} {name}({', '.join([kind] * len(args))})")
        return self._line(f"call {kind} {name}({', '.join(f'{kind} {arg}' for arg in args)})")

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """A polynomial; the coefficient of the highest power is the first."""
        value = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.muladd(value, x, self.number(coefficient))
        return value

    def select(self, predicate: str, a: str, b: str, then: str, other: str) -> str:
        """``then`` where a comparison holds (not for NaN if the predicate is ordered), else ``other``."""
        mask = self._line(f"fcmp {predicate} {self.vector.llvm} {a}, {b}")
        bools = f"<{self.vector.lanes} x i1>" if self.vector.lanes > 1 else "i1"
        return self._line(f"select {bools} {mask}, {self.vector.llvm} {then}, {self.vector.llvm} {other}")

    def clamp(self, x: str, low: float, high: float) -> str:
        """``x`` within two numbers; NaN stays."""
        above = self.select("olt", x, self.number(low), self.number(low), x)
        return self.select("ogt", above, self.number(high), self.number(high), above)

    def bits(self, x: str) -> str:
        """The bits of floats as integers."""
        return self._line(f"bitcast {self.vector.llvm} {x} to {self.ints}")

    def floats(self, bits: str) -> str:
        """Integers as the bits of floats."""
        return self._line(f"bitcast {self.ints} {bits} to {self.vector.llvm}")

    def from_integer(self, value: str) -> str:
        """Integers converted to floats."""
        return self._line(f"sitofp {self.ints} {value} to {self.vector.llvm}")

    def power_of_two(self, exponent: str) -> str:
        """2 to an integer from -126 to 127."""
        biased = self.op("add", exponent, self.integer(127), self.ints)
        return self.floats(self.op("shl", biased, self.integer(23), self.ints))

    def _splat(self, kind: str, value: str) -> str:
        return f"splat ({kind} {value})" if self.vector.lanes > 1 else value

    def _line(self, text: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name


def _exp(code: _Code, x: str) -> str:
    """``2^n * exp(r)`` with x = n * ln(2) + r. 2^n is two factors, so that denormal results and n = 128 work."""
    x = code.clamp(x, -104.0, 89.0)
    shifted = code.muladd(x, code.number(np.log2(np.e)), code.number(_MAGIC))
    n = code.op("fsub", shifted, code.number(_MAGIC))
    r = code.muladd(n, code.number(-_LN2_HIGH), x)
    r = code.muladd(n, code.number(-_LN2_LOW), r)
    rest = code.muladd(code.polynomial(r, _EXP), code.op("fmul", r, r), r)
    value = code.op("fadd", rest, code.number(1.0))
    magic = int(np.float32(_MAGIC).view(np.int32))
    exponent = code.op("sub", code.bits(shifted), code.integer(magic), code.ints)
    half = code.op("ashr", exponent, code.integer(1), code.ints)
    other = code.op("sub", exponent, half, code.ints)
    return code.op("fmul", code.op("fmul", value, code.power_of_two(half)), code.power_of_two(other))


def _log(code: _Code, x: str) -> str:
    """``e * ln(2) + log(m)`` with x = 2^e * m and m from sqrt(1/2) to sqrt(2)."""
    least = float(np.finfo(np.float32).tiny)
    scaled = code.select("olt", x, code.number(least), code.op("fmul", x, code.number(2.0**25)), x)
    lost = code.select("olt", x, code.number(least), code.number(25.0), code.number(0.0))
    root = code.integer(int(np.float32(np.sqrt(0.5)).view(np.int32)))
    above = code.op("sub", code.bits(scaled), root, code.ints)
    exponent = code.op("ashr", above, code.integer(23), code.ints)
    mantissa = code.op("sub", code.bits(scaled), code.op("shl", exponent, code.integer(23), code.ints), code.ints)
    e = code.op("fsub", code.from_integer(exponent), lost)
    f = code.op("fsub", code.floats(mantissa), code.number(1.0))
    square = code.op("fmul", f, f)
    y = code.op("fmul", code.op("fmul", square, f), code.polynomial(f, _LOG))
    y = code.muladd(e, code.number(_LN2_LOW), y)
    y = code.muladd(square, code.number(-0.5), y)
    y = code.muladd(e, code.number(_LN2_HIGH), code.op("fadd", f, y))
    y = code.select("oeq", x, code.number(0.0), code.number(-np.inf), y)
    y = code.select("oeq", x, code.number(np.inf), x, y)
    return code.select("oge", x, code.number(0.0), y, code.number(np.nan))


def _sqrt(code: _Code, x: str) -> str:
    return code.call("sqrt", x)


def _sigmoid(code: _Code, x: str) -> str:
    falling = _exp(code, code.op("fsub", code.number(-0.0), x))
    return code.op("fdiv", code.number(1.0), code.op("fadd", falling, code.number(1.0)))


def _tanh(code: _Code, x: str) -> str:
    """``1 - 2 / (exp(2 * abs(x)) + 1)`` with the sign of x; a polynomial near 0, where that cancels."""
    size = code.call("fabs", x)
    rising = code.op("fadd", _exp(code, code.op("fadd", size, size)), code.number(1.0))
    far = code.op("fsub", code.number(1.0), code.op("fdiv", code.number(2.0), rising))
    square = code.op("fmul", x, x)
    near = code.muladd(code.op("fmul", square, x), code.polynomial(square, _TANH), x)
    return code.select("olt", size, code.number(0.625), near, code.call("copysign", far, x))


def _erf(code: _Code, x: str) -> str:
    x = code.clamp(x, -_ERF_END, _ERF_END)
    square = code.op("fmul", x, x)
    over = code.op("fmul", x, code.polynomial(square, _ERF_OVER))
    return code.clamp(code.op("fdiv", over, code.polynomial(square, _ERF_UNDER)), -1.0, 1.0)


def _abs(code: _Code, x: str) -> str:
    return code.call("fabs", x)


def _round(code: _Code, x: str) -> str:
    """Adding 2^23 to the size drops the fraction; larger numbers have none. No library function is needed."""
    size, least = code.call("fabs", x), code.number(2.0**23)
    whole = code.op("fsub", code.op("fadd", size, least), least)
    return code.select("olt", size, least, code.call("copysign", whole, x), x)


def _floor(code: _Code, x: str) -> str:
    near = _round(code, x)
    below = code.op("fsub", near, code.number(1.0))
    return code.call("copysign", code.select("ogt", near, x, below, near), x)


def _ceil(code: _Code, x: str) -> str:
    near = _round(code, x)
    above = code.op("fadd", near, code.number(1.0))
    return code.call("copysign", code.select("olt", near, x, above, near), x)


_BODIES: Mapping[Function, Callable[[_Code, str], str]] = {
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
    "abs": _abs,
    "round": _round,
    "floor": _floor,
    "ceil": _ceil,
}
