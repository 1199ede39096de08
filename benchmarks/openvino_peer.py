"""The layers of a chain in OpenVINO, on bits or on bytes, one thread.

No converter produces a BinaryConvolution, so that graph is built here. OpenVINO's CPU plugin treats a FakeQuantize as a
binarisation if it has two levels, 0 and 1, and equal input limits. After a BinaryConvolution it is fused into it, and
bits pass between the layers.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from chains import BinaryChain, Int8Chain
from contestant import Contestant
from onnxruntime_peer import quantised_model

from sbnn_tvm.deploy.targets import CpuTarget

MISSING = "OpenVINO is not installed and is left out; to include it: pip install openvino"


def available() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def binary_contestant(chain: BinaryChain, target: CpuTarget) -> Contestant:
    """A chain of binary convolutions; its output is checked.

    The time of the first layer is subtracted, because it also binarises floats, and the last layer stores floats.
    """
    import openvino as ov
    from openvino import opset1 as op
    from openvino.op import Constant

    core = ov.Core()
    x = np.ascontiguousarray(np.where(chain.bits, np.float32(1), np.float32(-1)).transpose(0, 3, 1, 2))
    packed = [np.packbits(signs, bitorder="little") for signs in chain.signs]

    def request(links: int) -> ov.InferRequest:
        def binarize(node: ov.Node, threshold: np.ndarray) -> ov.Node:
            low, high = (op.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (0, 1))
            limit = threshold.astype(np.float32).reshape(1, -1, 1, 1)
            return op.fake_quantize(node, op.constant(limit), op.constant(limit), low, high, 2)

        data = op.parameter(x.shape, np.float32)
        node = binarize(data, np.zeros(x.shape[1]))
        for i, shape in enumerate(chain.shapes[:links]):
            if i:
                # FakeQuantize gives 1 if a value is larger than the limit.
                node = binarize(node, chain.thresholds[i - 1] - 0.5)
            tensor = ov.Tensor(packed[i], ov.Shape(chain.signs[i].shape), ov.Type.u1)
            weights = Constant(tensor, shared_memory=False)
            top, left, bottom, right = shape.padding
            geometry = list(shape.strides), [top, left], [bottom, right], list(shape.dilation)
            node = op.binary_convolution(node, weights, *geometry, "xnor-popcount", 0.0)
        model = ov.Model([node], [data], "chain")
        one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        made = core.compile_model(model, "CPU", one_thread).create_infer_request()
        made.set_input_tensor(ov.Tensor(x))
        made.infer()
        return made

    first, whole = request(1), request(len(chain.shapes))
    bits = whole.get_output_tensor().data.transpose(0, 2, 3, 1) >= chain.thresholds[-1]
    np.testing.assert_array_equal(bits, chain.output(target))
    return Contestant(whole.infer, len(chain.shapes), first.infer)


def int8_contestant(chain: Int8Chain) -> tuple[Contestant, np.ndarray]:
    """A chain of int8 convolutions, and its output, uint8 [N, H, W, OC].

    The time of the first layer is subtracted, because it also converts layouts, unless it is the only one.
    """
    import openvino as ov

    core = ov.Core()
    x = np.ascontiguousarray(chain.data.transpose(0, 3, 1, 2))

    def request(links: int) -> ov.InferRequest:
        model = core.read_model(quantised_model(chain, links).SerializeToString())
        one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        made = core.compile_model(model, "CPU", one_thread).create_infer_request()
        made.set_input_tensor(ov.Tensor(x))
        made.infer()
        return made

    links = len(chain.shapes)
    whole = request(links)
    codes = whole.get_output_tensor().data.transpose(0, 2, 3, 1).copy()
    return Contestant(whole.infer, links, request(1).infer if links > 1 else None), codes
