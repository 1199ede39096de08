"""Which values of a traced model share memory that an operation changes in place."""

from __future__ import annotations

from torch import fx


def changed_in_place(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value may change after they were computed.

    Args:
        graph: Of aten operations, before torch makes it functional.
    """
    root: dict[fx.Node, fx.Node] = {}

    def memory(node: fx.Node) -> fx.Node:
        while node in root:
            node = root[node]
        return node

    changed: set[fx.Node] = set()
    nodes = list(graph.nodes)
    for node in nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            if node.op == "call_function":  # an item of several results
                for source in node.all_input_nodes:
                    root[node] = source
            continue
        for index, argument in enumerate(schema.arguments):
            given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            if argument.alias_info is None:
                continue
            for source in given if isinstance(given, list | tuple) else (given,):
                if not isinstance(source, fx.Node):
                    continue
                if memory(source) is not memory(node):
                    root[memory(node)] = memory(source)
                if argument.alias_info.is_write:
                    changed.add(source)
    written = {memory(node) for node in changed}
    return {node for node in nodes if memory(node) in written}
