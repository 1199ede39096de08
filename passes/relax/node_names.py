"""Lead a variable back to the ONNX node that it comes from, for messages and reports."""

from __future__ import annotations

import re
from collections.abc import Mapping


def node_of(name: str, nodes: Mapping[str, str]) -> str | None:
    """The ONNX node of a variable; None if there is none.

    A variable that a phase made has the name of an older one and a suffix: ``conv_4_window`` belongs to ``conv_4``.

    Args:
        name: The name of the variable.
        nodes: The ONNX node of each variable of the imported module.
    """
    while name not in nodes and "_" in name:
        name = name.rpartition("_")[0]
    return nodes.get(name)


def with_node_names(sentence: str, nodes: Mapping[str, str]) -> str:
    """A sentence in which ``<x>`` stands for the ONNX node of variable x, with the names of the nodes in quotes."""
    return re.sub("<([^<>]+)>", lambda match: f"'{node_of(match[1], nodes) or match[1]}'", sentence)
