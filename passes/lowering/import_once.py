"""Import the LLVM functions of all kernels of a module together.

Each kernel brings the text of the LLVM functions that it calls (``schedules.tir.llvm.link``). TVM makes an LLVM module
of each text, and links them one by one. Each link walks all code generated so far: a ResNet-18 with sparse weights
brings 185 texts, 46 of them distinct, and linking them took half of the time in LLVM.

An LLVM function that kernels share (``schedules.tir.llvm.SHARED``) becomes the body of a function of the module. In an
ELF file that function gets a name of its own for each model and build (deploy/c_library/object_symbols.py). In files of
Apple's systems it would not: there it is inlined like any other.
"""

from __future__ import annotations

import re

from tvm import ir, tirx
from tvm.ir import IRModule, PointerType, PrimType
from tvm.target import Target

from sbnn_tvm.schedules.tir.llvm import SHARED, shared_name

IMPORT = "pragma_import_llvm"

KERNEL_CALL = 2
"""TVM's calling convention for functions whose arguments are not packed."""


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
    functions, target = {}, (mod[first].attrs or {}).get("target")
    for shared in sorted(text for text in texts if text.startswith(SHARED)):
        if target is None or "apple" in str(target.attrs.get("mtriple", "")):
            texts.add(_inlined(shared))
        else:
            gvar, functions[gvar] = _shared(shared, target)
    text = ir.StringImm(_one_text(texts))
    body = tirx.AttrStmt(tirx.IntImm("int32", 0), IMPORT, text, kernels[first].body)
    kernels[first] = kernels[first].with_body(body)
    return IRModule({**mod.functions, **kernels, **functions}, attrs=mod.attrs)


def is_shared(func: tirx.PrimFunc) -> bool:
    """Whether a function of a lowered module is one that kernels share: a C function already, not a kernel."""
    return "calling_conv" in func.attrs and int(func.attrs["calling_conv"]) == KERNEL_CALL


def _shared(text: str, target: Target) -> tuple[ir.GlobalVar, tirx.PrimFunc]:
    """The function of a pointer that computes a shared LLVM function."""
    name = _name(text)
    pointer = ir.Var("pointer", PointerType(PrimType("uint64")))
    call = tirx.Evaluate(tirx.call_extern("int32", name, pointer))
    body = tirx.SeqStmt([call, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    symbol = shared_name(name)
    # Without noalias TVM would tell LLVM of no function in the module that its pointers do not alias.
    attrs = {"target": target, "global_symbol": symbol, "calling_conv": KERNEL_CALL, "tirx.noalias": True}
    func = tirx.PrimFunc([pointer], body, PrimType("int32"), ir.make_node("ir.DictAttrs", **attrs))
    return ir.GlobalVar(symbol), func


def _inlined(text: str) -> str:
    """The same as an LLVM function, which TVM has inlined."""
    name = _name(text)
    return f"define i32 @{shared_name(name)}(ptr %p) {{\n  %r = call i32 @{name}(ptr %p)\n  ret i32 %r\n}}\n"


def _name(text: str) -> str:
    found = re.search(r"@(\w+)\(ptr ", text)
    assert found
    return found[1]


def _one_text(texts: set[str]) -> str:
    # Several functions may declare the same intrinsic, but one text may declare it only once.
    lines = [line for text in sorted(texts) for line in text.splitlines()]
    declarations = dict.fromkeys(line for line in lines if line.startswith("declare "))
    return "\n".join([*declarations, *(line for line in lines if line not in declarations), ""])
