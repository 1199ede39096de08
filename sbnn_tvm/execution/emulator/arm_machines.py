"""The two ARM architectures: what the emulator needs to call a function in a loaded library.

Sources: ELF for the Arm architectures and their procedure call standards, github.com/ARM-software/abi-aa (aaelf64,
aaelf32, aapcs64, aapcs32 with the hard-float variant).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import unicorn
from unicorn import arm64_const, arm_const


@dataclass(frozen=True)
class ArmMachine:
    """An ARM architecture.

    Attributes:
        arch, mode: unicorn's codes of the architecture and the mode.
        cpus: unicorn's codes of the CPUs that it can emulate, by our names.
        default_cpu: The CPU to emulate by default; it has no optional extensions.
        pointer: struct's code for a pointer.
        tensor: struct's layout of DLTensor: data, device type and id, ndim, dtype code, bits, lanes, shape, strides,
            byte offset.
        arguments: Registers of integer and pointer arguments.
        floats, doubles: Registers of float32 and float64 arguments; the first returns the result.
        link, stack, counter: Registers.
        scratch: A register that no call preserves, and ``jump`` an instruction that jumps to the address in it.
        relative: The relocation "base + addend".
        absolute: The relocation "symbol + addend".
        bound: The relocations "symbol", in the tables that the linker makes for imports.
        slots: Address where guarded memory begins; ``slot`` is the space for each slot.
    """

    arch: int
    mode: int
    cpus: dict[str, int]
    default_cpu: str
    pointer: str
    tensor: str
    arguments: tuple[int, ...]
    floats: tuple[int, ...]
    doubles: tuple[int, ...]
    link: int
    stack: int
    counter: int
    scratch: int
    jump: bytes
    relative: int
    absolute: int
    bound: tuple[int, int]
    slots: int
    slot: int

    def place_arguments(self, words: Sequence[int], integers: Sequence[int]) -> tuple[list[int], bytes]:
        """Where a call has its arguments: the values of the first registers, and the bytes on the stack.

        Args:
            words: Arguments of the size of a pointer.
            integers: Arguments of type int64_t after them. On 32-bit ARM, each takes an even register and the next, or
                8 aligned bytes.
        """
        if self.pointer == "Q":
            values = [*words, *integers]
        else:
            values = list(words)
            for integer in integers:
                values += [0] * (len(values) % 2) + [integer & 0xFFFF_FFFF, integer >> 32]
        count = len(self.arguments)
        return values[:count], struct.pack(f"<{max(0, len(values) - count)}{self.pointer}", *values[count:])


AARCH64 = ArmMachine(
    arch=unicorn.UC_ARCH_ARM64,
    mode=unicorn.UC_MODE_ARM,
    cpus={
        "a53": arm64_const.UC_CPU_ARM64_A53,
        "a57": arm64_const.UC_CPU_ARM64_A57,
        "a72": arm64_const.UC_CPU_ARM64_A72,
        "max": arm64_const.UC_CPU_ARM64_MAX,
    },
    default_cpu="a72",
    pointer="Q",
    tensor="<QiiiBBHQQQ",
    arguments=tuple(getattr(arm64_const, f"UC_ARM64_REG_X{i}") for i in range(8)),
    floats=tuple(getattr(arm64_const, f"UC_ARM64_REG_S{i}") for i in range(3)),
    doubles=tuple(getattr(arm64_const, f"UC_ARM64_REG_D{i}") for i in range(3)),
    link=arm64_const.UC_ARM64_REG_LR,
    stack=arm64_const.UC_ARM64_REG_SP,
    counter=arm64_const.UC_ARM64_REG_PC,
    scratch=arm64_const.UC_ARM64_REG_X9,
    jump=struct.pack("<I", 0xD61F_0120),  # br x9
    relative=1027,  # R_AARCH64_RELATIVE
    absolute=257,  # R_AARCH64_ABS64
    bound=(1025, 1026),  # R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT
    slots=1 << 32,
    slot=1 << 32,
)
ARMV7 = ArmMachine(
    arch=unicorn.UC_ARCH_ARM,
    mode=unicorn.UC_MODE_ARM,
    cpus={
        "a7": arm_const.UC_CPU_ARM_CORTEX_A7,
        "a15": arm_const.UC_CPU_ARM_CORTEX_A15,
        "max": arm_const.UC_CPU_ARM_MAX,
    },
    default_cpu="a7",
    pointer="I",
    tensor="<IiiiBBHII4xQ",
    arguments=tuple(getattr(arm_const, f"UC_ARM_REG_R{i}") for i in range(4)),
    floats=tuple(getattr(arm_const, f"UC_ARM_REG_S{i}") for i in range(3)),
    doubles=tuple(getattr(arm_const, f"UC_ARM_REG_D{i}") for i in range(3)),
    link=arm_const.UC_ARM_REG_LR,
    stack=arm_const.UC_ARM_REG_SP,
    counter=arm_const.UC_ARM_REG_PC,
    scratch=arm_const.UC_ARM_REG_R12,
    jump=struct.pack("<I", 0xE12F_FF1C),  # bx r12
    relative=23,  # R_ARM_RELATIVE
    absolute=2,  # R_ARM_ABS32
    bound=(21, 22),  # R_ARM_GLOB_DAT, R_ARM_JUMP_SLOT
    slots=1 << 28,
    slot=1 << 26,
)
MACHINES = {"aarch64": AARCH64, "arm": ARMV7}
"""By the names of sbnn_tvm.runtime.cpu."""


def start(machine: ArmMachine, cpu: str) -> unicorn.Uc:
    """An emulated CPU with its vector unit enabled."""
    uc = unicorn.Uc(machine.arch, machine.mode)
    uc.ctl_set_cpu_model(machine.cpus[cpu])
    if machine is ARMV7:
        access = uc.reg_read(arm_const.UC_ARM_REG_C1_C0_2)  # enable coprocessors 10 and 11, then the unit itself
        uc.reg_write(arm_const.UC_ARM_REG_C1_C0_2, access | 0xF << 20)
        uc.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)
    return uc
