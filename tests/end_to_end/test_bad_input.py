"""What happens when a user gives the wrong thing: one clear sentence, and nothing half-written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import sbnn_tvm
from sbnn_tvm import CompiledModule, SbnnError
from sbnn_tvm.errors import CompileError, InputError, LibraryError, ModelError, TargetError
from tests.support import foreign_models

SHAPE = (1, 3, 8, 8)


@contextmanager
def refused(error: type[SbnnError], message: str) -> Iterator[None]:
    """The body raises this very error, with a sentence for users and no trace of TVM."""
    with pytest.raises(error, match=message) as caught:
        yield
    assert caught.type is error
    sentence = str(caught.value)
    assert "\n" not in sentence and 15 < len(sentence) < 600
    assert not re.search(r"tirx|relax|R\.Tensor|TVMError|Traceback|/ir/|\.cc:", sentence), sentence
    link: BaseException | None = caught.value
    while link is not None:  # what Python would print
        frames = []
        traceback = link.__traceback__
        while traceback is not None:
            frames.append(traceback.tb_frame.f_code.co_filename)
            traceback = traceback.tb_next
        assert not [frame for frame in frames if "site-packages/tvm" in frame]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return foreign_models.vgg(channels=32, size=8, hidden=32)


@pytest.fixture(scope="module")
def module(model: onnx.ModelProto) -> CompiledModule:
    return sbnn_tvm.compile(model)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[str, list[int | str]]],
    outputs: dict[str, tuple[str, list[int | str]]],
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A model from nodes; inputs and outputs are (element type, shape) by name."""

    def infos(values: dict[str, tuple[str, list[int | str]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, getattr(TensorProto, t), s) for n, (t, s) in values.items()]

    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    body = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# Models that cannot be read


def test_missing_file(tmp_path: Path) -> None:
    with refused(ModelError, r"missing\.onnx' does not exist; check the path"):
        sbnn_tvm.compile(tmp_path / "missing.onnx")


def test_folder(tmp_path: Path) -> None:
    with refused(ModelError, "is a directory, not an ONNX file"):
        sbnn_tvm.compile(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with refused(ModelError, r"empty\.onnx' is empty; export it again"):
        sbnn_tvm.compile(tmp_path / "empty.onnx")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file(share: float, model: onnx.ModelProto, tmp_path: Path) -> None:
    data = model.SerializeToString()
    path = tmp_path / "truncated.onnx"
    path.write_bytes(data[: max(1, int(share * len(data)))])
    with refused(ModelError, r"truncated\.onnx' (is damaged, truncated or not|holds no ONNX graph)"):
        sbnn_tvm.compile(path)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "random.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(1000))
    with refused(ModelError, r"random\.onnx' (is damaged, truncated or not|holds no ONNX graph)"):
        sbnn_tvm.compile(path)


@pytest.mark.parametrize("thing", [None, 3, ["model.onnx"], np.zeros(3)])
def test_no_model_at_all(thing: Any) -> None:
    with refused(ModelError, "a model must be the path of an ONNX file, its bytes or an onnx.ModelProto"):
        sbnn_tvm.compile(thing)


# Models that are read, but cannot be compiled


def test_model_that_the_checker_refuses() -> None:
    lonely = graph(
        [helper.make_node("Conv", ["x"], ["y"], name="conv")], {"x": ("FLOAT", [1, 3, 4, 4])}, {"y": ("FLOAT", ["?"])}
    )
    with refused(ModelError, r"is not valid ONNX: Node.*conv.* has input size 1"):
        sbnn_tvm.compile(lonely)


def test_unsupported_operators_are_all_named() -> None:
    one = helper.make_node("Det", ["x"], ["y"], name="volume")
    two = helper.make_node("Noise", ["x"], ["z"], name="noise", domain="com.vendor")
    x, y, z = ({name: ("FLOAT", shape)} for name, shape in (("x", [3, 3]), ("y", []), ("z", [3, 3])))
    with refused(ModelError, r"not supported: Det \(node 'volume' that computes 'y'\); export"):
        sbnn_tvm.compile(graph([one], x, y))
    both = graph([one, two], x, {**y, **z})
    both.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with refused(ModelError, r"Det \(node 'volume'.*; com\.vendor::Noise \(node 'noise'"):
        sbnn_tvm.compile(both)


def test_operator_that_is_supported_but_not_like_this() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"], name="where")]
    with refused(ModelError, "'where' has an output whose shape depends on the data"):
        sbnn_tvm.compile(graph(nodes, {"x": ("FLOAT", [2, 3])}, {"y": ("INT64", [2, "n"])}))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")]
    weight = np.zeros((4, 5), np.float32)
    with refused(ModelError, r"'dense'.* shape \[2, 3\], \[4, 5\]"):
        sbnn_tvm.compile(graph(nodes, {"x": ("FLOAT", [2, 3])}, {"y": ("FLOAT", [2, 5])}, w=weight))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", strides=[0, 1])]
    kernel = np.zeros((4, 3, 3, 3), np.float32)
    with refused(ModelError, r"'conv' on inputs .* Attribute strides must only contain positive values"):
        sbnn_tvm.compile(graph(nodes, {"x": ("FLOAT", [1, 3, 5, 5])}, {"y": ("FLOAT", [1, 4, "h", "w"])}, w=kernel))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, r"input 'x' has the dynamic shape \[N, 3, 8, 8\]; pass a static one, for example input_shape="),
        ((1, 3, 9, 8), r"\[1, 3, 9, 8\] given for input 'x' contradicts the model, where it is \[N, 3, 8, 8\]"),
        ((1, 3, 8), "contradicts the model"),
        ((0, 3, 8, 8), "must be positive integers"),
        ((1.5, 3, 8, 8), "must be positive integers"),
        ("1,3,8,8", "must be positive integers"),
        (3, "must be positive integers"),
        ({"image": (1, 3, 8, 8)}, "input_shape names 'image', but the inputs of the model are: 'x'"),
    ],
)
def test_shapes_of_open_inputs(shape: Any, message: str) -> None:
    with refused(ModelError, message):
        sbnn_tvm.compile(foreign_models.vgg(channels=32, size=8, batch="N"), input_shape=shape)


def test_several_inputs_need_shapes_by_name() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"], name="add")
    two = graph([node], {n: ("FLOAT", ["N", 3]) for n in "xz"}, {"y": ("FLOAT", ["N", 3])})
    with refused(ModelError, r"the model has 2 inputs \('x', 'z'\)"):
        sbnn_tvm.compile(two, input_shape=(1, 3))
    with refused(ModelError, r"another input has 1 there; the two must agree"):
        sbnn_tvm.compile(two, input_shape={"x": (1, 3), "z": (2, 3)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_binary(value: float) -> None:
    model = foreign_models.vgg(channels=32, size=8, hidden=32)
    weight = model.graph.initializer[5]
    broken = numpy_helper.to_array(weight).copy()
    assert broken.shape == (32, 32, 3, 3)
    broken[3] = value
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    module = sbnn_tvm.compile(model)
    assert module.verify().passed
    (layer,) = (layer for layer in module.report.layers if layer.name == "/Conv_4")
    assert not layer.binary and "its weights in output channel 3 are not all finite" in layer.why


def test_inputs_that_the_reference_refuses() -> None:
    node = helper.make_node("Div", ["x", "z"], ["y"], name="ratio")
    module = sbnn_tvm.compile(graph([node], {n: ("INT64", [2]) for n in "xz"}, {"y": ("INT64", [2])}))
    with refused(InputError, "onnxruntime, the reference, fails on these inputs: .* division by zero"):
        module.verify([np.ones(2, np.int64), np.zeros(2, np.int64)])
    assert module.verify([np.array([7, -8]), np.array([2, 3])]).passed


@pytest.mark.parametrize("element", ["BFLOAT16", "STRING", "COMPLEX64", "FLOAT8E4M3FN"])
def test_elements_that_numpy_does_not_have(element: str) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], name="same")
    with refused(ModelError, f"input 'x' has the element type {element}"):
        sbnn_tvm.compile(graph([node], {"x": (element, [2, 3])}, {"y": (element, [2, 3])}))
    cast = helper.make_node("Cast", ["x"], ["y"], name="cast", to=TensorProto.BFLOAT16)
    with refused(ModelError, "output 'y' has the element type BFLOAT16"):
        sbnn_tvm.compile(graph([cast], {"x": ("FLOAT", [2, 3])}, {"y": ("BFLOAT16", [2, 3])}))


def test_torch_models_need_a_shape_that_fits() -> None:
    with refused(ModelError, "the model's input shape is unknown: pass input_shape="):
        sbnn_tvm.compile(torch.nn.Linear(3, 3))
    with refused(ModelError, r"does not run on an input of shape \(1, 4\)"):
        sbnn_tvm.compile(torch.nn.Linear(3, 3), input_shape=(1, 4))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("amr", "unknown target 'amr': did you mean arm"),
        ("llvm -mcpu=znver4", "unknown target 'llvm -mcpu=znver4': the known ones are native"),
        (3, "a target is a name"),
        ({}, 'must have "kind": "llvm"'),
        ({"kind": "cuda"}, 'must have "kind": "llvm"'),
        ({"kind": "llvm", "mcpu": "znver99"}, r"LLVM knows no CPU \(mcpu\) 'znver99'.* did you mean znver"),
        ({"kind": "llvm", "mtriple": "sparc-linux-gnu"}, "unknown target triple"),
    ],
)
def test_targets(target: Any, message: str, model: onnx.ModelProto) -> None:
    with refused(TargetError, message):
        sbnn_tvm.compile(model, target)


def test_a_plain_sign_and_what_is_allowed_for_it() -> None:
    sign = foreign_models.sign_net(channels=32, size=4, layers=1)
    with refused(CompileError, "sign_zero must be 'exact', 'positive' or 'negative', but got 'sometimes'"):
        sbnn_tvm.compile(sign, sign_zero="sometimes")  # type: ignore[arg-type]
    assert sbnn_tvm.compile(sign, strict=True).report.advice
    with refused(CompileError, "strict=True refuses this model: Sign gives .1 instead of 0 at 0"):
        sbnn_tvm.compile(sign, strict=True, sign_zero="positive")


@pytest.mark.parametrize("inside", [False, True])
def test_dump_that_cannot_be_written(inside: bool, model: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(CompileError, "cannot make the folder .*file"):
        sbnn_tvm.compile(model, dump=tmp_path / "file" / "dump" if inside else tmp_path / "file")


# Arrays that do not fit

ONE = np.zeros(SHAPE, np.float32)
ARRAYS = {
    "none": ((), r"the model takes 1 input \(x: float32\[1, 3, 8, 8\]\), but got 0"),
    "too many": ((ONE, ONE), "the model takes 1 input .* but got 2"),
    "rank": ((ONE[0],), r"input 'x' must have shape \[1, 3, 8, 8\].* but got \[3, 8, 8\]"),
    "size": ((np.zeros((1, 3, 8, 9), np.float32),), r"input 'x' must have shape .* but got \[1, 3, 8, 9\]"),
    "empty": ((np.zeros((0, 3, 8, 8), np.float32),), r"input 'x' must have shape .* but got \[0, 3, 8, 8\]"),
    "scalar": ((1.0,), r"input 'x' must have shape .* but got \[\]"),
    "float64": ((ONE.astype(np.float64),), r"'x' must be float32, but got float64: convert it with array.astype"),
    "int64": ((ONE.astype(np.int64),), "input 'x' must be float32, but got int64"),
    "unknown name": (({"x": ONE, "mask": ONE},), "unknown input 'mask': the model takes x"),
    "missing name": (({"image": ONE},), r"input x: float32\[1, 3, 8, 8\] is missing: the model takes x, but got image"),
    "ragged": (([[1, 2], [3]],), "is not an array"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arguments_of_run(case: str, module: CompiledModule) -> None:
    arguments, message = ARRAYS[case]
    with refused(InputError, message):
        module.run(*arguments)


@pytest.mark.parametrize("case", [case for case in ARRAYS if case not in ("none", "too many", "ragged", "scalar")])
def test_inputs_to_verify_with(case: str, module: CompiledModule) -> None:
    arguments, message = ARRAYS[case]
    with refused(InputError, message):
        module.verify(*arguments)


def test_other_arguments_of_verify(module: CompiledModule) -> None:
    with refused(InputError, "the model takes 1 input .* but got 2"):
        module.verify([ONE, ONE])
    for samples in (0, -1):
        with refused(InputError, f"at least one random input is needed to compare anything, but samples={samples}"):
            module.verify(samples=samples)
    for tolerance in (-1e-9, float("nan")):
        with refused(InputError, "the tolerance must be a number from 0 on"):
            module.verify(tolerance=tolerance)
    with refused(InputError, "the seed must be a number from 0 on"):
        module.verify(seed=-1)


def test_inputs_of_different_length() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"], name="add")
    module = sbnn_tvm.compile(graph([node], {n: ("FLOAT", [2, 3]) for n in "xz"}, {"y": ("FLOAT", [2, 3])}))
    with refused(InputError, "every input of the model must be given equally often, but there are 2 of 'x', 1 of 'z'"):
        module.verify([np.zeros((4, 3), np.float32), np.zeros((2, 3), np.float32)])
    with refused(InputError, r"'x' must have shape \[2, 3\], or several of them along the first dimension.* \[3, 3\]"):
        module.verify([np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)])


# Libraries


@pytest.fixture(scope="module")
def library(module: CompiledModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module.export(tmp_path_factory.mktemp("library") / "model.so")


def test_library_for_another_architecture(model: onnx.ModelProto, image: np.ndarray, tmp_path: Path) -> None:
    module = sbnn_tvm.compile(model, "arm")
    path = module.export(tmp_path / "arm.so")
    with refused(LibraryError, r"arm\.so is for aarch64 \(target 'arm'\), but this machine is \w+: compile the model"):
        sbnn_tvm.load(path)
    with refused(TargetError, "was compiled for arm .* which is not this machine's CPU"):
        module.run(image)
    with refused(InputError, "input 'x' must have shape"):
        module.emulate(image[0])


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.5, 0.99999])
def test_truncated_library(share: float, library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    path = tmp_path / "truncated.so"
    path.write_bytes(data[: int(share * len(data))])
    with refused(LibraryError, r"truncated\.so is not a compiled .*damaged: (not an ELF file|the file is cut short)"):
        sbnn_tvm.load(path)


def test_files_that_are_no_libraries_of_ours(tmp_path: Path) -> None:
    with refused(LibraryError, r"there is no file .*missing\.so"):
        sbnn_tvm.load(tmp_path / "missing.so")
    with refused(LibraryError, "is a folder, not a compiled model"):
        sbnn_tvm.load(tmp_path)
    (tmp_path / "text.so").write_text("not a library at all")
    with refused(LibraryError, "text.so is not a compiled model, or is damaged: not an ELF file"):
        sbnn_tvm.load(tmp_path / "text.so")
    with refused(LibraryError, "is a shared library, but not a model compiled by sbnn_tvm"):
        sbnn_tvm.load(sys.modules["numpy._core._multiarray_umath"].__file__)


def test_outputs_that_cannot_be_written(module: CompiledModule, library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    unwritable: list[tuple[Path, str]] = [
        (tmp_path / "missing" / "model.so", "there is no folder"),
        (tmp_path / "file" / "model.so", "there is no folder"),
        (tmp_path, "it has a file file that is not ours; name a new or an empty folder"),
        (Path("/proc/model.so"), "No such file or directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]
    for path, message in unwritable:
        with refused(LibraryError, f"cannot write .*{message}"):
            module.export(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "content"


def test_a_failed_export_keeps_the_old_file(
    module: CompiledModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "model.so").write_text("old")
    monkeypatch.setattr("sbnn_tvm.deploy.c_library.write_library.seal", fail)
    with refused(LibraryError, "cannot write .*No space left on device"):
        module.export(tmp_path / "model.so")
    assert [path.name for path in tmp_path.iterdir()] == ["model.so"]
    assert (tmp_path / "model.so").read_text() == "old"


# Models that are unusual, but fine

UNUSUAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "scalars": lambda: graph(
        [helper.make_node("Add", ["x", "z"], ["y"])], {n: ("FLOAT", []) for n in "xz"}, {"y": ("FLOAT", [])}
    ),
    "no linear layer": lambda: graph(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": ("FLOAT", [2, 3])}, {"y": ("FLOAT", [2, 3])}
    ),
    "nothing at all": lambda: graph(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": ("FLOAT", [2, 3])}, {"y": ("FLOAT", [2, 3])}
    ),
    "input as output": lambda: graph(
        [helper.make_node("Neg", ["x"], ["y"])], {"x": ("FLOAT", [2])}, {"y": ("FLOAT", [2]), "x": ("FLOAT", [2])}
    ),
    "a constant output": lambda: graph(
        [helper.make_node("Identity", ["c"], ["y"])], {"x": ("FLOAT", [2])}, {"y": ("FLOAT", [3])}, c=np.ones(3, "f4")
    ),
    "an empty constant": lambda: graph(
        [helper.make_node("Concat", ["x", "c"], ["y"], axis=0)],
        {"x": ("FLOAT", [2, 3])},
        {"y": ("FLOAT", [2, 3])},
        c=np.zeros((0, 3), np.float32),
    ),
    "several inputs and outputs": lambda: graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Add", ["c", "z"], ["sum"]),
            helper.make_node("Greater", ["c", "z"], ["mask"]),
        ],
        {"x": ("FLOAT", [1, 2, 5, 5]), "z": ("FLOAT", [1, 4, 3, 3])},
        {"sum": ("FLOAT", [1, 4, 3, 3]), "mask": ("BOOL", [1, 4, 3, 3]), "c": ("FLOAT", [1, 4, 3, 3])},
        w=np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32),
    ),
    "integers": lambda: graph(
        [helper.make_node("Add", ["x", "x"], ["d"]), helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)],
        {"x": ("INT64", [2, 3])},
        {"y": ("FLOAT", [2, 3]), "d": ("INT64", [2, 3])},
    ),
    "an embedding": lambda: graph(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        {"x": ("INT64", [2, 3])},
        {"y": ("FLOAT", [2, 3, 4])},
        w=np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32),
    ),
    "half and double precision": lambda: graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["h"], ["g"])],
        {"x": ("DOUBLE", [2, 3]), "h": ("FLOAT16", [2, 3])},
        {"y": ("DOUBLE", [2, 3]), "g": ("FLOAT16", [2, 3])},
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_models_agree_with_onnxruntime(case: str) -> None:
    module = sbnn_tvm.compile(UNUSUAL[case]())
    assert module.verify().passed
    assert str(module.report)


def test_picks_out_of_range_stay_in_memory() -> None:
    module = sbnn_tvm.compile(UNUSUAL["an embedding"]())
    picks = np.array([[-1, 1, 0], [-2, 2**40, -(2**40)]])
    result = module.run(picks)
    table = module.run(np.array([[0, 1, 0], [0, 1, 0]]))[0, :2]
    np.testing.assert_array_equal(result[0], table[[1, 1, 0]])  # negative picks count from the end
    assert np.isfinite(result).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 1e-45])
@pytest.mark.parametrize("network", ["vgg", "bireal_net", "mlp"])
def test_extreme_values_agree_with_onnxruntime(network: str, value: float, rng: np.random.Generator) -> None:
    module = extreme_module(network)
    shape = module.inputs[0].shape
    x = rng.standard_normal(shape).astype(np.float32)
    x.flat[::11] = value
    assert module.verify(x).passed


_extreme_modules: dict[str, CompiledModule] = {}


def extreme_module(network: str) -> CompiledModule:
    if network not in _extreme_modules:
        sizes: dict[str, int] = {} if network == "mlp" else {"channels": 32, "size": 8}
        _extreme_modules[network] = sbnn_tvm.compile(getattr(foreign_models, network)(**sizes))
    return _extreme_modules[network]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_layout_and_owner(order: Any, module: CompiledModule, image: np.ndarray) -> None:
    expected = module.run(image)
    other = np.asarray(image, order=order)
    other.flags.writeable = False
    np.testing.assert_array_equal(module.run(other), expected)
    np.testing.assert_array_equal(module.run({"x": torch.tensor(image)}), expected)
    np.testing.assert_array_equal(module.run(np.repeat(image, 2, axis=3)[..., ::2]), expected)
