"""Whole networks in other engines: OpenVINO, ncnn, and XNNPACK by LiteRT, on one thread.

Each engine reads the float32 version of a network, or its int8 version (int8_version.py), by its own converter. What an
engine computes is compared with onnxruntime before it is timed. ``make peers`` installs all of them into an environment
of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from torch import nn

FLOAT_DIFFERENCE, BFLOAT16_DIFFERENCE, INT8_DIFFERENCE = 1e-3, 0.2, 0.5
"""Largest difference to onnxruntime's float32 results, relative to the largest of them. Random networks amplify
rounding; a network that was converted wrongly differs by about 1."""


@dataclass(frozen=True, eq=False)
class PeerNetwork:
    """A network as peers read it.

    Attributes:
        module: The float32 network, in evaluation mode.
        float32: The same as an ONNX model.
        int8: Its int8 version with QuantizeLinear and DequantizeLinear.
        x: An input, float32 [1, C, H, W].
        expected: What onnxruntime computes from it in float32.
        folder: Where converters may write.
    """

    module: nn.Module
    float32: onnx.ModelProto
    int8: onnx.ModelProto
    x: np.ndarray
    expected: np.ndarray
    folder: Path


@dataclass(frozen=True)
class Peer:
    """An engine.

    Attributes:
        name: Its name in tables.
        packages: The packages that it needs, as PyPI knows them.
        prepare: Loads a network; the function that it returns computes the output once.
        difference: The largest difference to float32 that is accepted.
    """

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[PeerNetwork], Callable[[], np.ndarray]]
    difference: float

    @property
    def missing(self) -> str:
        """A sentence about the packages that are not installed; empty if all are."""
        absent = [name for name in self.packages if find_spec(name.replace("-", "_")) is None]
        return (
            f"{self.name} is left out; to include it: make peers, or pip install {' '.join(absent)}" if absent else ""
        )

    def checked(self, network: PeerNetwork) -> Callable[[], np.ndarray]:
        """Load a network and compare its output.

        Raises:
            SystemExit: If the output is not that of the network.
        """
        run = self.prepare(network)
        difference = float(np.abs(run() - network.expected).max() / np.abs(network.expected).max())
        if not difference <= self.difference:
            raise SystemExit(f"{self.name} computes something else: the relative difference is {difference:.2g}")
        return run


def _openvino(model: onnx.ModelProto, x: np.ndarray, precision: str | None) -> Callable[[], np.ndarray]:
    """OpenVINO; ``precision`` is its hint for the arithmetic, None for its default on this CPU."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    return run


def _openvino_float32(network: PeerNetwork) -> Callable[[], np.ndarray]:
    return _openvino(network.float32, network.x, "f32")


def _openvino_default(network: PeerNetwork) -> Callable[[], np.ndarray]:
    return _openvino(network.float32, network.x, None)


def _openvino_int8(network: PeerNetwork) -> Callable[[], np.ndarray]:
    return _openvino(network.int8, network.x, None)


def _ncnn(network: PeerNetwork) -> Callable[[], np.ndarray]:
    import ncnn
    import pnnx

    file = network.folder / "peer.onnx"
    onnx.save(network.float32, file)
    shape = ",".join(map(str, network.x.shape))
    command = [pnnx.EXEC_PATH, file.name, f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(command, cwd=network.folder, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(file.with_suffix(".ncnn.param")))
    net.load_model(str(file.with_suffix(".ncnn.bin")))
    data, (source,), (result,) = ncnn.Mat(network.x[0]), net.input_names(), net.output_names()

    def run() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(source, data)
        return np.array(extractor.extract(result)[1])

    return run


def _litert(network: PeerNetwork) -> Callable[[], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    file = network.folder / "peer.tflite"
    # A process of its own, since the converter loads another LLVM.
    arguments = (network.module, network.x.shape, file)
    process = multiprocessing.get_context("spawn").Process(target=_convert_to_tflite, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"litert-torch does not convert this network: see {_log(file)}")
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], network.x)

    def run() -> np.ndarray:
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


def _log(file: Path) -> Path:
    return file.with_suffix(".tflite.log")


def _convert_to_tflite(module: nn.Module, shape: tuple[int, ...], file: Path) -> None:
    with _log(file).open("wb") as log:  # the converter talks a lot
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import litert_torch
    import torch

    litert_torch.convert(module.eval(), (torch.zeros(shape),)).export(str(file))


PEERS = (
    Peer("OpenVINO float32", ("openvino",), _openvino_float32, FLOAT_DIFFERENCE),
    Peer("OpenVINO default", ("openvino",), _openvino_default, BFLOAT16_DIFFERENCE),
    Peer("OpenVINO int8", ("openvino",), _openvino_int8, INT8_DIFFERENCE),
    Peer("ncnn", ("ncnn", "pnnx"), _ncnn, FLOAT_DIFFERENCE),
    Peer("XNNPACK", ("ai-edge-litert", "litert-torch"), _litert, FLOAT_DIFFERENCE),
)
"""The engines. OpenVINO's default is bfloat16 where the CPU multiplies it, otherwise float32."""
