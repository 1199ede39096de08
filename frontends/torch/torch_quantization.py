"""Models that PyTorch's own quantisation (torch.ao, torchao) has changed: which of its results an export can read.

It reads what ``convert_pt2e`` returns, ``torch.fake_quantize_per_tensor_affine`` and its like, and the model of
``prepare_qat``, whose fake quantisers are taken with the ranges that they have. All of these compute with floats. It
cannot read modules that only observe ranges, nor tensors with integers inside, whose operators have no form in ONNX.

Classes are known by their names, so that neither package is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ModelError

_QUANTIZED_TENSORS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_INSTEAD = "quantise with prepare_pt2e and convert_pt2e of torchao, and export what convert_pt2e returns"


def refuse_integer_tensors(model: nn.Module) -> None:
    """Refuses a model that computes with torch's quantised tensors, or that is not quantised yet.

    Raises:
        ModelError: Names the module, and what to call instead.
    """
    for name, module in model.named_modules():
        place = f"{name!r} ({type(module).__name__})"
        if type(module).__module__.startswith(_QUANTIZED_TENSORS):
            raise ModelError(
                f"{place} computes with quantised tensors, which ONNX does not have; export the model of prepare_qat "
                f"before its convert, or {_INSTEAD}"
            )
        if _is_a(module, "ObserverBase") and not _is_a(model.get_submodule(name.rpartition(".")[0]), _FAKE):
            raise ModelError(f"{place} only observes ranges, and nothing is quantised yet; {_INSTEAD}")
        for key, parameter in module._parameters.items():
            if type(parameter).__module__.startswith("torchao"):
                raise ModelError(
                    f"{key!r} of {place} is an {type(parameter).__name__} of torchao, which ONNX does not have; "
                    f"{_INSTEAD}"
                )


@contextmanager
def ranges_as_they_are(model: nn.Module) -> Iterator[None]:
    """While this context is open, the fake quantisers of torch.ao in a model quantise, and do not observe."""
    with ExitStack() as stack:
        for module in model.modules():
            if _is_a(module, _FAKE) and "forward" not in module.__dict__:
                module.__dict__["forward"] = _fake_quantize(module)
                stack.callback(module.__dict__.pop, "forward")
        yield


_FAKE = "FakeQuantizeBase"


def _is_a(module: nn.Module, name: str) -> bool:
    return any(base.__name__ == name for base in type(module).__mro__)


def _fake_quantize(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a FakeQuantize of torch.ao computes with its present range."""
    scale, zero_point = module.get_buffer("scale"), module.get_buffer("zero_point")
    least, most = int(module.quant_min), int(module.quant_max)  # type: ignore[arg-type]
    if not module.get_buffer("fake_quant_enabled").any():
        return lambda x: x
    if module.is_per_channel:
        axis = int(module.ch_axis)  # type: ignore[arg-type]
        return lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, least, most)
    one_scale, one_zero_point = float(scale), int(zero_point)
    return lambda x: torch.fake_quantize_per_tensor_affine(x, one_scale, one_zero_point, least, most)
