"""Writes TFLite files by hand, for tests of what converters do not write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import tflite
from flatbuffers import flexbuffers

_TYPES = {name: name.upper() for name in ("float32", "float16", "int32", "int64", "int8", "uint8", "int16", "bool")}


class TfliteBuilder:
    """A file with one graph. Tensors have the numbers 0, 1, ... in the order in which they are added."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)
        self._tensors: list[int] = []
        self._buffers: list[int] = [self._buffer(None)]
        self._codes: list[int] = []
        self._operators: list[int] = []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "float32",
        data: np.ndarray | bytes | None = None,
        *,
        name: str | None = None,
        signature: Sequence[int] | None = None,
        scales: Sequence[float] = (),
        zero_points: Sequence[int] = (),
        axis: int = 0,
        sparse: bool = False,
    ) -> int:
        """Adds a tensor; ``data`` makes it a constant. ``dtype`` is numpy's name of the type, or the schema's.

        Zero points are 0 by default; ``axis`` is the one that several scales belong to.
        """
        b = self._builder
        text = b.CreateString(f"tensor_{len(self._tensors)}" if name is None else name)
        sizes = self._numbers(shape, "int32")
        open_sizes = None if signature is None else self._numbers(signature, "int32")
        buffer = 0
        if data is not None:
            buffer = len(self._buffers)
            self._buffers.append(self._buffer(data if isinstance(data, bytes) else data.tobytes()))
        quantised = sparsity = None
        if scales:
            scale, zero = self._numbers(scales, "float32"), self._numbers(zero_points or [0] * len(scales), "int64")
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero)
            tflite.QuantizationParametersAddQuantizedDimension(b, axis)
            quantised = tflite.QuantizationParametersEnd(b)
        if sparse:
            tflite.SparsityParametersStart(b)
            sparsity = tflite.SparsityParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, sizes)
        tflite.TensorAddType(b, getattr(tflite.TensorType, _TYPES.get(dtype, dtype)))
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, text)
        for add, offset in (
            (tflite.TensorAddQuantization, quantised),
            (tflite.TensorAddSparsity, sparsity),
            (tflite.TensorAddShapeSignature, open_sizes),
        ):
            if offset is not None:
                add(b, offset)
        self._tensors.append(tflite.TensorEnd(b))
        return len(self._tensors) - 1

    def constant(self, array: np.ndarray, **options: Any) -> int:
        """Adds a constant."""
        return self.tensor(array.shape, array.dtype.name, np.ascontiguousarray(array), **options)

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Mapping[str, float] | None = None,
        kind: str | None = None,
    ) -> None:
        """Adds an operator.

        Args:
            name: A builtin operator, or the code of a custom one.
            inputs: Numbers of tensors.
            outputs: Numbers of tensors.
            options: Fields of its options, or the entries of a custom operator's map.
            kind: The table of a builtin operator's options, such as Conv2DOptions.
        """
        b = self._builder
        number = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
        custom = b.CreateString(name) if number == tflite.BuiltinOperator.CUSTOM else None
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddBuiltinCode(b, number)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
        if custom is not None:
            tflite.OperatorCodeAddCustomCode(b, custom)
        self._codes.append(tflite.OperatorCodeEnd(b))
        table = content = None
        if custom is not None and options is not None:
            flexible = flexbuffers.Builder()
            flexible.MapFromElements(dict(options))
            content = b.CreateByteVector(bytes(flexible.Finish()))
        elif kind is not None:
            getattr(tflite, f"{kind}Start")(b)
            for field, value in (options or {}).items():
                getattr(tflite, f"{kind}Add{field}")(b, value)
            table = getattr(tflite, f"{kind}End")(b)
        read, computed = self._numbers(inputs, "int32"), self._numbers(outputs, "int32")
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, len(self._codes) - 1)
        tflite.OperatorAddInputs(b, read)
        tflite.OperatorAddOutputs(b, computed)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, kind or ""))
            tflite.OperatorAddBuiltinOptions(b, table)
        if content is not None:
            tflite.OperatorAddCustomOptions(b, content)
        self._operators.append(tflite.OperatorEnd(b))

    def file(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The bytes of the file; the builder cannot be used afterwards."""
        b = self._builder
        read, computed = self._numbers(inputs, "int32"), self._numbers(outputs, "int32")
        tensors = self._tables(self._tensors, tflite.SubGraphStartTensorsVector)
        operators = self._tables(self._operators, tflite.SubGraphStartOperatorsVector)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddInputs(b, read)
        tflite.SubGraphAddOutputs(b, computed)
        tflite.SubGraphAddOperators(b, operators)
        graphs = self._tables([tflite.SubGraphEnd(b)], tflite.ModelStartSubgraphsVector)
        buffers = self._tables(self._buffers, tflite.ModelStartBuffersVector)
        codes = self._tables(self._codes, tflite.ModelStartOperatorCodesVector)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    def _buffer(self, data: bytes | None) -> int:
        content = None if data is None else self._builder.CreateByteVector(data)
        tflite.BufferStart(self._builder)
        if content is not None:
            tflite.BufferAddData(self._builder, content)
        return tflite.BufferEnd(self._builder)

    def _numbers(self, values: Sequence[float], dtype: str) -> int:
        return self._builder.CreateNumpyVector(np.array(values, dtype))

    def _tables(self, offsets: Sequence[int], start: Callable[[Any, int], Any]) -> int:
        start(self._builder, len(offsets))
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()
