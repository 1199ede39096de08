"""Load a library into an emulated ARM CPU and call its kernels.

The library is loaded into unicorn (QEMU's CPU as a Python package), similar to the system's loader. The functions that
it imports are in sbnn_tvm.execution.emulator.imports. Kernels of a C library are plain functions
(passes/lowering/raw_kernels.py). Those for TVM's runtime follow its calling convention (tvm/ffi/c_api.h)::

    int __tvm_ffi_NAME(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result)
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import unicorn
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationTable
from elftools.elf.sections import Symbol, SymbolTableSection
from tvm.ir import IRModule

from sbnn_tvm.passes.lowering.machine_code import MACHINE_CODE
from sbnn_tvm.passes.lowering.raw_kernels import RawKernels

from ...deploy.linking import write_kernels, write_library
from ...deploy.targets import CpuTarget
from ...errors import EmulationError, LibraryError, TargetError
from ...runtime.elf import header_of
from ...runtime.library_file import read_library
from ...temporary_folder import temporary_folder
from .arm_machines import MACHINES, ArmMachine, start
from .imports import Imports, UnknownImportError
from .matrix_products import add_matrix_products
from .memory import PAGE, GuardedMemory, NoRoomError, Slot

_IMAGE = 0x10_0000  # where the library is loaded
_IMPORTS = 0x8_0000  # where the functions that it imports are
_STOP = 0x4_0000  # the return address of kernels; nothing is mapped there
_STACK = 8 << 20

_PREFIX = "__tvm_ffi_"
_TENSOR = 7  # kTVMFFIDLTensorPtr
_CPU = 1  # kDLCPU
_DTYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy's kinds as DLDataTypeCode

_WITHOUT_EXTENSIONS = {"neon", "fp-armv8", "vfp3"}  # the features of the default CPUs

_ACCESSES = {
    unicorn.UC_MEM_READ_UNMAPPED: "reads",
    unicorn.UC_MEM_WRITE_UNMAPPED: "writes",
    unicorn.UC_MEM_FETCH_UNMAPPED: "jumps to",
    unicorn.UC_MEM_READ_PROT: "reads protected memory,",
    unicorn.UC_MEM_WRITE_PROT: "writes protected memory,",
    unicorn.UC_MEM_FETCH_PROT: "jumps to data,",
}


@dataclass(frozen=True)
class ExecutedCode:
    """Neighbouring instructions of a library that were executed equally often.

    Attributes:
        address: Address of the first one in the library.
        code: The machine code.
        count: How often each of them was executed.
    """

    address: int
    code: bytes
    count: int

    @property
    def instructions(self) -> int:
        """Number of instructions; every instruction has four bytes."""
        return len(self.code) // 4


class Emulator:
    """The kernels of a library for aarch64 or armv7, callable on numpy arrays.

    Example::

        emulator = Emulator(kernels, targets.resolve("arm"))
        emulator.run("conv", [data, weights, out])           # writes out
        emulator.instructions("conv", [data, weights, out])  # the same, and returns the number of instructions
    """

    def __init__(self, mod: IRModule, target: CpuTarget, cpu: str | None = None, num_tasks: int = 1) -> None:
        """Compile the TIR functions of a module for an ARM target, and load them.

        Args:
            mod: A module whose PrimFuncs are the kernels, named as in the module; other functions are ignored.
            target: An aarch64 or armv7 target.
            cpu: The CPU to emulate: ``"a53"``, ``"a57"``, ``"a72"`` or ``"max"`` (every extension except SVE); for
                armv7 ``"a7"``, ``"a15"`` or ``"max"``. An instruction that it lacks is an error. The default is the
                a72 or the a7, or ``"max"`` for a target with optional extensions.
            num_tasks: Number of tasks of a parallel loop, as on a machine with that many cores.

        Raises:
            TargetError: If the target is not ARM, or the CPU is unknown.
        """
        _machine(target.machine, str(target))
        kernels = {
            variable.name_hint: function.with_attr("global_symbol", variable.name_hint)
            for variable, function in mod.functions.items()
            if isinstance(function, tvm.tirx.PrimFunc)
        }
        with temporary_folder(LibraryError) as folder:
            path = folder / "kernels.so"
            write_library(tvm.compile(IRModule(kernels), target.target, tir_pipeline=MACHINE_CODE), path, target)
            self._load(path.read_bytes(), str(target), target.features, cpu, num_tasks)

    @classmethod
    def from_library(cls, path: str | PathLike[str], cpu: str | None = None, num_tasks: int = 1) -> Emulator:
        """Load the kernels of a model as it is deployed.

        Args:
            path: A library that ``CompiledModule.export`` wrote.
            cpu: Same as in the constructor.
            num_tasks: Same as in the constructor.

        Raises:
            LibraryError: If the file is damaged or not a compiled model.
            TargetError: If the library is not for ARM, or the CPU is unknown.
        """
        emulator = cls.__new__(cls)
        library = read_library(path)
        emulator._load(library.data, str(path), frozenset(library.metadata.features), cpu, num_tasks)
        return emulator

    @classmethod
    def from_kernels(cls, path: str | PathLike[str], features: frozenset[str], num_tasks: int = 1) -> Emulator:
        """Load kernels that ``linking.write_library`` wrote without metadata.

        Args:
            path: The library.
            features: Features of the target that it was compiled for.
            num_tasks: Same as in the constructor.

        Raises:
            TargetError: If the library is not for ARM.
        """
        emulator = cls.__new__(cls)
        emulator._load(Path(path).read_bytes(), str(path), features, None, num_tasks)
        return emulator

    @classmethod
    def from_raw_kernels(cls, kernels: RawKernels, target: CpuTarget, cpu: str | None = None) -> Emulator:
        """Load the kernels of a C library.

        Args:
            kernels: The kernels.
            target: The target that they were compiled for.
            cpu: Same as in the constructor.

        Raises:
            TargetError: If the target is not ARM, or the CPU is unknown.
        """
        _machine(target.machine, str(target))
        emulator = cls.__new__(cls)
        with temporary_folder(LibraryError) as folder:
            write_kernels(kernels.code, folder / "kernels.so", target)
            library = (folder / "kernels.so").read_bytes()
        emulator._load(library, str(target), target.features, cpu, 1, kernels)
        return emulator

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels."""
        return tuple(self._kernels)

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel.

        Args:
            name: The kernel.
            arrays: Its arguments in order, C-contiguous. Writable arrays are updated after the call.

        Raises:
            EmulationError: If the kernel refuses the arguments, accesses memory outside them, or uses an unknown
                instruction.
        """
        if name not in self._kernels:
            raise EmulationError(f"there is no kernel {name!r}: the library has {', '.join(self._kernels)}")
        while len(self._arguments) < len(arrays):
            self._arguments.append(self._memory.slot(f"argument {len(self._arguments)}"))
        for slot in self._arguments:
            slot.size = 0
        slots = self._arguments[: len(arrays)]
        for index, (slot, array) in enumerate(zip(slots, arrays, strict=True)):
            if not array.flags.c_contiguous:
                raise EmulationError(f"argument {index} of kernel {name!r} is not C-contiguous")
            slot.label = f"argument {index} ({array.dtype}{list(array.shape)})"
        self._imports.reset()
        self._invalid_access = ""
        try:
            for slot, array in zip(slots, arrays, strict=True):
                self._memory.store(slot, array.tobytes())
            self._start(name, arrays, [slot.address for slot in slots])
        except (NoRoomError, UnknownImportError) as error:
            raise EmulationError(f"kernel {name!r} cannot be emulated: {error}") from None
        for slot, array in zip(slots, arrays, strict=True):
            if array.flags.writeable:
                data = self._uc.mem_read(slot.address, array.nbytes) if array.nbytes else b""
                array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def instructions(self, name: str, arrays: Sequence[np.ndarray]) -> int:
        """Call a kernel like ``run``, and count its instructions, without those of imported functions."""
        return sum(run.count * run.instructions for run in self.executions(name, arrays))

    def executions(self, name: str, arrays: Sequence[np.ndarray]) -> list[ExecutedCode]:
        """Call a kernel like ``run``, and count how often each of its instructions is executed."""
        blocks: Counter[tuple[int, int]] = Counter()

        def count(uc: unicorn.Uc, address: int, size: int, user_data: object) -> None:
            blocks[address, size] += 1

        # One callback per basic block, which always runs to its end. Blocks overlap where control enters the middle of
        # one, so the counts are added up for each instruction; every instruction has four bytes.
        hook = self._uc.hook_add(unicorn.UC_HOOK_BLOCK, count, begin=_IMAGE, end=self._image_end - 1)
        self._flush()
        try:
            self.run(name, arrays)
        finally:
            self._uc.hook_del(hook)
            self._flush()
        counts: Counter[int] = Counter()
        for (address, size), times in blocks.items():
            for at in range(address, address + size, 4):
                counts[at] += times
        found: list[ExecutedCode] = []
        for at in sorted(counts):
            instruction = bytes(self._uc.mem_read(at, 4))
            last = found[-1] if found else None
            if last and last.address + len(last.code) == at - _IMAGE and last.count == counts[at]:
                found[-1] = replace(last, code=last.code + instruction)
            else:
                found.append(ExecutedCode(at - _IMAGE, instruction, counts[at]))
        return found

    def _flush(self) -> None:
        """Discard the translated code, because hooks added later have no effect on it."""
        self._uc.ctl_flush_tb()  # type: ignore[attr-defined]  # made at run time

    def _start(self, name: str, arrays: Sequence[np.ndarray], addresses: Sequence[int]) -> None:
        machine, uc = self._machine, self._uc
        if self._raw is None:
            result, call = self._write_call(arrays, addresses)
            arguments, extents = [0, call, len(arrays), result], []
        else:
            signature = self._raw.signatures[name]
            if wrong := signature.mismatch(arrays):
                raise EmulationError(f"kernel {name!r} cannot be called: {wrong}")
            arguments, extents = list(addresses), [arrays[index].shape[axis] for index, axis in signature.extents]
        registers, beyond = machine.place_arguments(arguments, extents)
        for register, value in zip(machine.arguments, registers, strict=False):
            uc.reg_write(register, value)
        top = (self._stack.end - PAGE - len(beyond)) // 16 * 16
        uc.mem_write(top, beyond)
        uc.reg_write(machine.link, _STOP)
        uc.reg_write(machine.stack, top)
        try:
            uc.emu_start(self._kernels[name], _STOP)
        except unicorn.UcError as error:
            raise EmulationError(f"kernel {name!r} {self._explain(error)}") from None
        status = uc.reg_read(machine.arguments[0]) & 0xFFFF_FFFF
        if status != 0:
            raise EmulationError(f"kernel {name!r} failed: {self._imports.error or f'status {status}'}")

    def _write_call(self, arrays: Sequence[np.ndarray], addresses: Sequence[int]) -> tuple[int, int]:
        """Write the arguments in TVM's layout; returns the addresses of the result and of the arguments.

        The layout is: the result, a TVMFFIAny per argument, a DLTensor per argument, then their shapes and strides.
        """
        machine = self._machine
        any_size, tensor_size = 16, struct.calcsize(machine.tensor)
        tensor_stride = -(-tensor_size // 8) * 8
        tensors_at = any_size * (1 + len(arrays))
        extents_at = tensors_at + tensor_stride * len(arrays)
        base = self._memory.reserve(self._call, extents_at + sum(16 * array.ndim for array in arrays))
        values, tensors, extents = bytes(any_size), b"", b""
        for index, (array, address) in enumerate(zip(arrays, addresses, strict=True)):
            values += struct.pack("<iIQ", _TENSOR, 0, base + tensors_at + index * tensor_stride)
            shape = base + extents_at + len(extents)
            strides = [step // array.itemsize for step in array.strides]
            dtype = (_DTYPE_CODES[array.dtype.kind], 8 * array.itemsize, 1)
            fields = (address, _CPU, 0, array.ndim, *dtype, shape, shape + 8 * array.ndim, 0)
            tensors += struct.pack(machine.tensor, *fields).ljust(tensor_stride, b"\0")
            extents += struct.pack(f"<{2 * array.ndim}q", *array.shape, *strides)
        self._uc.mem_write(base, values + tensors + extents)
        return base, base + any_size

    def _note_invalid_access(
        self, uc: unicorn.Uc, access: int, address: int, size: int, value: int, user_data: object
    ) -> bool:
        verb = _ACCESSES.get(access, "touches")
        self._invalid_access = f"{verb} {size} bytes {self._memory.describe(address)}"
        return False

    def _explain(self, error: unicorn.UcError) -> str:
        counter = int(self._uc.reg_read(self._machine.counter))
        where = f"at +{counter - _IMAGE:#x} of the library"
        if self._invalid_access:
            return f"{self._invalid_access}, {where}"
        if error.errno in (unicorn.UC_ERR_INSN_INVALID, unicorn.UC_ERR_EXCEPTION):
            return f"uses an instruction that the {self.cpu} does not have, {where}"
        return f"cannot be emulated: {error}, {where}"

    def _load(
        self,
        library: bytes,
        what: str,
        features: frozenset[str],
        cpu: str | None,
        num_tasks: int,
        raw: RawKernels | None = None,
    ) -> None:
        self._raw = raw
        name = header_of(library).machine
        self._machine = machine = _machine(name, what)
        self.cpu = cpu or (machine.default_cpu if features <= _WITHOUT_EXTENSIONS else "max")
        if self.cpu not in machine.cpus:
            known = ", ".join(machine.cpus)
            raise TargetError(f"unknown CPU {self.cpu!r} to emulate: for {name} there are {known}")
        self._uc = start(machine, self.cpu)
        if name == "aarch64" and "i8mm" in features:
            add_matrix_products(self._uc)
        self._memory = GuardedMemory(self._uc, machine.slots, machine.slot)
        self._call = self._memory.slot("the arguments of the call")
        self._stack = self._memory.slot("the stack")
        self._memory.reserve(self._stack, _STACK)
        self._imports = Imports(self._uc, machine, self._memory, _IMPORTS, num_tasks)
        self._arguments: list[Slot] = []
        self._invalid_access = ""
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._note_invalid_access)
        self._kernels: dict[str, int] = {}
        self._image_end = _IMAGE
        self._map(library)

    def _map(self, library: bytes) -> None:
        """Map the library, resolve its imports, and find its kernels."""
        prefix = _PREFIX if self._raw is None else self._raw.prefix
        elf = ELFFile(BytesIO(library))
        for segment in elf.iter_segments("PT_LOAD"):
            begin = _IMAGE + segment["p_vaddr"]
            first, last = begin // PAGE * PAGE, -(-(begin + segment["p_memsz"]) // PAGE) * PAGE
            self._uc.mem_map(first, last - first, _protection(segment["p_flags"]))
            self._uc.mem_write(begin, segment.data())
            self._image_end = max(self._image_end, last)
        table = elf.get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        for segment in elf.iter_segments("PT_DYNAMIC"):
            assert isinstance(segment, DynamicSegment)
            for relocations in segment.get_relocation_tables().values():
                assert isinstance(relocations, RelocationTable)
                for relocation in relocations.iter_relocations():
                    self._relocate(relocation.entry, table.get_symbol(relocation["r_info_sym"]))
        for symbol in table.iter_symbols():
            if symbol["st_shndx"] == "SHN_UNDEF":
                continue
            service = self._imports.service(symbol.name)
            if service is not None:  # a weak variable, which TVM's loader sets
                self._uc.mem_write(_IMAGE + symbol["st_value"], self._pointer(service))
            elif symbol.name.startswith(prefix) and symbol["st_info"]["type"] == "STT_FUNC":
                self._kernels[symbol.name.removeprefix(prefix)] = _IMAGE + symbol["st_value"]

    def _relocate(self, entry: Any, symbol: Symbol) -> None:
        machine, kind = self._machine, entry["r_info_type"]
        where = _IMAGE + entry["r_offset"]
        if kind in machine.bound:
            value = self._address(symbol)
        elif kind in (machine.relative, machine.absolute):
            stored = self._uc.mem_read(where, struct.calcsize(machine.pointer))
            addend = entry["r_addend"] if "r_addend" in entry else struct.unpack("<" + machine.pointer, stored)[0]
            value = addend + (_IMAGE if kind == machine.relative else self._address(symbol))
        else:
            raise TargetError(f"the library has a relocation of type {kind}, which the emulator does not know")
        self._uc.mem_write(where, self._pointer(value))

    def _address(self, symbol: Symbol) -> int:
        if symbol["st_shndx"] != "SHN_UNDEF":
            return _IMAGE + int(symbol["st_value"])
        if symbol["st_info"]["bind"] == "STB_WEAK":
            return 0
        return self._imports.address(symbol.name)

    def _pointer(self, value: int) -> bytes:
        return struct.pack("<" + self._machine.pointer, value)


def _machine(name: str, what: str) -> ArmMachine:
    if name not in MACHINES:
        raise TargetError(f"{what} is for {name}, but only aarch64 and arm can be emulated")
    return MACHINES[name]


def _protection(flags: int) -> int:
    """The access that a segment allows (PF_X 1, PF_W 2, PF_R 4), for unicorn."""
    wanted = {1: unicorn.UC_PROT_EXEC, 2: unicorn.UC_PROT_WRITE, 4: unicorn.UC_PROT_READ}
    return sum(protection for flag, protection in wanted.items() if flags & flag)
