"""What is the most that one thread of this machine can do?

Run ``python benchmarks/probes.py``. Each probe is a loop of the instructions that a kernel cannot avoid, and nothing
else (sbnn_tvm/profiling/limits.py): popcounts, multiply-adds, full adders, loads from L1 and L2.

The table gives 10^9 units per second. A unit is a multiply-accumulate (MAC), a multiply-accumulate with a set weight
(set MAC), or a byte. No kernel that needs the instructions of a probe can do more work per second than the probe.
"""

from __future__ import annotations

from dataclasses import asdict

from command_line import console, parser
from records import Machine, write_json
from rich.table import Table

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.profiling.limits import measure, probes


def main() -> None:
    """Measure the limits and print them."""
    arguments = parser(__doc__, seconds=5.0, timed="for all probes").parse_args()
    target, machine = resolve(arguments.target), Machine()
    limits = measure(probes(target), arguments.seconds).values()
    table = Table(title=f"Limits of one thread, {target.isa}: {machine}")
    for heading in ("limit of", "instructions", "10^9 / s", "unit"):
        table.add_column(heading, justify="right" if heading == "10^9 / s" else "left")
    for limit in limits:
        table.add_row(limit.name, limit.instructions, f"{limit.per_second * 1e-9:.1f}", limit.unit)
    console().print(table)
    if arguments.output:
        content = {
            "machine": asdict(machine),
            "isa": target.isa.name,
            "limits": [asdict(limit) for limit in limits],
        }
        write_json(arguments.output, content)


if __name__ == "__main__":
    main()
