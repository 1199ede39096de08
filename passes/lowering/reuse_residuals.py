"""Let a kernel store its result in the memory of one of its operands, if nothing reads that operand afterwards.

In a residual network, each addition is the last reader of the shortcut. If the sum is stored in the shortcut's memory,
it needs no memory of its own, and less data passes through the caches. The kernel's attribute schedules.kernel.IN_PLACE
lists the pairs of parameters for which that is allowed.

Example: ``y = alloc(); add(conv, shortcut, y)`` becomes ``add(conv, shortcut, shortcut)``.

The pass expects a module after relax.transform.CallTIRRewrite, where outputs are the last arguments of kernel calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, IRModule
from tvm.relax import Expr, Var

from sbnn_tvm.schedules.kernel import IN_PLACE

from ..relax.graph import op_name, shape, substitute


def reuse_residuals(mod: IRModule) -> IRModule:
    """Replace outputs by operands whose memory they can reuse, and remove the allocations of these outputs."""
    main = mod["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    memory = _Memory(main)
    replaced: dict[Var, Expr] = {}
    in_place: dict[int, Call] = {}
    for number, binding in enumerate(bindings):
        call = binding.value
        if not isinstance(call, Call) or not isinstance(call.op, GlobalVar):
            continue
        pair = next(_possible(mod[call.op], call, number, memory), None)
        if pair is None:
            continue
        operand, output = pair
        memory.merge(call.args[output], call.args[operand])
        replaced[call.args[output]] = call.args[operand]
        in_place[number] = call
    if not in_place:
        return mod

    functions = _in_place_kernels(mod, Counter(call.op.name_hint for call in in_place.values()))
    kept = []
    for number, binding in enumerate(bindings):
        if binding.var not in replaced:
            value = binding.value
            if number in in_place:
                value = Call(functions[value.op.name_hint][0], value.args)
            value = _typed(substitute(value, replaced), binding.value)
            kept.append(relax.VarBinding(binding.var, value))
    result = _typed(substitute(main.body.body, replaced), main.body.body)
    body = _typed(relax.SeqExpr([relax.BindingBlock(kept)], result), main.body)
    changed = dict(functions.values())
    changed[mod.get_global_var("main")] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return IRModule({**mod.functions, **changed})


def _in_place_kernels(mod: IRModule, in_place: Counter[str]) -> dict[str, tuple[GlobalVar, tirx.PrimFunc]]:
    """The variants of kernels whose output may be one of their operands, by the name of the original kernel.

    A kernel without other calls keeps its name, so that no machine code is generated for a kernel that nothing calls.

    Args:
        mod: The module.
        in_place: For the name of each kernel, its number of calls in place.
    """
    bindings = (
        binding.value
        for func in mod.functions.values()
        if isinstance(func, relax.Function)
        for block in func.body.blocks
        for binding in block.bindings
    )
    calls = Counter(call.op.name_hint for call in bindings if isinstance(call, Call) and isinstance(call.op, GlobalVar))
    kernels = {}
    for name, count in in_place.items():
        gvar = mod.get_global_var(name)
        func = mod[gvar].with_attr("tirx.noalias", False)
        if count < calls[name]:
            gvar = _typed(GlobalVar(f"{name}_in_place"), gvar)
            func = func.with_attr("global_symbol", gvar.name_hint)
        kernels[name] = (gvar, func)
    return kernels


def _typed(expr: Expr, like: Expr) -> Expr:
    if isinstance(expr, Call | GlobalVar | relax.SeqExpr) and not expr.same_as(like):
        relax.expr._update_type(expr, like.ty)
    return expr


class _Memory:
    """The allocations that hold each variable, and the number of the last binding that uses each allocation."""

    def __init__(self, main: relax.Function) -> None:
        self._of: dict[Var, tuple[Var, ...]] = {}
        self._fields: dict[Var, list[tuple[Var, ...]]] = {}
        self.last: dict[Var, int] = {}
        number = -1
        for block in main.body.blocks:
            for binding in block.bindings:
                number += 1
                self._bind(binding.var, binding.value, number)
        for var in self.of(main.body.body):
            self.last[var] = number + 1

    def of(self, value: Expr) -> tuple[Var, ...]:
        """The allocations that hold a value."""
        if isinstance(value, Var):
            return self._of.get(value, ())
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self._fields:
            return self._fields[value.tuple_value][value.index]
        parts = value.fields if isinstance(value, relax.Tuple) else value.args if isinstance(value, Call) else ()
        parts = [value.tuple_value] if isinstance(value, relax.TupleGetItem) else parts
        return tuple(dict.fromkeys(var for part in parts for var in self.of(part)))

    def merge(self, output: Var, operand: Var) -> None:
        """Record that the output is stored in the operand's memory."""
        (room,), last = self.of(operand), self.last[output]
        self.last[room] = last
        for var, rooms in self._of.items():
            self._of[var] = tuple(room if each.same_as(output) else each for each in rooms)
        for var, fields in self._fields.items():
            self._fields[var] = [tuple(room if each.same_as(output) else each for each in rooms) for rooms in fields]

    def _bind(self, var: Var, value: Expr, number: int) -> None:
        if isinstance(value, Call) and op_name(value) == "builtin.alloc_tensor":
            self._of[var], self.last[var] = (var,), number
            return
        self._of[var] = self.of(value)
        if isinstance(value, relax.Tuple):
            self._fields[var] = [self.of(field) for field in value.fields]
        for each in self._of[var]:
            self.last[each] = number


def _possible(func: Expr, call: Call, number: int, memory: _Memory) -> Iterator[tuple[int, int]]:
    """The pairs (operand, output) of a call's argument indices for which the output can reuse the operand's memory.

    The call must be the last use of the operand. The operand must have the shape of the output, and one allocation that
    no other argument uses.
    """
    for operand, output in (func.attrs or {}).get(IN_PLACE, ()):
        rooms, target = memory.of(call.args[operand]), call.args[output]
        if len(rooms) != 1 or memory.last[rooms[0]] != number or memory.of(target) != (target,):
            continue
        alone = sum(rooms[0] in memory.of(arg) for arg in call.args) == 1
        if alone and shape(call.args[operand]) == shape(target):
            yield int(operand), int(output)
