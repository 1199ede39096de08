"""Show text of unknown origin, such as names of files and layers, without giving it control of a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """The text with every character escaped that is not visible: control characters, line ends, marks of direction.

    >>> print(printable("red\\x1b[31m\\u202e"))
    red\\x1b[31m\\u202e

    A space stays. A character that a stream cannot encode is the stream's affair.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
