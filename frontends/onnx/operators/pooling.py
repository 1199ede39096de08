"""Poolings over windows, and over whole feature maps."""

from __future__ import annotations

from tvm import relax

from ..node import Converter, Node, rank_of, shape_of
from ..window_attributes import Window2d


def max_pool(node: Node) -> relax.Expr | None:
    """2-D maximum pooling."""
    x = node.expr(0)
    if node.uses_output(1):
        raise node.error("returns the indices of the maxima, which is not supported; remove that output")
    if rank_of(x) != 4:
        return None
    window = Window2d.of(node, node.attribute("kernel_shape"))
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    return relax.op.nn.max_pool2d(x, window.kernel, window.strides, window.padding, window.dilation, ceil_mode)


def global_max_pool(node: Node) -> relax.Expr | None:
    """The maximum of each feature map, as a pooling whose window is the whole map."""
    x = node.expr(0)
    pools = {3: relax.op.nn.max_pool1d, 4: relax.op.nn.max_pool2d, 5: relax.op.nn.max_pool3d}
    extent = shape_of(x)
    return pools[len(extent)](x, extent[2:]) if len(extent) in pools else None


def average_pool(node: Node) -> relax.Expr | None:
    """2-D average pooling."""
    x = node.expr(0)
    if rank_of(x) != 4:
        return None
    window = Window2d.of(node, node.attribute("kernel_shape"))
    ceil_mode, count_pad = (bool(node.attributes.get(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    return relax.op.nn.avg_pool2d(
        x, window.kernel, window.strides, window.padding, window.dilation, ceil_mode, count_pad
    )


def global_average_pool(node: Node) -> relax.Expr | None:
    """The mean of each feature map."""
    x = node.expr(0)
    return relax.op.nn.adaptive_avg_pool2d(x, (1, 1)) if rank_of(x) == 4 else None


CONVERTERS: dict[str, Converter] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
}
