"""Files in memory, on no disk: memfd_create(2). Other programs and the dynamic loader open them by ``path_of``."""

from __future__ import annotations

import errno
import fcntl
import os

_NOEXEC = (
    0x8  # MFD_NOEXEC_SEAL: no program. Some systems allow no other memory files; libraries can be loaded from them.
)
_ADD_SEALS = 1033  # F_ADD_SEALS, which Python's fcntl has from version 3.13 on
_SEALED = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE


def has_memory_files() -> bool:
    """Whether this system has files in memory, and shows open files by path: Linux has, where /proc is mounted."""
    return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def memory_file(name: str) -> int:
    """A new empty file: its descriptor, which programs started from here do not get. ``name`` is for debuggers.

    Raises:
        OSError: If too many files are open, for example.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)  # Linux before 6.3 does not know the flag


def forbid_changes(descriptor: int) -> None:
    """Make a file in memory read-only for ever, for every process."""
    fcntl.fcntl(descriptor, _ADD_SEALS, _SEALED)


def path_of(descriptor: int) -> str:
    """A path that leads to an open file of this process."""
    return f"/proc/self/fd/{descriptor}"


def numbered_path_of(descriptor: int, number: int) -> str:
    """A path like ``path_of``, with another spelling for each number.

    Empty parts and dots have no meaning in a path, so they can write binary digits.
    """
    digits = format(number, "b").replace("0", "//").replace("1", "/.")
    return f"/proc/self/fd{digits}/{descriptor}"
