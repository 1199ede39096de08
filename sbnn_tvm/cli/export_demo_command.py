"""The command ``export-demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ModelError
from .console import bold, examples, result_console, shown_steps
from .flags import dimensions

EXPORT_DEMO_EXAMPLES = examples(
    "sbnn-tvm export-demo -o model.onnx",
    "sbnn-tvm export-demo -o model.onnx --arch resnet --input-shape 1,3,64,64 --density 0.1",
)


def export_demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="The file to write.")] = Path(
        "model.onnx"
    ),
    arch: Annotated[
        str, typer.Option(metavar="vgg|resnet", help="vgg: a chain with poolings; resnet: residual blocks.")
    ] = "vgg",
    input_shape: Annotated[str, typer.Option(metavar="N,C,H,W", help="Shape of the square images.")] = "1,3,32,32",
    density: Annotated[float, typer.Option(help="Share of the weights that have the upper value.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a small binary network with random weights, for trying the other commands. Needs PyTorch."""
    from ..atomic_file import check_destination
    from .tables import readable_bytes

    check_destination(output, ModelError)
    shape = dimensions(input_shape)
    with shown_steps() as step:
        step("loading PyTorch")
        from sbnn_tvm.frontends.torch.export import export_onnx
        from sbnn_tvm.frontends.torch.networks.random_networks import random_network

        step("making the network")
        network = random_network(arch, shape, density=density, seed=seed)
        step("exporting it")
        export_onnx(network, output)
    console = result_console()
    size, command = readable_bytes(output.stat().st_size), f"sbnn-tvm inspect {shlex.quote(str(output))}"
    console.print(bold(output), f": {size}; try ", bold(command), sep="")
