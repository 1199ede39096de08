"""Print the limits of this machine, on one thread (sbnn_tvm/profiling/limits.py): ``python benchmarks/probes.py``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from records import Machine
from rich.console import Console
from rich.table import Table

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.profiling.limits import measure, probes


def main() -> None:
    """Measure the limits, print them, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native", help="what to compile for; must run on this machine")
    parser.add_argument("--seconds", type=float, default=5.0, help="for all of them (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the limits there, as JSON")
    arguments = parser.parse_args()
    target, machine = resolve(arguments.target), Machine()
    limits = measure(probes(target), arguments.seconds).values()
    table = Table(title=f"Limits of one thread, {target.isa}: {machine}")
    for heading in ("limit of", "instructions", "10^9 / s", "unit"):
        table.add_column(heading, justify="right" if heading == "10^9 / s" else "left")
    for limit in limits:
        table.add_row(limit.name, limit.instructions, f"{limit.per_second * 1e-9:.1f}", limit.unit)
    Console().print(table)
    if arguments.output:
        content = {
            "machine": asdict(machine),
            "isa": target.isa.name,
            "limits": [asdict(limit) for limit in limits],
        }
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
