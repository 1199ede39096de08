"""Emulate the functions that kernels import: C's memory and math functions, and the services of TVM's runtime.

Each function has an address in one page. The page is filled with instructions that return. A hook does the work of a
function when control reaches its address. A parallel loop is not a nested run of the emulator: its hook jumps to the
loop's body, which returns to another hook, which jumps to the body again for the next task.

Sources: the C standard; ARM's run-time ABI (rtabi32) for ``__aeabi``; tvm/runtime/c_backend_api.h and tvm/ffi/c_api.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass

import unicorn

from .arm_machines import ArmMachine
from .memory import PAGE, GuardedMemory, Slot

_ARITY = {"atan2": 2, "copysign": 2, "fmax": 2, "fmin": 2, "fmod": 2, "hypot": 2, "nextafter": 2, "pow": 2, "fma": 3}


class UnknownImportError(RuntimeError):
    """A kernel called a function that is not emulated."""


@dataclass
class _Loop:
    """A running parallel loop."""

    body: int
    data: int
    tasks: int
    link: int
    task: int = 0


class Imports:
    """The functions that a library imports.

    Attributes:
        page: Address of their page.
        error: The last error that the kernel reported to TVM's runtime.
    """

    def __init__(self, uc: unicorn.Uc, machine: ArmMachine, memory: GuardedMemory, page: int, num_tasks: int) -> None:
        self.page = page
        self.error: str | None = None
        self._uc = uc
        self._machine = machine
        self._memory = memory
        self._num_tasks = num_tasks
        self._functions: list[Callable[[], None]] = []
        self._addresses: dict[str, int] = {}
        self._loops: list[_Loop] = []
        self._workspaces: list[Slot] = []  # a stack, since kernels free them in reverse order; kept for the next call
        self._workspaces_used = 0
        self._environment = memory.slot("the environment of a parallel loop")
        uc.mem_map(page, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        uc.mem_write(page, machine.jump * (PAGE // len(machine.jump)))
        uc.hook_add(unicorn.UC_HOOK_CODE, self._enter, begin=page, end=page + PAGE - 1)
        self._known: dict[str, Callable[[], None]] = {
            "memcpy": self._memmove,
            "memmove": self._memmove,
            "memset": self._memset,
            "__aeabi_memcpy": self._memmove,
            "__aeabi_memmove": self._memmove,
            "__aeabi_memset": self._aeabi_memset,
            "__aeabi_memclr": self._aeabi_memclr,
            "__aeabi_idiv": self._divide,
            "TVMFFIErrorSetRaisedFromCStrParts": self._set_error,
        }
        self._services: dict[str, Callable[[], None]] = {
            "__TVMBackendParallelLaunch": self._parallel_launch,
            "__TVMBackendAllocWorkspace": self._allocate_workspace,
            "__TVMBackendFreeWorkspace": self._free_workspace,
        }
        self._next_task_address = self._bind("the next task", self._next_task)

    def address(self, name: str) -> int:
        """The address of an imported function. An unknown function is an error only if it is called."""
        base = name.rstrip("48") if name.startswith("__aeabi_mem") else name  # variants for aligned memory
        return self._bind(name, self._known.get(base) or self._mathematics(name) or self._unknown(name))

    def service(self, name: str) -> int | None:
        """The address of TVM's service for a weak variable of this name, or None if the name is not TVM's."""
        if not name.startswith("__TVM"):
            return None
        return self._bind(name, self._services.get(name) or self._unknown(f"TVM's runtime ({name})"))

    def reset(self) -> None:
        """Forget the state of the last call."""
        self.error = None
        self._loops = []
        self._workspaces_used = 0

    def _bind(self, name: str, function: Callable[[], None]) -> int:
        if name not in self._addresses:
            self._addresses[name] = self.page + len(self._functions) * len(self._machine.jump)
            self._functions.append(function)
        return self._addresses[name]

    def _enter(self, uc: unicorn.Uc, address: int, size: int, user_data: object) -> None:
        self._go(self._read(self._machine.link))
        self._functions[(address - self.page) // len(self._machine.jump)]()

    # Registers and memory.

    def _read(self, register: int) -> int:
        return int(self._uc.reg_read(register))

    def _argument(self, index: int) -> int:
        return self._read(self._machine.arguments[index])

    def _signed(self, index: int) -> int:
        value = self._argument(index) & 0xFFFF_FFFF
        return value - (1 << 32) if value >> 31 else value

    def _call(self, function: int, arguments: tuple[int, ...], link: int) -> None:
        for register, value in zip(self._machine.arguments, arguments, strict=False):
            self._uc.reg_write(register, value)
        self._uc.reg_write(self._machine.link, link)
        self._go(function)

    def _return(self, value: int) -> None:
        self._uc.reg_write(self._machine.arguments[0], value & (0xFFFF_FFFF_FFFF_FFFF if self._wide else 0xFFFF_FFFF))

    def _go(self, address: int) -> None:
        self._uc.reg_write(self._machine.scratch, address)

    @property
    def _wide(self) -> bool:
        return self._machine.pointer == "Q"

    def _string(self, address: int) -> str:
        text = bytearray()
        while (byte := self._uc.mem_read(address + len(text), 1)[0]) != 0:
            text.append(byte)
        return text.decode(errors="replace")

    # C.

    def _memmove(self) -> None:  # (to, from, size) -> to, which is in the first register already
        self._uc.mem_write(self._argument(0), bytes(self._uc.mem_read(self._argument(1), self._argument(2))))

    def _memset(self) -> None:  # (to, byte, size) -> to
        self._uc.mem_write(self._argument(0), bytes([self._argument(1) & 0xFF]) * self._argument(2))

    def _aeabi_memset(self) -> None:  # (to, size, byte)
        self._uc.mem_write(self._argument(0), bytes([self._argument(2) & 0xFF]) * self._argument(1))

    def _aeabi_memclr(self) -> None:  # (to, size)
        self._uc.mem_write(self._argument(0), bytes(self._argument(1)))

    def _divide(self) -> None:
        a, b = self._signed(0), self._signed(1)
        quotient = abs(a) // abs(b) if b else 0
        self._return(quotient if (a < 0) == (b < 0) else -quotient)

    def _mathematics(self, name: str) -> Callable[[], None] | None:
        """A function of the math library, computed by this machine's math library."""
        function = getattr(ctypes.CDLL("libm.so.6"), name, None)
        single = name.endswith("f") and name != "erf"
        arity = _ARITY.get(name.removesuffix("f") if single else name, 1)
        if function is None or name in ("sincos", "sincosf", "ldexp", "ldexpf"):
            return None
        kind = ctypes.c_float if single else ctypes.c_double
        code, bits = ("<f", "<I") if single else ("<d", "<Q")
        registers = self._machine.floats if single else self._machine.doubles
        function.restype, function.argtypes = kind, [kind] * arity

        def call() -> None:
            arguments = (struct.unpack(code, struct.pack(bits, self._read(registers[i])))[0] for i in range(arity))
            (result,) = struct.unpack(bits, struct.pack(code, function(*arguments)))
            self._uc.reg_write(registers[0], result)

        return call

    def _unknown(self, name: str) -> Callable[[], None]:
        def fail() -> None:
            raise UnknownImportError(f"it calls {name}, which is not emulated: run it on its own CPU")

        return fail

    # TVM's runtime.

    def _set_error(self) -> None:  # (kind, parts of the message, their number)
        size = struct.calcsize(self._machine.pointer)
        parts = self._uc.mem_read(self._argument(1), size * self._signed(2))
        addresses = struct.unpack(f"<{self._signed(2)}{self._machine.pointer}", parts)
        kind, text = self._string(self._argument(0)), "".join(map(self._string, addresses))
        self.error = f"{kind}: {text}"

    def _allocate_workspace(self) -> None:  # (device type, device, uint64 size, dtype code, dtype bits) -> address
        if self._workspaces_used == len(self._workspaces):
            self._workspaces.append(self._memory.slot(f"workspace {self._workspaces_used}"))
        slot = self._workspaces[self._workspaces_used]
        self._workspaces_used += 1
        size = self._argument(2) if self._wide else self._argument(2) | self._argument(3) << 32
        self._return(self._memory.reserve(slot, size))

    def _free_workspace(self) -> None:  # (device type, device, address) -> 0
        last = self._workspaces[self._workspaces_used - 1] if self._workspaces_used else None
        if last is None or last.address != self._argument(2):
            self.error = "it frees a workspace that is not the last one that it allocated"
            self._return(-1)
            return
        last.size = 0
        self._workspaces_used -= 1
        self._return(0)

    def _parallel_launch(self) -> None:  # (body, data, number of tasks or 0) -> status
        tasks = self._signed(2) or self._num_tasks
        loop = _Loop(self._argument(0), self._argument(1), tasks, self._read(self._machine.link))
        self._loops.append(loop)
        environment = struct.pack("<" + self._machine.pointer + "i4x", 0, tasks)  # TVMParallelGroupEnv
        self._memory.store(self._environment, environment)
        self._start_task(loop)

    def _start_task(self, loop: _Loop) -> None:
        self._call(loop.body, (loop.task, self._environment.address, loop.data), self._next_task_address)

    def _next_task(self) -> None:
        loop = self._loops[-1]
        loop.task += 1
        if self._argument(0) & 0xFFFF_FFFF == 0 and loop.task < loop.tasks:
            self._start_task(loop)
        else:  # the status of the last task is the result
            self._loops.pop()
            self._uc.reg_write(self._machine.link, loop.link)
            self._go(loop.link)
