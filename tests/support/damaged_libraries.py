"""Libraries as disks, networks and people damage them, from a seed.

Run as a program, it loads them one after the other: ``python -m tests.support.damaged_libraries LIBRARY FIRST COUNT``.
It prints a line per library that ``load`` did not refuse with a sentence. Code that runs anyway may end this process.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sbnn_tvm.errors import LibraryError
from sbnn_tvm.runtime.elf import Note, find_note

EXTREMES = (*range(3), 0x7F, 0x80, 0xFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 2**63 - 1, 2**64 - 1)

Rng = np.random.Generator


def damaged(library: bytes, seed: int) -> tuple[str, bytes]:
    """A damaged copy of a library.

    Args:
        library: The bytes of a file that ``export`` wrote.
        seed: Which one.

    Returns:
        What was done, and the bytes. They differ from ``library``.
    """
    rng = np.random.default_rng(seed)
    damage = DAMAGES[seed % len(DAMAGES)]
    while (data := damage(library, rng)) == library:
        pass
    return damage.__name__, data


def flipped_bit(data: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(data))
    return _replaced(data, at, bytes([data[at] ^ 1 << rng.integers(8)]))


def changed_bytes(data: bytes, rng: Rng) -> bytes:
    for at in rng.integers(0, len(data), rng.integers(2, 50)):
        data = _replaced(data, at, rng.bytes(1))
    return data


def cut_short(data: bytes, rng: Rng) -> bytes:
    return data[: rng.choice([rng.integers(len(data)), len(data) - rng.integers(1, 9), rng.integers(0, 200)])]


def made_longer(data: bytes, rng: Rng) -> bytes:
    size = int(rng.choice([1, 8, 4096, rng.integers(1, 100_000)]))
    return data + (bytes(size) if rng.integers(2) else rng.bytes(size))


def changed_header(data: bytes, rng: Rng) -> bytes:
    """A field of the file's header, or of a segment's."""
    width = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(np.array([*EXTREMES, len(data), len(data) - 1], np.uint64)))
    at = int(rng.integers(0, 700 // width)) * width
    return _replaced(data, at, value.to_bytes(8, "little")[:width])


def zeroed(data: bytes, rng: Rng) -> bytes:
    at, size = rng.integers(len(data)), int(rng.choice([1, 64, 512, 4096]))
    return _replaced(data, at, bytes(min(size, len(data) - at)))


def swapped_blocks(data: bytes, rng: Rng) -> bytes:
    size = int(rng.choice([16, 512, 4096]))
    a, b = (int(at) * size for at in rng.integers(0, max(1, len(data) // size), 2))
    first, second = data[a : a + size], data[b : b + size]
    if len(first) != len(second):
        return data
    return _replaced(_replaced(data, a, second), b, first)


def lost_block(data: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + data[at + int(rng.choice([1, 512, 4096])) :]


def doubled_block(data: bytes, rng: Rng) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + data[at - int(rng.choice([1, 512, 4096])) :]


def changed_note(data: bytes, rng: Rng) -> bytes:
    """Bytes of the note, its header included."""
    note = _note(data)
    at = note.offset + rng.integers(-24, min(note.size, 100))
    return _replaced(data, at, rng.bytes(int(rng.integers(1, 9))))


def wrong_record(data: bytes, rng: Rng) -> bytes:
    """A record that breaks the rules, with a right digest: what a broken or later compiler might write."""
    note = _note(data)
    begin, end = note.offset + 40, note.offset + note.size
    record = json.loads(data[begin:end])
    text = WRONG_RECORDS[rng.integers(len(WRONG_RECORDS))](record, rng)
    if len(text) > end - begin:
        text = b"[" * (end - begin)
    return resealed(_replaced(data, begin, text.ljust(end - begin)), note)


def wrong_size(data: bytes, rng: Rng) -> bytes:
    """A wrong size of the file in the note, with a right digest."""
    size = int(rng.choice(np.array([*EXTREMES, len(data) - 1, len(data) + 1], np.uint64)))
    note = _note(data)
    return resealed(_replaced(data, note.offset, struct.pack("<Q", size)), note)


DAMAGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(flipped_bit, changed_bytes, cut_short, made_longer, changed_header, zeroed, swapped_blocks, lost_block),
    *(doubled_block, changed_note, wrong_record, wrong_size),
)


def resealed(data: bytes, note: Note) -> bytes:
    """A library with the digest of what it holds now."""
    at = note.offset + 8
    return _replaced(data, at, hashlib.sha256(_replaced(data, at, bytes(32))).digest())


def _note(data: bytes) -> Note:
    note = find_note(BytesIO(data), "sbnn_tvm")
    assert note is not None
    return note


def _replaced(data: bytes, at: int, part: bytes) -> bytes:
    return (data[:at] + part + data[at + len(part) :])[: len(data)]


NO_TEXT = (None, True, 1, -1.5, [], {}, ["a"], 10**400)
NO_SHAPE = (None, 3, "3", {}, [-1], [1.5], [True], ["3"], [None], [[1]], [1] * 33, [2**70], [2**40, 2**40], [1e400])
NO_DTYPE = (None, 3, "", "object", "float8", "U5", "float32 ", "<f4", ["float32"], "int4", "complex64", "V16")
NO_FEATURE = (None, 1, "", "avx9", ["avx2"], {}, "AVX2", True)
NO_LIST = (None, True, 1, "ab", {}, {"a": 1})
NO_RECORD = (*(b"", b"null", b"[]", b"7", b'"text"', b"{", b"\xff\xfe", b"1" * 5000, b"NaN", b"{}{}"), bytes(9))
NO_TENSOR = (None, 1, "x", [], {}, {"name": "x"}, {"name": "x", "shape": [1], "dtype": "float32", "more": 1})


def _without(record: dict[str, Any], rng: Rng) -> bytes:
    del record[str(rng.choice(sorted(record)))]
    return json.dumps(record).encode()


def _with_another(record: dict[str, Any], rng: Rng) -> bytes:
    return json.dumps(record | {"report": "1", "more": None}).encode()


def _no_record(record: dict[str, Any], rng: Rng) -> bytes:
    return NO_RECORD[rng.integers(len(NO_RECORD))]


def _no_text(record: dict[str, Any], rng: Rng) -> bytes:
    field = str(rng.choice(["name", "target", "triple", "sbnn_version", "tvm_version", "report", "symbol"]))
    return _changed(record, field, NO_TEXT, rng)


def _no_report(record: dict[str, Any], rng: Rng) -> bytes:
    return _changed(record, "report", ("", "{", "[" * 3000, "nul", "1" * 5000), rng)


def _no_triple(record: dict[str, Any], rng: Rng) -> bytes:
    return _changed(record, "triple", ("", "riscv64-unknown-linux-gnu", "x", "-", "mips"), rng)


def _no_flag(record: dict[str, Any], rng: Rng) -> bytes:
    field = str(rng.choice(["prepares", "parallel"]))
    return _changed(record, field, (None, 0, 1, "true", []), rng)


def _no_runtime(record: dict[str, Any], rng: Rng) -> bytes:
    return _changed(record, "runtime", (None, 1, "", "rust", "C", [], {}), rng)


def _no_symbol(record: dict[str, Any], rng: Rng) -> bytes:
    return _changed(record, "symbol", ("2x", "a b", "x()", "\u00e9", "\0", "x\n"), rng)


def _no_features(record: dict[str, Any], rng: Rng) -> bytes:
    features = [[*record["features"], each] for each in NO_FEATURE]
    return _changed(record, "features", (*NO_LIST, *features), rng)


def _no_tensors(record: dict[str, Any], rng: Rng) -> bytes:
    field = str(rng.choice(["inputs", "outputs"]))
    return _changed(record, field, (*NO_LIST, *([*record[field], each] for each in NO_TENSOR)), rng)


def _no_tensor(record: dict[str, Any], rng: Rng) -> bytes:
    specs = record[str(rng.choice(["inputs", "outputs"]))]
    spec, field = specs[rng.integers(len(specs))], str(rng.choice(["name", "shape", "dtype"]))
    wrong: tuple[Any, ...] = {"name": NO_TEXT, "shape": NO_SHAPE, "dtype": NO_DTYPE}[field]
    spec[field] = wrong[rng.integers(len(wrong))]
    return json.dumps(record | {"report": "1"}).encode()


def _changed(record: dict[str, Any], field: str, values: tuple[Any, ...], rng: Rng) -> bytes:
    value = values[rng.integers(len(values))]
    return json.dumps(record | {"report": "1"} | {field: value}).encode()  # a short report: the text must fit


WRONG_RECORDS: tuple[Callable[[dict[str, Any], Rng], bytes], ...] = (
    *(_without, _with_another, _no_record, _no_text, _no_report, _no_triple, _no_flag, _no_features),
    *(_no_runtime, _no_symbol, _no_tensors, _no_tensor),
)


def main(path: str, first: str, count: str) -> None:
    """Load damaged copies of a library, and print what went wrong."""
    from sbnn_tvm import load

    library = Path(path).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(first), int(first) + int(count)):
            name, data = damaged(library, seed)
            copy = Path(folder) / f"{seed}.so"
            copy.write_bytes(data)
            try:
                load(copy)
                print(f"{name}, seed {seed}: was loaded")
            except LibraryError as error:
                if "\n" in str(error) or str(copy) not in str(error) or "cannot be loaded" in str(error):
                    print(f"{name}, seed {seed}: {error}")
            except BaseException as error:
                print(f"{name}, seed {seed}: {error!r}")
            copy.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
