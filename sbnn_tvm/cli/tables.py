"""The tables that the command line prints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..printable import printable
from .console import bold, plain

if TYPE_CHECKING:
    from ..deploy.library_parts import LibraryParts
    from ..deploy.targets import CpuTarget
    from ..profiling.board import BoardTiming
    from ..profiling.profile import KernelTime
    from ..profiling.timing import Timing
    from ..runtime.metadata import BuildRecord, Metadata
    from ..verification.result import LayerComparison, OutputComparison, Verification
    from ..zoo import Card

_VERIFICATION = ("elements", "largest difference", "flipped", "wrong")
_OK, _FLIPPED, _WRONG = Text("agrees", "green"), Text("rounding", "yellow"), Text("differs", "bold red")
_MORE_EXACT = Text("more exact", "yellow")


def verification_table(found: Verification) -> Group:
    """The layers, the outputs, and the verdict."""
    first = found.first_difference
    table = plain_table("value", "layer", "elements", "largest difference", "flipped", "wrong", "", right=_VERIFICATION)
    for layer in found.layers:
        style = "bold red" if layer is first else None
        table.add_row(*_layer_cells(layer), style=style)
    table.add_section()
    for output in found.outputs:
        table.add_row(*_output_cells(output))
    verdict = plain(found, "green" if found.passed else "bold red")
    return Group(table, "", verdict)


def _layer_cells(layer: LayerComparison) -> Iterator[str | Text]:
    yield plain(layer.name)
    yield plain(layer.node) if layer.node != layer.name else ""
    yield f"{layer.elements:,}"
    yield "bits" if layer.bits else f"{layer.max_rel:.1e}" if layer.max_rel else "0"
    yield f"{layer.flipped:,}" if layer.flipped else ""
    yield f"{layer.wrong:,}" if layer.wrong else ""
    if layer.wrong:
        yield plain(layer.note) if layer.note.startswith(("shape", "type")) else _WRONG
    elif layer.flipped or layer.as_inexact:
        yield _FLIPPED
    else:
        yield _MORE_EXACT if layer.less_exact else _OK


def _output_cells(output: OutputComparison) -> Iterator[str | Text]:
    yield bold(output.name)
    yield "output, end to end"
    yield ""
    yield f"{output.max_rel:.1e}" if output.max_rel else "0"
    yield ""
    yield ""
    yield _OK if output.within else _MORE_EXACT if output.less_exact else _WRONG


def metadata_table(metadata: Metadata, parts: LibraryParts | None) -> Table:
    """The metadata of a compiled library."""
    rows = {
        "model": printable(metadata.name),
        "inputs": "\n".join(map(printable, metadata.inputs)),
        "outputs": "\n".join(map(printable, metadata.outputs)),
        "target": printable(f"{metadata.target} ({metadata.triple})"),
        "needs": printable(", ".join(metadata.features)) or "any CPU of this architecture",
        "runtime": "none: a C library" if metadata.runtime == "c" else f"TVM {printable(metadata.tvm_version)}",
    }
    if metadata.runtime == "c":
        rows["C names"] = printable(f"{metadata.symbol}_init, {metadata.symbol}_run and so on, in {metadata.symbol}.h")
    rows |= {
        "builds": _builds(metadata.builds),
        "size": "unknown" if parts is None else f"{readable_bytes(parts.file)}: {parts}",
        "made by": printable(f"sbnn_tvm {metadata.sbnn_version} with TVM {metadata.tvm_version}"),
    }
    return _properties(rows)


def _builds(builds: Sequence[BuildRecord]) -> str:
    lines = []
    for build in builds:
        line = f"{build.name}: {readable_bytes(build.code)} of code, {readable_bytes(build.constants)} of constants"
        if build.own_constants < build.constants:
            line += f", {readable_bytes(build.constants - build.own_constants)} of them shared with those above"
        if len(builds) > 1:
            line += f"; needs {', '.join(build.features) or 'any CPU of this architecture'}"
        lines.append(printable(line))
    return "\n".join(lines)


def timing_table(times: Mapping[str, Timing]) -> Table:
    """The timings, compared with the first one."""
    reference = next(iter(times.values()))
    headings = ("", "minimum", "median", "runs") + (("times slower",) if len(times) > 1 else ())
    table = plain_table(*headings, right=headings[1:])
    for name, timing in times.items():
        cells = [readable_seconds(timing.minimum), readable_seconds(timing.median), f"{timing.runs:,}"]
        if len(times) > 1:
            cells.append("" if timing is reference else f"{timing.minimum / reference.minimum:.2f}")
        table.add_row(plain(name), *cells)
    return table


def board_table(found: BoardTiming, board: str) -> Table:
    """What else was measured on a board."""
    peak = "unknown" if found.peak_bytes is None else readable_bytes(found.peak_bytes)
    return _properties(
        {
            "board": printable(board),
            "CPU": printable(found.cpu) or "unknown",
            "threads": str(found.threads),
            "init": readable_seconds(found.init_seconds),
            "first run": readable_seconds(found.first_run_seconds),
            "context": readable_bytes(found.context_bytes),
            "peak memory": f"{peak} after the first run, code included",
        }
    )


def _properties(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def profile_table(title: str, times: Sequence[KernelTime]) -> Table:
    """The times of the kernels, one row per kernel."""
    total = sum(time.seconds for time in times)
    numbers = ("us", "%", "MAC/ns", "bytes/ns", "of the limit")
    table = plain_table("layer", "kernel", *numbers, "limit", right=numbers)
    table.title = plain(f"{title}: every kernel alone, {readable_seconds(total)} together")
    table.title_justify = "left"
    for time in times:
        table.add_row(
            plain(time.layer),
            plain(time.kernel),
            f"{time.seconds * 1e6:.1f}",
            f"{time.seconds / total:.1%}",
            f"{time.macs / time.seconds * 1e-9:.0f}" if time.macs else "",
            f"{time.bytes / time.seconds * 1e-9:.1f}",
            f"{time.share:.0%}",
            time.limit,
        )
    return table


def targets_table(targets: Mapping[str, CpuTarget]) -> Table:
    """The named targets."""
    table = plain_table("name", "kernels", "CPU", "triple", "here")
    for name, target in targets.items():
        cpu = f"the best of {len(target.builds)}" if target.builds else str(target.tvm.get("mcpu", "any"))
        table.add_row(bold(name), target.isa.name, cpu, target.triple.replace("-unknown", ""), _here(target))
    return table


def _here(target: CpuTarget) -> Text | str:
    """Whether this machine runs code for a target, by itself or in an emulator that is installed."""
    from ..execution import programs

    possible = programs.why_not(target) is None
    if target.native or (possible and programs.how(target) == "this machine"):
        return Text("runs", "green")
    emulated = target.machine in ("aarch64", "arm") and target.platform.object_format == "ELF"
    return "emulated" if possible or emulated else "no"


def zoo_table(cards: Sequence[Card]) -> Table:
    """The models of the zoo."""
    table = plain_table("name", "accuracy", "ONNX file", "", right=("accuracy", "ONNX file"))
    for card in cards:
        table.add_row(bold(card.name), f"{card.accuracy:.1%}", readable_bytes(card.file_bytes), card.summary)
    return table


def card_table(card: Card, path: Path) -> Table:
    """What is known about a model of the zoo."""
    return _properties(
        {
            "name": card.name,
            "what": card.summary,
            "data": card.data,
            "input": card.input,
            "network": card.architecture,
            "accuracy": f"{card.accuracy:.1%} of {card.tests:,} test images",
            "licence": card.licence,
            "trained by": card.command,
            "file": f"{printable(path)}, {readable_bytes(card.file_bytes)}",
            "SHA-256": card.sha256,
        }
    )


def readable_bytes(count: int) -> str:
    """Bytes as text, for example ``"35.2 KiB"``."""
    if count < 1 << 20:
        return f"{count / (1 << 10):.1f} KiB"
    return f"{count / (1 << 20):.2f} MiB"


def readable_seconds(seconds: float) -> str:
    """Seconds as text, for example ``"0.123 ms"``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.3f} ms" if seconds < 1 else f"{seconds:.3f} s"


def plain_table(*headings: str, right: Collection[str] = ()) -> Table:
    """A table without lines; the columns ``right`` are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table
