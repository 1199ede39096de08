"""The plot of methods.py: accuracy against bytes and against time, with a label at every point and a Pareto line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from method_results import Row
from records import Machine

FAMILIES = {
    "float32": ("#000000", "s"),
    "signs": ("#0072B2", "o"),
    "SBNN": ("#D55E00", "D"),
    "symmetric": ("#E69F00", "d"),
    "weights": ("#56B4E9", "v"),
    "codebooks": ("#009E73", "P"),
    "partly float": ("#8C564B", "^"),
    "2 bits": ("#CC79A7", "h"),
    "gradients": ("#E31A1C", "<"),
    "losses": ("#6A3D9A", "X"),
    "blocks": ("#7F7F00", "p"),
    "not trained": ("#999999", "*"),
}
"""Colour and marker; the names are those of method_rows.py. Most are Okabe and Ito's, which the colour-blind can tell
apart, and the markers differ too."""
_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
_ACCURACIES = (10, 20, 40, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 97.5, 98, 98.5, 99, 99.5)
_FONT = 9


@dataclass(frozen=True)
class Point:
    """A method in one panel: where it is, how sure its height is, and how it looks."""

    x: float
    y: float
    error: float
    label: str
    family: str


def methods(rows: Sequence[Row], machine: Machine) -> Figure:
    """Accuracy against the bytes of the weights, and against the time per image.

    All axes are logarithmic, the vertical one in the share of wrong answers: 97 % is as far from 94 % as 98.5 % is.
    """
    figure, axes = plt.subplots(2, 1, figsize=(10, 12.5), layout="constrained")
    for axis, title, xs in (
        (axes[0], "bytes of the body's weights", [row.deployment.weight_bytes for row in rows]),
        (axes[1], "microseconds per image, one thread", [row.microseconds for row in rows]),
    ):
        _panel(axis, [Point(x, row.accuracy, row.error, row.name, row.family) for row, x in zip(rows, xs, strict=True)])
        axis.set_xlabel(title)
    images = max(row.deployment.images for row in rows)
    for axis in axes:
        axis.set_ylabel(f"accuracy on {images:,} test images, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=_FONT + 1)
    figure.suptitle(
        f"Training methods on one network, 28x28 MNIST; bars are standard errors over the seeds; {machine}",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    figure.canvas.draw()  # places the axes, whose labels are then placed
    figure.set_layout_engine("none")
    for axis in axes:
        _place_labels(axis)
    return figure


def _panel(axis: Axes, points: Sequence[Point]) -> None:
    front = pareto([(point.x, point.y) for point in points])
    axis.step(
        *zip(*front, strict=True), where="post", color="#BBBBBB", linewidth=5, alpha=0.5, zorder=0, label="Pareto line"
    )
    for family, (colour, marker) in FAMILIES.items():
        of = [point for point in points if point.family == family]
        if of:
            axis.errorbar(
                [point.x for point in of],
                [point.y for point in of],
                [point.error for point in of],
                fmt=marker,
                color=colour,
                ecolor=colour,
                elinewidth=0.8,
                markersize=7,
                markeredgecolor="white",
                markeredgewidth=0.6,
                label=family,
            )
    for point in points:
        axis.annotate(
            point.label, (point.x, point.y), (0, 0), textcoords="offset points", fontsize=_FONT,
            color=FAMILIES[point.family][0], ha="center", va="center",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("function", functions=(lambda y: -np.log(np.maximum(100 - y, 0.05)), lambda z: 100 - np.exp(-z)))
    axis.margins(x=0.12, y=0.08)
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    ticks = [tick for tick in _TICKS if left <= tick <= right]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ticks = [tick for tick in _ACCURACIES if low <= tick <= high]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other is both as far to the left and as high, from left to right."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _place_labels(axis: Axes) -> None:
    """Moves every label to the nearest place where it covers neither a marker nor another label."""
    renderer = axis.figure.canvas.get_renderer()
    dots = axis.figure.dpi / 72
    labels = list(axis.texts)
    centres = [axis.transData.transform(label.xy) for label in labels]
    half = _MARKER * dots
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    frame = axis.get_window_extent()
    # Labels in crowded places have the fewest free ones, so they choose first.
    crowd = [sum(abs(x - u) < 60 * dots and abs(y - v) < 25 * dots for u, v in centres) for x, y in centres]
    for index in sorted(range(len(centres)), key=lambda index: -crowd[index]):
        label, (x, y) = labels[index], centres[index]
        size = label.get_window_extent(renderer)
        width, height = size.width + dots, size.height
        for right, up in _PLACES:
            cx, cy = x + math.copysign(half + 2 * dots, right) + right * width / 2, y + up * dots
            box = Bbox.from_extents(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        label.set_position(((cx - x) / dots, (cy - y) / dots))
        if abs(right) > 1 or abs(up) > _NEAR:  # a line shows whose label it is
            line = {"arrowstyle": "-", "color": label.get_color(), "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            axis.annotate(
                label.get_text(), label.xy, label.get_position(), textcoords="offset points", fontsize=_FONT,
                color=label.get_color(), ha="center", va="center", arrowprops=line, zorder=1,
            )  # fmt: skip
            label.remove()


_MARKER, _NEAR = 5, 9
"""Half the size of a marker, and the distance of a label that needs no line, in points."""
_PLACES = sorted(
    ((right, up) for right in (1.0, -1.0, 1.7, -1.7, 2.5, -2.5) for up in range(-150, 151, 3)),
    key=lambda place: abs(place[1]) + 25 * (abs(place[0]) - 1) + (place[0] < 0),
)
"""Where a label may be: to the right in half widths, and up in points; near places first."""
