"""Remove marks from TVM's own kernels that the code generator does not know, and warns about on stderr."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.ir import IRModule

_MARK = "pragma_scope"
"""TVM's scatters and its non-maximum suppression begin with it: several loops follow."""


def remove_unknown_pragmas(mod: IRModule) -> IRModule:
    """Remove the marks from all functions."""
    functions = {
        gvar: func.with_body(_without_marks(func.body)) if isinstance(func, tirx.PrimFunc) else func
        for gvar, func in mod.functions.items()
    }
    return IRModule(functions, attrs=mod.attrs)


def _without_marks(statement: tirx.Stmt) -> tirx.Stmt:
    """The statement without marks. They are at the beginning of blocks, and no loops are around these."""
    if isinstance(statement, tirx.AttrStmt) and statement.attr_key == _MARK:
        return _without_marks(statement.body)
    if isinstance(statement, tirx.SeqStmt):
        parts = [_without_marks(each) for each in statement.seq]
        changed = any(not part.same_as(each) for part, each in zip(parts, statement.seq, strict=True))
        return tirx.SeqStmt(parts) if changed else statement
    if isinstance(statement, s_tir.SBlockRealize):
        block = statement.block
        body = _without_marks(block.body)
        if not body.same_as(block.body):
            fields = (block.iter_vars, block.reads, block.writes, block.name_hint)
            more = (block.init, block.alloc_buffers, block.match_buffers, block.annotations)
            inner = s_tir.SBlock(*fields, body, *more)
            return s_tir.SBlockRealize(statement.iter_values, statement.predicate, inner)
    return statement
