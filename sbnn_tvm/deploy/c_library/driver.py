"""Write the calls of a program as C: one function that decodes constants, one that runs the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .memory_plan import ALIGNMENT, MemoryPlan
from .program import Buffer, Constant, Decoded, Input, KernelCall, Output, Place, Program, Tensor


def aligned(size: int) -> int:
    """The next multiple of the alignment of all values."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def offsets(sizes: Iterable[int]) -> list[int]:
    """Where values of these sizes lie, one after the other; the last number is the end."""
    result = [0]
    for size in sizes:
        result.append(result[-1] + aligned(size))
    return result


def write_driver(program: Program, plan: MemoryPlan, build: str, constants: str, at: Sequence[int]) -> str:
    """The C functions of one build.

    Args:
        program: The program.
        plan: Where its values are.
        build: What the names of the functions begin with.
        constants: The C name of the array of all constants.
        at: The offset of each constant of the program in that array.

    Returns:
        Definitions of ``BUILD_prepare`` and ``BUILD_run``, for struct sbnn_build in runtime/sbnn_runtime.h.
    """
    decoded = offsets(program.decoded)

    def name(place: Place) -> str:
        if isinstance(place, Constant):
            return f"constants + {at[place.index]}"
        if isinstance(place, Decoded):
            return f"decoded + {decoded[place.index]}"
        if isinstance(place, Buffer):
            return f"arena + {plan.buffers[place.index]}"
        return f"input{place.index}" if isinstance(place, Input) else f"output{place.index}"

    def call(each: KernelCall) -> str:
        arguments = ", ".join([*map(name, each.places), *map(str, each.extents)])
        return f"    if ({each.symbol}({arguments}) != 0) /* {each.comment} */\n        return SBNN_ERROR_KERNEL;"

    lines = [*_prototypes(program), ""]
    lines += [f"static int {build}_prepare(const struct sbnn_frame *frame)", "{"]
    lines += _locals(program, constants, prepare=True)
    if program.workspaces.prepare:
        lines.append(f"    sbnn_use_workspace(frame->arena, {program.workspaces.prepare});")
    lines += [*map(call, program.prepare), "    return SBNN_OK;", "}", ""]
    lines += [f"static int {build}_run(const struct sbnn_frame *frame)", "{"]
    lines += _locals(program, constants)
    used = {place for each in program.run for place in each.places} | {copy.source for copy in program.copies}
    for index, tensor in enumerate(program.inputs):
        if Input(index) in used:
            room = f"arena + {plan.inputs[index]}"
            lines.append(f"    /* {_described(tensor)} */")
            lines.append(f"    const void *const input{index} = sbnn_input_at(frame, {index}, {room});")
    for index, tensor in enumerate(program.outputs):
        if Output(index) in used:
            room = f"arena + {plan.outputs[index]}"
            lines.append(f"    /* {_described(tensor)} */")
            lines.append(f"    void *const output{index} = sbnn_output_at(frame, {index}, {room});")
    lines.append("")
    for step, each in enumerate(program.run):
        size = program.workspaces.serial[step]
        if size:
            lines.append(f"    sbnn_use_workspace(arena + {plan.workspaces[step]}, {size});")
        lines.append(call(each))
    copied = {copy.output: name(copy.source) for copy in program.copies}
    for index in range(len(program.outputs)):
        lines.append(f"    sbnn_return(frame, {index}, {copied.get(Output(index), f'output{index}')});")
    lines += ["    return SBNN_OK;", "}", ""]
    return "\n".join(lines)


def _locals(program: Program, constants: str, prepare: bool = False) -> list[str]:
    """Declarations of the memory that ``prepare`` or ``run`` uses."""
    places = [place for call in (program.prepare if prepare else program.run) for place in call.places]
    places += [] if prepare else [copy.source for copy in program.copies]
    arena = any(isinstance(place, Buffer | Input | Output) for place in places) or any(program.workspaces.serial)
    lines = []
    if arena and not prepare:
        lines.append("    unsigned char *const arena = frame->arena;")
    if any(isinstance(place, Decoded) for place in places):
        lines.append("    unsigned char *const decoded = frame->decoded;")
    if any(isinstance(place, Constant) for place in places):
        lines.append(f"    const unsigned char *const constants = {constants};")
    return [*lines, "    (void)frame;"]


def _prototypes(program: Program) -> list[str]:
    known = {}
    for call in (*program.prepare, *program.run):
        pointers = ["const void *"] * (len(call.places) - call.writes) + ["void *"] * call.writes
        known[call.symbol] = ", ".join([*pointers, *["int64_t"] * len(call.extents)])
    return [f"extern int32_t {symbol}({parameters});" for symbol, parameters in known.items()]


def _described(tensor: Tensor) -> str:
    return f"{_comment(tensor.name)}: {tensor.dtype}{list(tensor.shape)}"


def _comment(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text).replace("*/", "* /")
