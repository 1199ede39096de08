"""Guarded memory: pieces with nothing mapped around them, so that the first access outside of one is an error."""

from __future__ import annotations

from dataclasses import dataclass

import unicorn

PAGE = 4096
ALIGNMENT = 64
"""Of every piece, as TVM aligns tensors and workspaces; an overrun within the last 64 bytes goes unnoticed."""


class NoRoomError(RuntimeError):
    """A piece of memory is too large for the emulated machine."""


@dataclass
class Slot:
    """A piece of memory; it ends at ``end``, where the unmapped begins.

    Attributes:
        label: What it holds, for messages.
        end: The address behind it.
        mapped: Bytes mapped before ``end``; it grows when needed, so that repeated calls map nothing.
        size: Bytes in use.
    """

    label: str
    end: int
    mapped: int = 0
    size: int = 0

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.end - -(-self.size // ALIGNMENT) * ALIGNMENT


class GuardedMemory:
    """The memory of an emulated process, beside the library itself."""

    def __init__(self, uc: unicorn.Uc, base: int, room: int) -> None:
        self._uc = uc
        self._base = base
        self._room = room
        self._slots: list[Slot] = []

    def slot(self, label: str) -> Slot:
        """A new, empty piece."""
        end = self._base + (len(self._slots) + 1) * self._room - self._room // 4
        slot = Slot(label, end)
        self._slots.append(slot)
        return slot

    def reserve(self, slot: Slot, size: int) -> int:
        """Let a piece have ``size`` bytes; returns its address. Its former contents may be lost.

        Raises:
            NoRoomError: If there is not so much room.
        """
        slot.size = size
        needed = -(-size // PAGE) * PAGE
        if needed > slot.mapped:
            if needed > self._room // 2:
                raise NoRoomError(
                    f"{slot.label} has {size} bytes, but the emulated machine only has room for {self._room // 2}"
                )
            if slot.mapped:
                self._uc.mem_unmap(slot.end - slot.mapped, slot.mapped)
            self._uc.mem_map(slot.end - needed, needed, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
            slot.mapped = needed
        return slot.address

    def store(self, slot: Slot, data: bytes | memoryview) -> int:
        """Let a piece hold ``data``; returns its address."""
        address = self.reserve(slot, len(data))
        self._uc.mem_write(address, bytes(data))
        return address

    def describe(self, address: int) -> str:
        """Where an address is, as seen from the nearest piece."""
        used = [slot for slot in self._slots if slot.size]
        slot = min(used, key=lambda slot: max(slot.address - address, address - slot.end, 0), default=None)
        if slot is None or not slot.address - self._room // 4 < address < slot.end + self._room // 4:
            return "far from all its memory"
        if address < slot.address:
            return f"{slot.address - address} bytes before {slot.label}"
        if address >= slot.address + slot.size:
            return f"{address - slot.address - slot.size} bytes after the end of {slot.label}"
        return f"in {slot.label}"
