"""Is a sparse library larger than the dense one of the same network?

Run ``python benchmarks/library_sizes.py``; it works on any machine. Two trained networks for 28x28 images come with the
package: one with dense binary weights and one with 5 %. They are compiled for each target. The table has the sizes of
the libraries: shared ones, static ones for microcontrollers, modules of WebAssembly. Of a static library only code and
constants count, since a linker leaves out the rest. The exit code is 1 if a sparse one is larger.

``--equal-layers`` has the code of 2, 10 and 20 equal layers instead, with 50 % and 5 % of the weights: layers that
differ in constants alone share their kernels.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from command_line import console, parser
from networks import randomise_statistics, sparse
from records import write_json
from rich.table import Table
from torch import nn

import sbnn_tvm
from sbnn_tvm import zoo
from sbnn_tvm.deploy.library_parts import library_parts
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.temporary_folder import temporary_folder

MODELS = {"dense": "mnist-dense", "5 %": "mnist-sbnn-5"}
TARGETS = (
    *("x86", "x86-64", "x86-64-v3", "x86-64-v4", "icelake-server", "arm", "arm-i8mm", "arm-several", "cortex-a53"),
    *("cortex-a72", "armv7", "riscv64", "riscv64-v", "wasm", "cortex-m4", "cortex-m55"),
)
COUNTS = (2, 10, 20)
DENSITIES = (0.5, 0.05)


@dataclass(frozen=True)
class Size:
    """The size of a library, in bytes.

    Attributes:
        target: The target.
        model: Which network.
        file: The shared library or WebAssembly module; of a static library what a linker takes.
        code, constants, record: Parts of it.
    """

    target: str
    model: str
    file: int
    code: int
    constants: int
    record: int


def size_of(model: str, target: str, folder: Path) -> Size:
    """Compile a network of the package for a target."""
    platform = resolve(target).platform
    suffix = ".so" if platform.shared_libraries else ".a" if platform.static_libraries else ".wasm"
    written = sbnn_tvm.compile(zoo.load(MODELS[model]).path, target=target).export(folder / f"model{suffix}")
    parts = library_parts(written)
    assert parts is not None
    file = parts.code + parts.constants if suffix == ".a" else parts.file
    return Size(target, model, file, parts.code, parts.constants, parts.record)


def equal_layers(count: int, density: float, target: str, folder: Path) -> Size:
    """Compile a chain of binary 3x3 convolutions of 64 channels, at 14x14."""
    torch.manual_seed(0)
    blocks = [[BinaryConv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), Binarize()] for _ in range(count)]
    model = nn.Sequential(Binarize(), *(module for block in blocks for module in block))
    randomise_statistics(model if density == DENSITIES[0] else sparse(model, density))
    written = sbnn_tvm.compile(model.eval(), target=target, input_shape=(1, 64, 14, 14), name="layers")
    parts = library_parts(written.export(folder / "layers.so"))
    assert parts is not None
    return Size(target, f"{count} layers, {density:.0%}", parts.file, parts.code, parts.constants, parts.record)


def compare_equal_layers(targets: list[str]) -> list[Size]:
    """Print the code and constants of chains of equal layers."""
    table, sizes = Table(title="Bytes of code, constants"), list[Size]()
    for heading in ("target", "weights", *(f"{count} layers" for count in COUNTS)):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    with temporary_folder(sbnn_tvm.SbnnError) as folder:
        for target, density in itertools.product(targets, DENSITIES):
            found = [equal_layers(count, density, target, folder) for count in COUNTS]
            sizes += found
            table.add_row(target, f"{density:.0%}", *(f"{each.code:,}, {each.constants:,}" for each in found))
    console().print(table)
    return sizes


def main() -> int:
    """Compare the sizes on all targets; the exit code is 1 if a sparse library is larger."""
    options = parser(__doc__)
    options.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    options.add_argument("--equal-layers", action="store_true", help="chains of equal layers")
    arguments = options.parse_args()
    if arguments.equal_layers:
        chains = compare_equal_layers(arguments.targets.split(","))
        if arguments.output:
            write_json(arguments.output, {"sizes": [asdict(each) for each in chains]})
        return 0
    table, sizes, larger = Table(title="Bytes of a library"), list[Size](), False
    for heading in ("target", *MODELS, "5 % over dense", *(f"code, constants: {model}" for model in MODELS)):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    with temporary_folder(sbnn_tvm.SbnnError) as folder:
        for target in arguments.targets.split(","):
            dense, sparse = found = [size_of(model, target, folder) for model in MODELS]
            sizes += found
            larger |= sparse.file > dense.file
            split = (f"{each.code:,}, {each.constants:,}" for each in found)
            table.add_row(target, f"{dense.file:,}", f"{sparse.file:,}", f"{sparse.file / dense.file:.2f}", *split)
    console().print(table)
    if arguments.output:
        write_json(arguments.output, {"sizes": [asdict(each) for each in sizes]})
    return int(larger)


if __name__ == "__main__":
    raise SystemExit(main())
