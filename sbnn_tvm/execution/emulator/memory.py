"""Guarded memory: slots with unmapped memory around them, so that the first access outside a slot is an error."""

from __future__ import annotations

from dataclasses import dataclass

import unicorn

PAGE = 4096
ALIGNMENT = 64
"""Alignment of every slot, same as TVM's for tensors and workspaces. An overrun of less than 64 bytes is not found."""


class NoRoomError(RuntimeError):
    """A slot is too large for the emulated machine."""


@dataclass
class Slot:
    """A piece of memory that ends at ``end``, where unmapped memory begins.

    Attributes:
        label: Its content, for messages.
        end: The first address after it.
        mapped: Bytes mapped before ``end``. It grows if needed and never shrinks, so that repeated calls map nothing.
        size: Bytes in use.
    """

    label: str
    end: int
    mapped: int = 0
    size: int = 0

    @property
    def address(self) -> int:
        """The first address in use."""
        return self.end - -(-self.size // ALIGNMENT) * ALIGNMENT


class GuardedMemory:
    """The memory of an emulated process, except the library itself."""

    def __init__(self, uc: unicorn.Uc, base: int, room: int) -> None:
        self._uc = uc
        self._base = base
        self._room = room
        self._slots: list[Slot] = []

    def slot(self, label: str) -> Slot:
        """Add an empty slot."""
        end = self._base + (len(self._slots) + 1) * self._room - self._room // 4
        slot = Slot(label, end)
        self._slots.append(slot)
        return slot

    def reserve(self, slot: Slot, size: int) -> int:
        """Resize a slot to ``size`` bytes, and return its address. Its former contents may be lost.

        Raises:
            NoRoomError: If the slot is too small.
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
        """Store ``data`` in a slot, and return its address."""
        address = self.reserve(slot, len(data))
        self._uc.mem_write(address, bytes(data))
        return address

    def describe(self, address: int) -> str:
        """Describe an address relative to the nearest slot."""
        used = [slot for slot in self._slots if slot.size]
        slot = min(used, key=lambda slot: max(slot.address - address, address - slot.end, 0), default=None)
        if slot is None or not slot.address - self._room // 4 < address < slot.end + self._room // 4:
            return "far from all its memory"
        if address < slot.address:
            return f"{slot.address - address} bytes before {slot.label}"
        if address >= slot.address + slot.size:
            return f"{address - slot.address - slot.size} bytes after the end of {slot.label}"
        return f"in {slot.label}"
