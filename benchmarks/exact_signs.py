"""What does the exact Sign cost, which is 0 at 0, compared with one bit and with float?

Run ``python benchmarks/exact_signs.py``. For each layer of kernels.py, a model of ``Sign`` and three such convolutions,
with ``Sign`` between them, is compiled in three ways: with the three values of Sign in two bits (the default), with one
bit (``sign_zero="positive"``), and with float kernels. They run on one thread in turns, and the fastest run counts.

The table gives microseconds per model, and in brackets the speed relative to one bit. The exit code is 1 if two bits
are slower than float.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from command_line import console, layer_parser
from layers import BINARY_LAYERS, Layer
from onnx import TensorProto, helper, numpy_helper
from records import Machine
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.profiling.timing import interleave
from sbnn_tvm.runtime.threads import use_threads

CONVOLUTIONS = 3
WAYS = ("one bit", "two bits", "float")


def model(layer: Layer) -> onnx.ModelProto:
    """Sign and convolution in turns, as many channels in as out."""
    rng, s = np.random.default_rng(0), layer.shape
    channels = s.in_channels
    weights = rng.choice(np.float32([-1, 1]), (CONVOLUTIONS, channels, channels, *s.kernel))
    nodes, value = [], "x"
    for number in range(CONVOLUTIONS):
        nodes.append(helper.make_node("Sign", [value], [f"s{number}"], f"sign{number}"))
        pads = [each // 2 for each in s.kernel] * 2
        inputs = [f"s{number}", f"w{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"y{number}"], f"conv{number}", pads=pads))
        value = f"y{number}"
    constants = [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)]
    extent = [s.batch, channels, s.height, s.width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, extent) for name in ("x", value)]
    graph = helper.make_graph(nodes, "signs", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def ways(layer: Layer, target: str) -> dict[str, CompiledModule]:
    """The model, compiled in each way."""
    onnx_model = model(layer)
    floats = {f"conv{number}": "float" for number in range(CONVOLUTIONS)}
    return {
        "one bit": sbnn_tvm.compile(onnx_model, target, sign_zero="positive"),
        "two bits": sbnn_tvm.compile(onnx_model, target),
        "float": sbnn_tvm.compile(onnx_model, target, kernels=floats),
    }


def measure(layer: Layer, target: str, seconds: float) -> dict[str, float]:
    """The fastest run of each way, in seconds; all exact ways must agree."""
    modules = ways(layer, target)
    s = layer.shape
    x = np.random.default_rng(1).standard_normal((s.batch, s.in_channels, s.height, s.width)).astype(np.float32)
    np.testing.assert_array_equal(modules["two bits"].run(x), modules["float"].run(x))
    times = interleave({way: partial(module.run, x) for way, module in modules.items()}, seconds)
    return {way: time.minimum for way, time in times.items()}


def main() -> int:
    """Measure every layer; the exit code is 1 if two bits are slower than float anywhere."""
    arguments = layer_parser(__doc__, seconds=2.0).parse_args()
    use_threads(1)
    out = Table(title=f"Microseconds per model (speed relative to one bit), one thread\n{Machine()}")
    out.add_column("layer")
    for way in WAYS:
        out.add_column(way, justify="right")
    slower = False
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name and layer.shape.height > 1:
            times = measure(layer, arguments.target, arguments.seconds)
            slower |= times["two bits"] > times["float"]
            cells = [f"{times[way] * 1e6:.0f} ({times['one bit'] / times[way]:.2f})" for way in WAYS]
            out.add_row(layer.name, *cells)
    console().print(out)
    return int(slower)


if __name__ == "__main__":
    raise SystemExit(main())
