"""Call the kernels of a library for TVM's runtime one by one, on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm

from ..runtime.tvm_module import TvmModule


class TvmKernels:
    """Calls kernels by TVM's calling convention. They may call functions of TVM's runtime, such as sorts."""

    def __init__(self, library: TvmModule) -> None:
        self._library = library

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place."""
        tensors = [tvm.runtime.tensor(array) for array in arrays]  # copies, with the alignment that the kernels require
        self._library.kernel(name)(*tensors)
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                np.copyto(array, tensor.numpy())
