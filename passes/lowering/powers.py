"""Legalize powers as calls of the C library.

TVM's own expression of a power warns on stderr wherever it is built or simplified, if its exponent is a constant from 3
on: there are devices that do not define it for a negative base. The C library does, and LLVM makes the same code.
"""

from __future__ import annotations

import tvm
from tvm import te, tirx
from tvm.ir import Call, GenericConst
from tvm.relax import BlockBuilder, Expr

_FUNCTIONS = {"float32": "powf", "float64": "pow"}
_legalize_by_tvm = tvm.ir.Op.get("relax.power").get_attr("FLegalize")


def use_powers_of_c_library() -> None:
    """Let all of TVM's passes legalize powers so, FoldConstant included."""
    # An attribute of a higher level replaces that of a lower one; TVM's own has level 10.
    tvm.ir.register_op_attr("relax.power", "FLegalize", _legalize, level=11)


def _legalize(builder: BlockBuilder, call: Call) -> Expr:
    base, exponent = call.args
    function = _FUNCTIONS.get(str(call.ty.dtype))
    if (
        function is None
        or not _is_number(exponent, rank=len(call.ty.shape))
        or len(base.ty.shape) != len(call.ty.shape)
    ):
        return _legalize_by_tvm(builder, call)
    number = exponent.value.numpy().item()

    def power(x: te.Tensor) -> te.Tensor:
        def at(*index: tirx.Var) -> tirx.PrimExpr:
            return tirx.call_pure_extern(x.dtype, function, x(*index), tirx.const(number, x.dtype))

        return te.compute(x.shape, at, name="power")

    return builder.call_te(power, base)


def _is_number(expr: Expr, rank: int) -> bool:
    if not isinstance(expr, GenericConst):
        return False
    array = expr.value.numpy()
    return array.size == 1 and array.ndim <= rank
