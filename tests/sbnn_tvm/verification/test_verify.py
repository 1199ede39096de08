"""``verify`` must fail when it should, name the layer, and forgive what rounding alone has done."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tvm import relax
from tvm.ir import Call, GenericConst, IRModule

import sbnn_tvm
from sbnn_tvm.errors import InputError, VerificationError
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.passes.relax.graph import Graph, Writer, op_name
from sbnn_tvm.verification.result import Verification
from tests.support import foreign_models
from tests.support.small_models import small_model


@pytest.fixture(scope="module")
def module() -> CompiledModule:
    """Two binary convolutions, of which the first folds into thresholds."""
    return sbnn_tvm.compile(network())


def network(scale: float = 1.0, last: str = "Add") -> onnx.ModelProto:
    text = (
        "f = Conv(x, w0)\ng0 = Greater(f, t)\nb0 = Where(g0, hi, lo)\n"
        "d1 = Conv<pads=[1, 1, 1, 1]>(b0, w1)\nn1 = Mul(d1, s)\ng1 = Greater(n1, t1)\nb1 = Where(g1, hi, lo)\n"
        f"d2 = Conv(b1, w2)\ny = {last}(d2, o)"
    )
    rng = np.random.default_rng(1)
    constants = {
        "w0": scale * rng.standard_normal((70, 3, 3, 3)),
        "w1": rng.choice([-1.0, 1.0], (66, 70, 3, 3)),
        "w2": rng.choice([-1.0, 1.0], (9, 66, 1, 1)),
        "s": rng.uniform(-1, 1, (66, 1, 1)),
        "o": rng.standard_normal((1, 9, 1, 1)),
        "t": 0.0,
        "t1": rng.uniform(-3, 3, (66, 1, 1)),
        "hi": 1.0,
        "lo": -1.0,
    }
    return small_model(text, {"x": (2, 3, 8, 7)}, constants)


def with_constants(
    module: CompiledModule, layer: str, change: Callable[[np.ndarray], np.ndarray | None]
) -> CompiledModule:
    """The module with the constants of one kernel call replaced, where ``change`` gives others, and built again."""
    mod = module.lowered.mod
    graph = Graph(mod["main"])
    writer = Writer(graph)
    touched = 0
    coded = dict(zip(graph.params[len(module.inputs) :], module.constants, strict=True))
    for var, value in graph.bindings:
        if var.name != call_of(module, layer).name:
            writer.keep(var, value)
            continue
        arguments = []
        for argument in value.args[1].fields:
            old = argument.value.numpy() if isinstance(argument, GenericConst) else coded.get(argument)
            new = None if old is None else change(old)
            touched += new is not None
            arguments.append(writer[argument] if new is None else relax.const(new))
        writer.bind(var, Call(value.op, [value.args[0], relax.Tuple(arguments)], value.attrs, value.ty_args))
    assert touched
    return rebuilt(module, writer.module(mod))


def call_of(module: CompiledModule, value: str) -> relax.Var:
    """The variable of the kernel call that computes a value."""
    physical = module.lowered.physical
    calls = (var for var, call in Graph(module.lowered.mod["main"]).bindings if op_name(call) == "call_tir")
    return next(var for var in calls if var.name in physical and physical[var.name].value == value)


def rebuilt(module: CompiledModule, mod: IRModule) -> CompiledModule:
    lowered = replace(module.lowered, mod=mod)
    return CompiledModule(module.imported, module.composites, lowered, module.target, module.report)


def first_difference(verification: Verification) -> str:
    assert not verification.passed
    assert verification.first_difference is not None
    return verification.first_difference.name


def test_a_good_module_passes(module: CompiledModule) -> None:
    verification = module.verify()
    assert verification.passed and verification.samples == 3
    assert [layer.name for layer in verification.layers] == ["b0", "b1", "y"]
    assert verification.flipped == verification.after_flips == verification.unexplained == 0
    assert "agrees with onnxruntime in 3 layers and all outputs" in str(verification)


def test_a_flipped_weight_is_found(module: CompiledModule) -> None:
    def flip_a_bit(array: np.ndarray) -> np.ndarray | None:
        if array.dtype.kind != "u" or array.ndim < 3:
            return None
        array = array.copy()
        array.flat[7] ^= 1
        return array

    bad = with_constants(module, "b1", flip_a_bit)
    verification = bad.verify(check=False)
    assert first_difference(verification) == "b1"
    with pytest.raises(VerificationError, match=r"the first layer that differs is 'Where:b1' \(value 'b1'\): \d+ of"):
        bad.verify()


def test_a_wrong_threshold_is_found(module: CompiledModule) -> None:
    def one_more(array: np.ndarray) -> np.ndarray | None:
        return array + array.dtype.type(1) if array.dtype.kind == "u" and array.ndim == 2 else None

    assert first_difference(with_constants(module, "b1", one_more).verify(check=False)) == "b1"


def test_a_wrong_float_weight_is_found(module: CompiledModule) -> None:
    def grow(array: np.ndarray) -> np.ndarray | None:
        return array * np.float32(1.01) if array.dtype == np.float32 and array.ndim > 2 else None

    def bend(array: np.ndarray) -> np.ndarray | None:
        return array + np.float32(0.02) if array.dtype == np.float32 and array.ndim > 2 else None

    assert with_constants(module, "b0", grow).verify().passed  # the sign of a sum does not change with its scale
    assert first_difference(with_constants(module, "b0", bend).verify(check=False)) == "b0"


def test_a_wrong_output_is_found(module: CompiledModule) -> None:
    def shift(array: np.ndarray) -> np.ndarray | None:
        return array + np.float32(0.01) if array.dtype == np.float32 else None

    verification = with_constants(module, "y", shift).verify(check=False)
    assert first_difference(verification) == "y"
    assert verification.outputs[0].max_abs == pytest.approx(0.01, rel=0.01) and not verification.outputs[0].within
    assert with_constants(module, "y", shift).verify(tolerance=0.1).passed


def test_a_wrong_kernel_is_found(module: CompiledModule) -> None:
    """The last kernel subtracts where it should add."""
    other = sbnn_tvm.compile(network(last="Sub"))
    kernel, wrong = (Graph(m.lowered.mod["main"]).values[call_of(m, "y")].args[0] for m in (module, other))
    mod = IRModule(dict(module.lowered.mod.functions.items()))
    mod.update_func(kernel, other.lowered.mod[wrong].with_attr("global_symbol", kernel.name_hint))
    assert first_difference(rebuilt(module, mod).verify(check=False)) == "y"


def test_a_difference_in_a_later_input_is_found(module: CompiledModule, rng: np.random.Generator) -> None:
    """A weight that only matters where an input channel is not zero."""

    def bend(array: np.ndarray) -> np.ndarray | None:
        return array + np.float32(0.05) if array.dtype == np.float32 and array.ndim > 2 else None

    bad = with_constants(module, "b0", bend)
    nothing, something = np.zeros((2, 3, 8, 7), np.float32), rng.standard_normal((2, 3, 8, 7)).astype(np.float32)
    assert bad.verify(nothing).passed
    assert first_difference(bad.verify(np.concatenate([nothing, something]), check=False)) == "b0"


def test_the_library_is_more_than_its_kernels(module: CompiledModule) -> None:
    """Right kernels in the wrong place: differences that no layer shows, and no flipped bit explains."""
    other = sbnn_tvm.compile(network(scale=-1.0))
    mixed = CompiledModule(module.imported, module.composites, module.lowered, module.target, module.report)
    mixed.__dict__["library"] = other.library
    verification = mixed.verify(check=False)
    assert not verification.passed and verification.unexplained == 3


# --- rounding ---------------------------------------------------------------------------------------------------------


def tie_network(threshold: float) -> onnx.ModelProto:
    """A mean that is binarised next to where it lies, then a binary layer."""
    text = (
        "g = GlobalAveragePool(x)\nm = Mul(g, s)\nr = Sigmoid(m)\nc = Greater(r, t)\nb = Where(c, hi, lo)\n"
        "f = Flatten(b)\ny = MatMul(f, w)"
    )
    constants: dict[str, object] = {"s": 1 / 3, "t": threshold, "hi": 1.0, "lo": -1.0}
    constants["w"] = np.random.default_rng(2).choice([-1.0, 1.0], (64, 5))
    return small_model(text, {"x": (1, 64, 9, 9)}, constants)


def test_bits_flipped_by_rounding_are_counted_not_failed() -> None:
    """A threshold moved by less than the rounding bound flips the bits of all values that lie on it."""
    module = sbnn_tvm.compile(tie_network(0.5))
    shifted = sbnn_tvm.compile(tie_network(float(np.nextafter(np.float32(0.5), np.float32(0)))))
    mixed = CompiledModule(module.imported, module.composites, shifted.lowered, module.target, module.report)
    x = np.zeros((1, 64, 9, 9), np.float32)
    x[:, ::2] = 1
    verification = mixed.verify(x)
    assert verification.passed and verification.flipped == 32
    assert verification.after_flips == 1 and not verification.outputs[0].within
    assert "32 bits flipped within the rounding bound of a threshold" in str(verification)
    assert "for 1 of the inputs except values after bits flipped by rounding, first in 'b')" in str(verification)


def test_sums_that_the_reference_rounds_excuse_flips(rng: np.random.Generator) -> None:
    """Sums of 0.7 and -0.3 that are 0: the reference's rounding decides, while the kernel's sum is exact."""
    text = "c = Greater(x, t)\nb = Where(c, hi, lo)\nd = Conv(b, w)\ng = Greater(d, t)\ny = Where(g, one, zero)"
    constants = {"t": 0.0, "hi": 0.7, "lo": -0.3, "one": 1.0, "zero": 0.0}
    constants |= {"w": rng.choice([-1.0, 1.0], (32, 20, 1, 1))}
    verification = sbnn_tvm.compile(small_model(text, {"x": (4, 20, 9, 9)}, constants)).verify()
    assert verification.flipped > 100 and verification.after_flips == 3


@pytest.mark.parametrize("largest, excused", [(1000.0, True), (1.0, False)])
def test_codes_flipped_at_ties_of_a_rounding(largest: float, excused: bool, rng: np.random.Generator) -> None:
    """What counts is how large the values were before they were clipped."""
    text = (
        "g = GlobalAveragePool(x)\nm = Mul(g, s)\nc = Clip(m, low, high)\nk = Mul(c, steps)\nr = Round(k)\n"
        "q = Div(r, steps)\nf = Flatten(q)\ny = MatMul(f, w)"
    )
    constants: dict[str, object] = {"low": 0.0, "high": 1.0, "steps": 3.0}
    constants["w"] = rng.choice([-1.0, 1.0], (64, 5))
    module, other = (
        sbnn_tvm.compile(small_model(text, {"x": (1, 64, 3, 3)}, {**constants, "s": scale})) for scale in (1.0, 1.0008)
    )
    mixed = CompiledModule(module.imported, module.composites, other.lowered, module.target, module.report)
    x = np.full((1, 64, 3, 3), 0.4999, np.float32)  # 1.4997 of 3 steps, or 1.5009
    x[:, 0] = largest
    verification = mixed.verify(x, check=False)
    assert verification.passed == excused
    assert verification.flipped == (63 if excused else 0)
    assert excused or first_difference(verification) == "q"


def test_bits_flipped_further_from_the_threshold_fail() -> None:
    module = sbnn_tvm.compile(tie_network(0.5))
    shifted = sbnn_tvm.compile(tie_network(0.499))
    mixed = CompiledModule(module.imported, module.composites, shifted.lowered, module.target, module.report)
    assert mixed.verify(np.ones((1, 64, 9, 9), np.float32)).passed
    verification = mixed.verify(np.full((1, 64, 9, 9), -0.006, np.float32), check=False)  # its sigmoid is 0.4995
    assert first_difference(verification) == "b" and sum(layer.wrong for layer in verification.layers) == 64


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_given_inputs(module: CompiledModule, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3, 8, 7)).astype(np.float32)
    assert module.verify(x).samples == 3
    assert module.verify([x[:2]]).samples == 1
    assert module.verify({"x": x[:4]}).samples == 2
    assert module.verify(samples=1, seed=5).samples == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 3, 8, 7), np.float32), "x"),
        (np.zeros((2, 3, 8, 6), np.float32), r"must have shape|\[2, 3, 8, 7\]"),
        (np.zeros((2, 3, 8, 7)), "float32"),
        ([np.zeros((2, 3, 8, 7), np.float32)] * 2, "takes 1 input"),
        ({"z": np.zeros((2, 3, 8, 7), np.float32)}, "missing"),
    ],
    ids=["half a batch", "shape", "dtype", "too many", "name"],
)
def test_inputs_that_do_not_fit(module: CompiledModule, inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        module.verify(inputs)  # type: ignore[arg-type]


def test_values_that_are_no_numbers(rng: np.random.Generator) -> None:
    """The same NaN and infinities on both sides agree; a threshold calls NaN the lower value, as the reference does."""
    text = "d = MatMul(x, w)\nc = Greater(x, t)\nb = Where(c, hi, lo)\ne = MatMul(b, w)"
    constants = {"w": rng.choice([-1.0, 1.0], (8, 5)), "t": 0.0, "hi": 1.0, "lo": -1.0}
    module = sbnn_tvm.compile(small_model(text, {"x": (3, 8)}, constants, ("d", "e")))
    x = rng.standard_normal((3, 8)).astype(np.float32)
    x[0, 0], x[1, 3] = np.nan, np.inf
    verification = module.verify(x)
    assert np.isnan(module.run(x)[0][0]).all() and verification.flipped == 0


def against(module: CompiledModule, model: onnx.ModelProto) -> CompiledModule:
    """The module, with another model as its reference."""
    return CompiledModule(
        replace(module.imported, model=model),
        module.composites,
        module.lowered,
        module.target,
        module.report,
    )


def test_a_number_instead_of_nan_is_a_difference() -> None:
    model = small_model("y = Mul(x, s)", {"x": (1, 4)}, {"s": 2.0})
    poisoned = onnx.ModelProto()
    poisoned.CopyFrom(model)
    poisoned.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "s"))
    verification = against(sbnn_tvm.compile(model), poisoned).verify(check=False)
    assert not verification.passed and verification.outputs[0].max_rel == np.inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y = Transpose(x)", r"has shape \[2, 3\] instead of \[3, 2\]"),
        ("y = Cast<to=11>(x)", "has type float32 instead of float64"),
    ],
)
def test_shapes_and_types_come_before_values(text: str, message: str) -> None:
    """They are named as such, of the layer and of the output."""
    module = sbnn_tvm.compile(small_model("y = Relu(x)", {"x": (2, 3)}))
    bad = against(module, small_model(text, {"x": (2, 3)}))
    verification = bad.verify(np.ones((2, 3), np.float32), check=False)
    assert not verification.passed and verification.unexplained == 1
    assert re.search(f"output 'y' {message}", verification.reason)
    assert verification.outputs[0].mismatch and verification.first_difference is not None
    assert verification.first_difference.note == verification.outputs[0].mismatch
    assert verification.outputs[0].mismatch in str(verification)


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("y = ReduceMean<keepdims=0>(x)", (3, 4), "float32"),
        ("m = Mul(x, x)\ny = Sqrt(m)", (3, 4), "float16"),
        ("m = Mul(x, x)\ny = Exp(m)", (3, 4), "float64"),
        ("y = Greater(x, z)", (3, 4), "float32"),
        ("y = Not(x)", (3, 4), "bool"),
        ("y = Relu(x)", (), "float32"),
        ("y = BitwiseNot(x)", (3, 4), "uint8"),
    ],
)
def test_outputs_of_all_shapes_and_types(text: str, shape: tuple[int, ...], dtype: str) -> None:
    verification = sbnn_tvm.compile(small_model(text, {"x": (shape, dtype)}, {"z": 0.0})).verify()
    assert verification.passed and verification.samples == 3


def test_integers_and_truth_values() -> None:
    text = "c = Greater(x, t)\ny = Where(c, hi, lo)\ni = Mul(x, two)\nn = Not(z)"
    inputs: dict[str, Sequence[object]] = {"x": ((2, 5), "int32"), "z": ((3,), "bool")}
    model = small_model(
        text, inputs, {"t": np.int32(0), "two": np.int32(2), "hi": 1.0, "lo": 0.0}, ("y", "i", "n", "c")
    )
    verification = sbnn_tvm.compile(model).verify()
    assert verification.passed and {out.max_abs for out in verification.outputs} == {0}


def test_an_emulated_target_is_verified_too() -> None:
    module = sbnn_tvm.compile(foreign_models.bireal_net(channels=9, size=8), "arm")
    verification = module.verify(samples=1)
    assert verification.passed and ("qemu" if module.program else "emulator") in verification.method
