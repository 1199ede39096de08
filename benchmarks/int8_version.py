"""A float32 network in onnxruntime's int8: static quantisation with random calibration data, or dynamic one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class _RandomData(CalibrationDataReader):
    """Standard normal data for a network with one input."""

    def __init__(self, name: str, shape: tuple[int, ...], samples: int) -> None:
        rng = np.random.default_rng(0)
        self._samples = iter([{name: rng.standard_normal(shape, np.float32)} for _ in range(samples)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def int8_version(model: onnx.ModelProto, samples: int = 2) -> onnx.ModelProto:
    """Quantise a network to uint8 activations and int8 weights, the fast combination on x86; one scale per tensor.

    Args:
        model: A float32 network with one input of fixed shape. Its batch norms are folded into the convolutions.
        samples: Number of random inputs that calibrate the scales. The scales do not change the run time.

    Returns:
        The network with QuantizeLinear and DequantizeLinear around every operator. A session fuses them.
    """
    (value,) = model.graph.input
    shape = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "quantised"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _RandomData(value.name, shape, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=False,
        )
        return onnx.load(quantised)


def dynamic_int8_version(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise the weights of a network to int8; its activations become uint8 by their range at run time."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "quantised"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, quantised, weight_type=QuantType.QInt8)
        return onnx.load(quantised)
