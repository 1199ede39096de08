"""A kernel under construction: the frame of its function, and its parameters in the order that all kernels share."""

from __future__ import annotations

from contextlib import ExitStack
from enum import IntEnum
from types import TracebackType

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from ..kernel import IN_PLACE, Kernel
from .llvm import collect_functions, link


class Role(IntEnum):
    """Kinds of parameters, in the order in which every kernel takes them."""

    DATA = 0
    TENSOR = 1  # operands of the epilogue
    CONSTANT = 2  # of the kernel: weights, tables
    EPILOGUE_CONSTANT = 3
    OUTPUT = 4


class KernelBuilder:
    """Builds one kernel.

    Parameters may be declared in any order, before all other code; those of one role keep their order. LLVM functions
    that the code calls are linked into the kernel::

        with KernelBuilder("elementwise") as builder:
            data = builder.data(shape, "float32")
            writer = ...                                 # an EpilogueWriter
            writer.declare(builder)                      # tensors, constants, outputs
            ... loops:  writer.store([v0, v1], (n, y, x), first_channel)
        return builder.kernel()
    """

    def __init__(self, name: str) -> None:
        """Nothing is emitted before the builder is entered.

        Args:
            name: Symbol of the function.
        """
        self.name = name
        self.in_place: tuple[tuple[int, int], ...] = ()
        """Outputs that may be stored where a tensor operand is: (number of the tensor, number of the output)."""
        self._constants: list[tuple[Role, np.ndarray]] = []
        self._outputs: list[tuple[tuple[int, ...], str]] = []
        self._roles: list[Role] = []
        self._frames = ExitStack()

    def __enter__(self) -> KernelBuilder:
        self._functions = self._frames.enter_context(collect_functions())
        self._ir = self._frames.enter_context(IRBuilder())
        self._frames.enter_context(T.prim_func(s_tir=True))
        T.func_name(self.name)
        T.func_attr({"tirx.noalias": True})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.__exit__(kind, error, trace)

    def data(self, shape: tuple[int, ...], dtype: str, name: str = "data") -> tirx.Buffer:
        """Declare what the kernel computes from."""
        return self._declare(Role.DATA, name, shape, dtype)

    def tensor(self, name: str, shape: tuple[int, ...]) -> tirx.Buffer:
        """Declare a float32 operand of the epilogue."""
        return self._declare(Role.TENSOR, name, shape, "float32")

    def constant(
        self, name: str, array: np.ndarray, role: Role = Role.CONSTANT, shape: tuple[tirx.Expr | int, ...] | None = None
    ) -> tirx.Buffer:
        """Declare a constant.

        Args:
            name: Of the parameter.
            array: The constant.
            role: CONSTANT or EPILOGUE_CONSTANT.
            shape: Of the parameter, where the code serves arrays of several sizes.
        """
        self._constants.append((role, array))
        return self._declare(role, name, array.shape if shape is None else shape, str(array.dtype))

    def output(
        self,
        shape: tuple[int, ...],
        dtype: str,
        name: str = "out",
        parameter_shape: tuple[tirx.Expr | int, ...] | None = None,
    ) -> tirx.Buffer:
        """Declare an output.

        Args:
            shape: Of the array that the kernel makes.
            dtype: Of its elements.
            name: Of the parameter.
            parameter_shape: Of the parameter, where the code serves arrays of several sizes.
        """
        self._outputs.append((shape, dtype))
        return self._declare(Role.OUTPUT, name, shape if parameter_shape is None else parameter_shape, dtype)

    def kernel(self, name: str | None = None) -> Kernel:
        """The kernel, once its code is complete.

        Args:
            name: As the report shows it; by default the function's.
        """
        func = self._ir.get()
        order = sorted(range(len(self._roles)), key=self._roles.__getitem__)
        params = [func.params[i] for i in order]
        func = link(tirx.PrimFunc(params, func.body, func.ret_type, func.attrs), self._functions)
        if self.in_place:
            first_tensor, first_output = self._roles.count(Role.DATA), len(params) - len(self._outputs)
            pairs = [(first_tensor + tensor, first_output + output) for tensor, output in self.in_place]
            func = func.with_attr(IN_PLACE, pairs)
        constants = sorted(self._constants, key=lambda each: each[0])
        return Kernel(name or self.name, func, tuple(array for _, array in constants), tuple(self._outputs))

    def _declare(self, role: Role, name: str, shape: tuple[tirx.Expr | int, ...], dtype: str) -> tirx.Buffer:
        self._roles.append(role)
        return T.arg(name, T.buffer(shape, dtype))
