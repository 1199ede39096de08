"""The files beside the objects of a model, for programs that are built by a toolchain of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from .memory_plan import ALIGNMENT

MANIFEST = "FILES.txt"
"""The list of all files of the folder."""


def constants_source(name: str) -> str:
    """Assembler source of the constants, which it includes from a file. Every GNU-like assembler takes it."""
    return f"""\
/* The constants of the model, from {name}_constants.bin. Tell the assembler where that file is (-I). */
#if defined(__APPLE__)
    .const
    .globl _{name}_constants
    .private_extern _{name}_constants
    .balign {ALIGNMENT}
_{name}_constants:
    .incbin "{name}_constants.bin"
#else
#if defined(__wasm__)
    .section .rodata.{name}_constants, "", @
    .type {name}_constants, @object
#else
    .section .rodata.{name}_constants, "a", %progbits
    .type {name}_constants, %object
#endif
    .globl {name}_constants
    .hidden {name}_constants
    .balign {ALIGNMENT}
{name}_constants:
    .incbin "{name}_constants.bin"
    .size {name}_constants, . - {name}_constants
#if !defined(__wasm__)
    .section .note.GNU-stack, "", %progbits
#endif
#endif
"""


def readme(name: str, description: str, target: str, objects: Sequence[str]) -> str:
    """README.txt: what each file is, and how to build with it."""
    kernels = " ".join(objects)
    return f"""\
{name} - {description}

{name}.h                the interface, documented like a manual page: begin there
sbnn.hpp                for C++17: classes on that interface (optional)
{name}.c                the calls of the kernels, readable
sbnn_runtime.h          contexts and checks, included by {name}.c
sbnn_cpu.h              what this CPU can do, included by {name}.c
sbnn_cpu.h              what the CPU can do, included by {name}.c
sbnn_threads.h          threads that share the work of large layers, included by {name}.c
{name}_constants.bin    the weights
{name}_constants.S      them as assembler source; it includes the .bin file
*.o                     all of this compiled for {target}: kernels (which have no source in C), {name}.o and
                        {name}_constants.o
CMakeLists.txt          a static library {name}, for add_subdirectory
FILES.txt               all files; export replaces a folder that has no others

With the object files, a program needs no more than:

    cc -I. program.c *.o -lm -pthread

To compile all but the kernels by another compiler, or with other options:

    cc -std=c11 -O2 -c {name}.c
    cc -I. -c {name}_constants.S
    cc -I. program.c {name}.o {name}_constants.o {kernels} -lm -pthread

-DSBNN_THREADS=0 builds {name}.c without threads. -DSBNN_FREESTANDING builds it without operating system and C library;
memcpy and memset must exist (freestanding.c, for targets without operating system, has them).
"""


def cmake_lists(name: str, objects: Sequence[str]) -> str:
    """CMakeLists.txt: a static library of the model."""
    kernels = "\n    ".join(f"${{CMAKE_CURRENT_SOURCE_DIR}}/{each}" for each in objects)
    return f"""\
cmake_minimum_required(VERSION 3.13)
project({name} LANGUAGES C ASM)

set({name}_kernels
    {kernels})
set_source_files_properties(${{{name}_kernels}} PROPERTIES EXTERNAL_OBJECT TRUE)
set_source_files_properties({name}_constants.S PROPERTIES OBJECT_DEPENDS
    ${{CMAKE_CURRENT_SOURCE_DIR}}/{name}_constants.bin)

add_library({name} STATIC {name}.c {name}_constants.S ${{{name}_kernels}})
set_target_properties({name} PROPERTIES C_STANDARD 11 POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden)
target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})

if(NOT CMAKE_SYSTEM_NAME STREQUAL "Generic")
    find_package(Threads)
    if(Threads_FOUND)
        target_link_libraries({name} PUBLIC Threads::Threads)
    endif()
    if(NOT WIN32 AND NOT APPLE)
        target_link_libraries({name} PUBLIC m)
    endif()
endif()
"""
