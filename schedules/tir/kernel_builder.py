"""A builder for kernels: it creates the TIR function, with parameters in the order that all kernels share."""

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
    """Kinds of parameters, in the order of the parameters of every kernel."""

    DATA = 0
    TENSOR = 1  # operands of the epilogue
    CONSTANT = 2  # weights and tables of the kernel
    EPILOGUE_CONSTANT = 3
    OUTPUT = 4


class KernelBuilder:
    """Builds one kernel.

    Parameters must be declared before all other code. They may be declared in any order and are then sorted by role;
    parameters of the same role keep their order. LLVM functions that the code calls are linked into the kernel::

        with KernelBuilder("elementwise") as builder:
            data = builder.data(shape, "float32")
            writer = ...                                 # an EpilogueWriter
            writer.declare(builder)                      # tensors, constants, outputs
            ... loops:  writer.store([v0, v1], (n, y, x), first_channel)
        return builder.kernel()
    """

    def __init__(self, name: str) -> None:
        """Emits nothing until the builder is entered.

        Args:
            name: Symbol of the function.
        """
        self.name = name
        self.in_place: tuple[tuple[int, int], ...] = ()
        """Outputs that may share the memory of a tensor operand: (index of the tensor, index of the output)."""
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
        """Declare an input of the kernel."""
        return self._declare(Role.DATA, name, shape, dtype)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> tirx.Buffer:
        """Declare an operand of the epilogue."""
        return self._declare(Role.TENSOR, name, shape, dtype)

    def constant(
        self, name: str, array: np.ndarray, role: Role = Role.CONSTANT, shape: tuple[tirx.Expr | int, ...] | None = None
    ) -> tirx.Buffer:
        """Declare a constant.

        Args:
            name: Name of the parameter.
            array: The constant.
            role: CONSTANT or EPILOGUE_CONSTANT.
            shape: Shape of the parameter, if the code is shared by arrays of several sizes; by default the array's.
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
            shape: Shape of the output array.
            dtype: dtype of its elements.
            name: Name of the parameter.
            parameter_shape: Shape of the parameter, if the code is shared by arrays of several sizes; by default
                ``shape``.
        """
        self._outputs.append((shape, dtype))
        return self._declare(Role.OUTPUT, name, shape if parameter_shape is None else parameter_shape, dtype)

    def kernel(self, name: str | None = None) -> Kernel:
        """Finish the kernel. Call it after the ``with`` block, when the code is complete.

        Args:
            name: Name of the kernel in the report; by default the symbol of the function.
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
