"""A seeded generator of damaged tuning databases."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from sbnn_tvm.tuning_database.records import AnyRecord, render

_VALUES = (
    *("1e400", "-1e400", "NaN", "-Infinity", "-1", "0", "1e-300", "1" * 400, "1" * 5000, "true", "null", "[]", "{}"),
    *('""', '"x"', '"\\ud800"', '"\\u0000"', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, '["a", 7]'),
)


def damaged_database(records: Sequence[AnyRecord], rng: np.random.Generator) -> bytes:
    """The file of some records, with one to four damages of its values, lines or bytes."""
    lines = [render(records[i]).encode() for i in rng.integers(len(records), size=rng.integers(1, 8))]
    for _ in range(rng.integers(1, 5)):
        index = int(rng.integers(len(lines)))
        damage = _DAMAGES[rng.integers(len(_DAMAGES))]
        lines[index] = damage(lines[index], rng)
    content = b"\n".join(lines) + b"\n"
    if rng.random() < 0.2:
        content = content.replace(b"\n", b"\r\n")
    if rng.random() < 0.1:
        content = b"\xef\xbb\xbf" + content
    if rng.random() < 0.2:
        content = content[: rng.integers(len(content))]
    return content


def _value(line: bytes, rng: np.random.Generator) -> bytes:
    """Give a field, or a field of the machine, another value."""
    try:
        content = json.loads(line)
        where = content["machine"] if rng.random() < 0.4 else content
        where[list(where)[rng.integers(len(where))]] = "PLACE"
    except (ValueError, LookupError, TypeError, RecursionError):  # damaged before
        return line + b"]"
    return json.dumps(content).replace('"PLACE"', str(rng.choice(_VALUES))).encode()


def _field(line: bytes, rng: np.random.Generator) -> bytes:
    """Remove a field, add one, or repeat one with another value."""
    parts = line.split(b", ")
    index = int(rng.integers(len(parts)))
    key = parts[index].partition(b":")[0]
    change = ([], [parts[index], b'"new": 1'], [parts[index], key + b": 1"])[rng.integers(3)]
    return b", ".join([*parts[:index], *change, *parts[index + 1 :]])


def _bytes(line: bytes, rng: np.random.Generator) -> bytes:
    """Change, remove or insert bytes."""
    begin = int(rng.integers(len(line) + 1))
    removed = int(rng.choice([0, 1, 1, 1, 8, 100]))
    added = rng.bytes(int(rng.choice([0, 1, 1, 1, 8])))
    return line[:begin] + added + line[begin + removed :]


def _digit(line: bytes, rng: np.random.Generator) -> bytes:
    """Change one digit: the line stays JSON."""
    places = [i for i, byte in enumerate(line) if byte in b"0123456789"]
    if not places:
        return line
    place = places[rng.integers(len(places))]
    return line[:place] + b"%d" % rng.integers(10) + line[place + 1 :]


def _other(line: bytes, rng: np.random.Generator) -> bytes:
    """Replace the line."""
    others = (
        b"[" * 3000,
        b"\x00" * 50,
        b"\xff\xfe{\x00}\x00",
        b"null",
        b"7",
        b"{}",
        b'"x"',
        b" " * 9,
        b"x" * 2_000_000,
    )
    return others[rng.integers(len(others))]


_DAMAGES = (_value, _value, _value, _field, _bytes, _digit, _other)
