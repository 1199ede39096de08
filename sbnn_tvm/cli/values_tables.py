"""What ``sbnn-tvm inspect --values`` prints: which values a layer reads and computes, as bars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .console import bold, plain
from .tables import plain_table

if TYPE_CHECKING:
    from ..report.distribution import Bar, Distribution
    from ..report.report import LayerReport
    from ..verification.layer_values import LayerValues

_WIDTH = 40
"""Characters of the longest bar."""


def values_tables(found: LayerValues, line: LayerReport | None, source: str) -> Group:
    """The distributions of a layer's weights, activations and results, and why it is not binary.

    Args:
        found: The values.
        line: The layer's line in the report, if it has one.
        source: What the model ran on, for example "a random input".
    """
    parts: list[Text | Table | str] = [Text.assemble(bold(found.layer), plain(f" ({found.operator}), on {source}"))]
    if found.weights is not None:
        parts += _part("weights, output channels first", found.weights)
    for name, activations in found.activations.items():
        parts += _part(f"reads '{name}'", activations)
    for name, result in found.results.items():
        parts += _part(f"computes '{name}'", result)
    if line is not None and line.why:
        parts += ["", plain(f"Why not binary: {line.why}")]
    return Group(*parts)


def _part(title: str, values: Distribution) -> Iterator[Text | Table | str]:
    distinct = f"{values.distinct:,} distinct value{'s' * (values.distinct != 1)}"
    if values.most_per_channel != values.distinct:
        distinct += f", at most {values.most_per_channel:,} per channel"
    if values.not_finite:
        distinct += f", {values.not_finite:,} NaN or infinite"
    yield ""
    yield Text.assemble(bold(title), plain(f"  {values.dtype} {list(values.shape)}: {distinct}"))
    if values.bars:
        yield _bars(values.bars)


def _bars(bars: tuple[Bar, ...]) -> Table:
    table = plain_table("value", "count", "share", "", right=("value", "count", "share"))
    total, most = sum(bar.count for bar in bars), max(bar.count for bar in bars)
    for bar in bars:
        value = f"{bar.low:.6g}" if bar.low == bar.high else f"{bar.low:.4g} to {bar.high:.4g}"
        length = max(round(_WIDTH * bar.count / most), 1 if bar.count else 0)
        table.add_row(value, f"{bar.count:,}", f"{bar.count / total:.1%}", "#" * length)
    return table
