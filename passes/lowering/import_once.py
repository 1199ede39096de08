"""Import the LLVM functions of all kernels of a module together.

Each kernel brings the text of the LLVM functions that it calls (``schedules.tir.llvm.link``). TVM makes an LLVM module
of each text, and links them one by one. Each link walks all code generated so far: a ResNet-18 with sparse weights
brings 185 texts, 46 of them distinct, and linking them took half of the time in LLVM.
"""

from __future__ import annotations

from tvm import ir, tirx
from tvm.ir import IRModule

IMPORT = "pragma_import_llvm"


def import_once(mod: IRModule) -> IRModule:
    """Move the imports from the top of all kernels to one kernel, as one text."""
    kernels, texts = {}, set()
    for gvar, func in mod.functions.items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        body = func.body
        while isinstance(body, tirx.AttrStmt) and body.attr_key == IMPORT:
            texts.add(body.value.value)
            body = body.body
        if not body.same_as(func.body):
            kernels[gvar] = func.with_body(body)
    if not kernels:
        return mod
    first = min(kernels, key=lambda gvar: gvar.name_hint)
    text = ir.StringImm(_one_text(texts))
    body = tirx.AttrStmt(tirx.IntImm("int32", 0), IMPORT, text, kernels[first].body)
    kernels[first] = kernels[first].with_body(body)
    return IRModule({**mod.functions, **kernels}, attrs=mod.attrs)


def _one_text(texts: set[str]) -> str:
    # Several functions may declare the same intrinsic, but one text may declare it only once.
    lines = [line for text in sorted(texts) for line in text.splitlines()]
    declarations = dict.fromkeys(line for line in lines if line.startswith("declare "))
    return "\n".join([*declarations, *(line for line in lines if line not in declarations), ""])
