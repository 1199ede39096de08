"""The ONNX importer: each operator against onnxruntime, the canonical form, the trace, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper, parser
from tvm import relax

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.loading import load_model
from tests.support import foreign_models

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


X = normal(2, 4, 7, 9)


def build(
    text: str,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    version: int = 21,
    shapes: Mapping[str, list[int | str]] | None = None,
    outputs: list[str] | None = None,
) -> onnx.ModelProto:
    """One node a line in ONNX's text format; the values that no node reads are the outputs, if none are named."""
    nodes = [parser.parse_node(line) for line in text.strip().splitlines()]
    for node in nodes:
        node.name = f"{node.op_type}:{node.output[0]}"
    read = {name for node in nodes for name in node.input}
    outputs = outputs or [name for node in nodes for name in node.output if name and name not in read]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), (shapes or {}).get(name, value.shape)
            )
            for name, value in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
    if any(node.domain == opset.DOMAIN for node in nodes):
        opset.add_functions(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def run_imported(imported: Imported, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    executable = tvm.compile(imported.mod, tvm.target.Target({"kind": "llvm", "opt-level": 1}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs))
    return [value.numpy() for value in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def check(
    text: str,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    version: int = 21,
    exact: bool = False,
) -> Imported:
    """Import, run by TVM's default lowering, compare every output with onnxruntime."""
    model = load_model(build(text, inputs, constants, version))
    imported = import_onnx(model)
    wanted, got = run_reference(model, inputs), run_imported(imported, inputs)
    for spec, want, value in zip(imported.outputs, wanted, got, strict=True):
        assert (spec.shape, spec.dtype) == (want.shape, want.dtype.name), spec
        if exact:
            np.testing.assert_array_equal(value, want, err_msg=spec.name)
        else:
            np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5, err_msg=spec.name)
    return imported


def operators(imported: Imported) -> list[str]:
    """The Relax operators in order."""
    calls = (binding.value for binding in bindings(imported))
    return [str(call.op.name).removeprefix("relax.") for call in calls if isinstance(call, tvm.ir.Call)]


def bindings(imported: Imported) -> list[relax.Binding]:
    blocks = imported.mod["main"].body.blocks
    assert len(blocks) == 1 and isinstance(blocks[0], relax.DataflowBlock)
    return list(blocks[0].bindings)


def constants_of(imported: Imported) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    relax.analysis.post_order_visit(
        imported.mod["main"],
        lambda expr: found.append(expr.value.numpy()) if isinstance(expr, tvm.ir.GenericConst) else None,
    )
    return found


# --- operators ------------------------------------------------------------------------------------------------------


def test_convolutions() -> None:
    imported = check(
        """
        plain = Conv(x, w)
        biased = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)
        upper = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w_even, b)
        lower = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w_even, b)
        valid = Conv<auto_pad = "VALID">(x, w)
        grouped = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w_grouped)
        depthwise = Conv<group = 4, kernel_shape = [3, 3]>(x, w_depthwise)
        """,
        {"x": X},
        {
            "w": normal(5, 4, 3, 3),
            "b": normal(5),
            "w_even": normal(5, 4, 2, 4),
            "w_grouped": normal(6, 2, 3, 3),
            "w_depthwise": normal(4, 1, 3, 3),
        },
    )
    assert set(operators(imported)) == {"nn.conv2d", "add"}
    assert (1, 5, 1, 1) in [constant.shape for constant in constants_of(imported)]
    lower = next(b for b in bindings(imported) if imported.nodes[b.var.name] == "Conv:lower")
    assert [int(p) for p in lower.value.attrs.padding] == [1, 2, 0, 1]


def test_other_convolutions_through_tvm() -> None:
    check(
        """
        line = Conv<pads = [1, 1]>(s, w1)
        volume = Conv(v, w3)
        transposed = ConvTranspose<strides = [2, 2]>(x, wt)
        """,
        {"s": normal(1, 3, 8), "v": normal(1, 2, 4, 4, 4), "x": X},
        {"w1": normal(2, 3, 3), "w3": normal(2, 2, 2, 2, 2), "wt": normal(4, 3, 2, 2)},
    )


def test_convolution_with_computed_weights_and_bias() -> None:
    check("y = Conv(x, w, b)", {"x": X, "w": normal(5, 4, 3, 3), "b": normal(5)})


def test_matrix_products() -> None:
    imported = check(
        """
        plain = MatMul(x, w)
        nt = Gemm<transB = 1>(x, wt, b)
        scaled = Gemm<alpha = 0.5, beta = 2.0>(x, w, b)
        tn = Gemm<transA = 1>(xt, w, full)
        scalar = Gemm(x, w, one)
        no_bias = Gemm<transB = 1>(x, wt)
        dynamic = Gemm<transB = 1, beta = 0.5>(x, yt, r)
        left = MatMul(wt, xt)
        batched = MatMul(b3, w)
        """,
        {"x": normal(3, 8), "xt": normal(8, 3), "yt": normal(5, 8), "r": normal(5), "b3": normal(2, 3, 8)},
        {"w": normal(8, 5), "wt": normal(5, 8), "b": normal(5), "full": normal(3, 5), "one": np.float32(1.5)},
    )
    shapes = {constant.shape for constant in constants_of(imported)}
    assert {(8, 5), (1, 5)} <= shapes and (5,) not in shapes
    assert operators(imported).count("permute_dims") == 2  # of computed operands only


@pytest.mark.parametrize("shape", [(2, 67, 3, 5), (3, 33), (2, 5, 4)])
def test_batch_normalization_is_bit_exact(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    variance = RNG.uniform(0.01, 3, channels).astype(np.float32)
    imported = check(
        "y = BatchNormalization<epsilon = 0.001>(x, s, b, m, v)",
        {"x": normal(*shape)},
        {"s": normal(channels), "b": normal(channels), "m": normal(channels), "v": variance},
        exact=True,
    )
    assert operators(imported) == ["multiply", "add"]
    assert {constant.shape for constant in constants_of(imported)} == {(1, channels) + (1,) * (len(shape) - 2)}


def test_activations() -> None:
    imported = check(
        """
        relu = Relu(x)
        leaky = LeakyRelu<alpha = 0.2>(x)
        prelu_channel = PRelu(x, slope)
        prelu_scalar = PRelu(x, one_slope)
        prelu_row = PRelu(x, row_slope)
        prelu_matrix = PRelu(m, row_slope)
        clipped = Clip(x, low, high)
        above = Clip(x, low)
        below = Clip(x, , high)
        free = Clip(x)
        crossed = Clip(x, high, low)
        dynamic = Clip(x, d)
        sign = Sign(z)
        """,
        {"x": X, "z": np.sign(X) * (np.abs(X) > 0.5), "m": normal(3, 9), "d": normal(1).reshape(())},
        {
            "slope": normal(4, 1, 1),
            "one_slope": np.float32([0.25]),
            "row_slope": normal(9),
            "low": np.float32(-0.7),
            "high": np.float32(0.9),
        },
        exact=True,
    )
    found = operators(imported)
    assert found.count("nn.prelu") == 3 and found.count("clip") == 2 and "sign" in found and "nn.relu" in found


def test_old_attribute_forms() -> None:
    check(
        """
        clipped = Clip<min = -0.5, max = 0.5>(x)
        padded = Pad<pads = [0, 0, 1, 0, 0, 0, 0, 2], value = 1.5>(x)
        expanded = Unsqueeze<axes = [0, 5]>(x)
        squeezed = Squeeze<axes = [0]>(one)
        dropped = Dropout(x)
        """,
        {"x": X, "one": normal(1, 3)},
        version=10,
        exact=True,
    )


def test_elementwise() -> None:
    imported = check(
        """
        sum = Add(x, c)
        difference = Sub(c, x)
        product = Mul(x, two)
        quotient = Div(x, x2)
        integer_quotient = Div(i, i2)
        integer_sum = Add(i, i2)
        maximum = Max(x, c, two)
        minimum = Min(x, x2)
        total = Sum(x, x2, c)
        chosen = Where(b, x, two)
        """,
        {
            "x": X,
            "x2": np.abs(normal(9)) + 1,
            "b": X > 0.3,
            "i": np.int64([7, -7, 5]),
            "i2": np.int64([2, 2, -3]),
        },
        {"c": normal(4, 1, 1), "two": np.float32(2)},
        exact=True,
    )
    assert {(1, 4, 1, 1), (1, 1, 1, 1)} == {constant.shape for constant in constants_of(imported)}


@pytest.mark.parametrize("comparison", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_binarizers_of_standard_operators(comparison: str) -> None:
    x = np.round(X * 4) / 4  # with ties
    imported = check(
        f"""
        condition = {comparison}(x, t)
        where = Where(condition, one, minus)
        condition2 = {comparison}(x, zero)
        cast = Cast<to = 1>(condition2)
        """,
        {"x": x},
        {
            "t": np.float32([0.25, 0, -0.5, 1]).reshape(4, 1, 1),
            "zero": np.float32(0),
            "one": np.float32(1),
            "minus": np.float32([-1]),
        },
        exact=True,
    )
    name = {"Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less", "LessOrEqual": "less_equal"}
    assert operators(imported) == [name[comparison], "where", name[comparison], "astype"]


def test_poolings() -> None:
    imported = check(
        """
        max = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        max_padded = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
        max_ceil = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
        max_upper = MaxPool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
        max_dilated = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
        mean = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        mean_padded = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
        mean_counted = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 2], count_include_pad = 1>(x)
        mean_ceil = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(x)
        mean_lower = AveragePool<kernel_shape = [2, 3], strides = [2, 2], auto_pad = "SAME_LOWER">(x)
        global = GlobalAveragePool(x)
        global_max = GlobalMaxPool(x)
        reduced = ReduceMean<keepdims = 1>(x, axes)
        reduced_flat = ReduceMean<keepdims = 0>(x, negative_axes)
        reduced_other = ReduceMean<keepdims = 0>(x, other_axes)
        """,
        {"x": X},
        {"axes": np.int64([2, 3]), "negative_axes": np.int64([-1, -2]), "other_axes": np.int64([1])},
    )
    found = operators(imported)
    assert found.count("nn.max_pool2d") == 5 and found.count("nn.avg_pool2d") == 5
    assert found.count("nn.adaptive_avg_pool2d") == 3


def test_shapes() -> None:
    imported = check(
        """
        flat = Flatten(x)
        flat2 = Flatten<axis = -1>(x)
        reshaped = Reshape(x, to)
        squeezed = Squeeze(g, axes)
        squeezed_all = Squeeze(g)
        unsqueezed = Unsqueeze(x, axes)
        same = Identity(x)
        cast = Cast<to = 1>(x)
        zero_padded = Pad(x, amounts)
        padded = Pad(x, amounts, minus)
        padded_axes = Pad(x, two_amounts, minus, pad_axes)
        reflected = Pad<mode = "reflect">(x, amounts)
        transposed = Transpose<perm = [0, 2, 3, 1]>(x)
        joined = Concat<axis = 1>(x, x)
        a, b = Split<axis = 1, num_outputs = 2>(x)
        sliced = Slice(x, first, last, pad_axes)
        """,
        {"x": X, "g": normal(2, 3, 1, 1)},
        {
            "to": np.int64([0, -1, 9]),
            "axes": np.int64([2, 3]),
            "amounts": np.int64([0, 0, 1, 2, 0, 0, 0, 1]),
            "two_amounts": np.int64([1, 2, 0, 1]),
            "pad_axes": np.int64([3, -2]),
            "minus": np.float32(-1),
            "first": np.int64([1, 1]),
            "last": np.int64([5, 6]),
        },
        exact=True,
    )
    assert operators(imported).count("reshape") == 6
    assert operators(imported).count("nn.pad") == 3


def test_long_tail_through_tvm() -> None:
    check(
        """
        sigmoid = Sigmoid(x)
        tanh = Tanh(x)
        softmax = Softmax<axis = 1>(x)
        hard = HardSigmoid<alpha = 0.2, beta = 0.5>(x)
        power = Pow(x, two)
        absolute = Abs(x)
        gathered = Gather<axis = 1>(x, picks)
        picked = Gather<axis = -1>(x, one_pick)
        looked_up = Gather(x, indices)
        top = ReduceMax<keepdims = 0>(x, axes)
        """,
        {"x": X, "indices": np.int64([[1, 0, 1]])},
        {"two": np.float32(2), "picks": np.int64([2, -4]), "one_pick": np.int64(-2), "axes": np.int64([2])},
    )


# --- ai.sbnn --------------------------------------------------------------------------------------------------------


def binary_constants(shape: tuple[int, ...], scaled: bool, shifted: bool) -> dict[str, np.ndarray]:
    channels = shape[0]
    return {
        "w": opset.pack_bits(RNG.integers(0, 2, shape)),
        "s": RNG.uniform(0.1, 2, channels).astype(np.float32) if scaled else np.ones(channels, np.float32),
        "o": normal(channels) if shifted else np.zeros(channels, np.float32),
    }


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize(("group", "scaled", "shifted"), [(1, False, False), (1, True, True), (2, True, True)])
def test_binary_conv2d(pad_value: int, group: int, scaled: bool, shifted: bool) -> None:
    shape = (6, 4 // group, 3, 3)
    imported = check(
        f"""
        bits = ai.sbnn.Binarize(x, t)
        y = ai.sbnn.BinaryConv2d<weight_shape = [6, {shape[1]}, 3, 3], strides = [2, 1], pads = [1, 0, 1, 2],
        """.rstrip()
        + f" group = {group}, pad_value = {pad_value}>(bits, w, s, o)",
        {"x": X},
        {"t": normal(4, 1, 1), **binary_constants(shape, scaled, shifted)},
        exact=True,
    )
    wanted = ["greater", "where", *(["nn.pad"] if pad_value else []), "nn.conv2d"]
    wanted += ["multiply"] if scaled else []
    wanted += ["nn.conv2d", "multiply", "add"] if shifted else []
    assert operators(imported) == wanted


@pytest.mark.parametrize(("scaled", "shifted"), [(False, False), (True, False), (True, True)])
def test_binary_linear(scaled: bool, shifted: bool) -> None:
    check(
        """
        bits = ai.sbnn.Binarize<lo = 0.0, hi = 1.0>(x, t)
        y = ai.sbnn.BinaryLinear<in_features = 13>(bits, w, s, o)
        """,
        {"x": normal(3, 13)},
        {"t": np.float32(0), **binary_constants((5, 13), scaled, shifted)},
        exact=True,
    )


def test_binary_operators_need_no_bodies() -> None:
    constants = {"t": np.float32(0), **binary_constants((5, 13), True, True)}
    text = "bits = ai.sbnn.Binarize(x, t)\ny = ai.sbnn.BinaryLinear<in_features = 13>(bits, w, s, o)"
    model = build(text, {"x": normal(3, 13)}, constants)
    del model.functions[:]
    assert "matmul" in operators(import_onnx(load_model(model)))


def test_unknown_binary_operators_and_versions() -> None:
    model = build("bits = ai.sbnn.Binarize(x, t)", {"x": X}, {"t": np.float32(0)})
    del model.functions[:]
    model.graph.node[0].op_type = "Ternarize"
    with pytest.raises(ModelError, match=r"ai\.sbnn::Ternarize \(node 'Binarize:bits'"):
        import_onnx(model)
    next(entry for entry in model.opset_import if entry.domain == opset.DOMAIN).version = 7
    with pytest.raises(ModelError, match=r"version 7 of the ai\.sbnn operators"):
        import_onnx(model)


@pytest.mark.parametrize(
    ("text", "changes", "match"),
    [
        ("BinaryLinear<in_features = 33>", {"x": normal(3, 33)}, "'BinaryLinear:y' has wrong weights: packed"),
        ("BinaryLinear<in_features = 13>", {"x": normal(3, 12)}, r"has in_features 13, but .* \[3, 12\]"),
        ("BinaryLinear<in_features = 13>", {"s": normal(4)}, r"has scale .*\[4\]; expected float32 \[5\]"),
        ("BinaryLinear<in_features = 13>", {"o": np.full(5, np.nan, np.float32)}, "has offset .* all finite"),
        ("BinaryLinear", {}, "lacks its attribute 'in_features'"),
        ("BinaryConv2d<weight_shape = [5, 13]>", {}, r"has weight_shape \[5, 13\] and group 1"),
        ("BinaryConv2d<weight_shape = [5, 13, 1, 1]>", {}, r"an input of shape \[3, 13\]"),
        ("BinaryConv2d<weight_shape = [5, 13, 1, 1], pad_value = 2>", {"x": normal(1, 13, 2, 2)}, "pad_value 2"),
        ("Binarize<lo = 1.0, hi = 0.0>", {}, "has lo 1 and hi 0; expected"),
    ],
)
def test_binary_operators_that_do_not_fit(text: str, changes: Mapping[str, np.ndarray], match: str) -> None:
    values = {"x": normal(3, 13), **binary_constants((5, 13), True, True), **changes}
    x = {"x": values.pop("x")}
    model = build("y = Relu(x)", x, values)
    node = parser.parse_node(
        f"y = ai.sbnn.{text}(x, w, s, o)" if "Linear" in text or "Conv" in text else f"y = ai.sbnn.{text}(x, s)"
    )
    node.name = f"{node.op_type}:y"
    model.graph.node[0].CopyFrom(node)
    model.opset_import.append(helper.make_opsetid(opset.DOMAIN, 1))
    with pytest.raises(ModelError, match=match):
        import_onnx(model)


# --- folding --------------------------------------------------------------------------------------------------------


def test_constant_subgraphs_are_evaluated() -> None:
    latent = normal(5, 4, 3, 3)
    imported = check(
        """
        sign = Sign(latent)
        magnitude = Abs(latent)
        scale = ReduceMean<keepdims = 1>(magnitude, axes)
        w = Mul(sign, scale)
        y = Conv(x, w)
        """,
        {"x": X},
        {"latent": latent, "axes": np.int64([1, 2, 3])},
    )
    assert operators(imported) == ["nn.conv2d"] and len(constants_of(imported)) == 1


def test_static_shape_computations_are_evaluated() -> None:
    model = build(
        """
        shape = Shape(x)
        zero = Constant<value_int = 0>()
        batch = Gather<axis = 0>(shape, zero)
        axis = Constant<value_ints = [0]>()
        first = Unsqueeze(batch, axis)
        rest = Constant<value_ints = [-1]>()
        to = Concat<axis = 0>(first, rest)
        r = Relu(x)
        y = Reshape(r, to)
        """,
        {"x": X},
        shapes={"x": ["N", 4, "H", "W"]},
    )
    imported = import_onnx(load_model(model), X.shape)
    assert operators(imported) == ["nn.relu", "reshape"] and imported.outputs[0].shape == (2, 252)
    assert [d.dim_value for d in imported.model.graph.input[0].type.tensor_type.shape.dim] == [2, 4, 7, 9]
    np.testing.assert_array_equal(run_imported(imported, {"x": X})[0], run_reference(imported.model, {"x": X})[0])


def test_branches_of_constant_condition() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["x"], ["z"])
        return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", 1, X.shape)])

    model = build("y = Relu(x)", {"x": X}, {"c": np.array(False)})
    attributes = {"then_branch": branch("NoSuchOperator"), "else_branch": branch("Neg")}
    model.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], **attributes))
    assert operators(import_onnx(model)) == ["negative"]


def test_sparse_initializers() -> None:
    model = build("y = MatMul(x, w)", {"x": normal(2, 3)}, {"w": np.zeros((3, 4), np.float32)})
    del model.graph.initializer[:]
    values, indices = np.float32([2, 3]), np.int64([1, 11])
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices), [3, 4])
    model.graph.sparse_initializer.append(sparse)
    (weight,) = constants_of(import_onnx(load_model(model)))
    assert weight[0, 1] == 2 and weight[2, 3] == 3 and np.count_nonzero(weight) == 2


# --- the module as a whole ------------------------------------------------------------------------------------------


def test_every_value_is_traced() -> None:
    model = load_model(foreign_models.bireal_net(channels=8, size=8))
    imported = import_onnx(model)
    bound = {binding.var.name: binding.var for binding in bindings(imported)}
    assert set(imported.nodes) == set(bound) and set(imported.trace) <= set(bound)
    assert set(imported.trace.values()) == {name for node in model.graph.node for name in node.output}
    assert set(imported.nodes.values()) == {node.name for node in model.graph.node}

    # every traced variable holds what onnxruntime computes for the value
    main = imported.mod["main"]
    names = list(imported.trace)
    block = relax.BlockBuilder()
    with block.function("main", main.params):
        with block.dataflow():
            renewed: dict[str, relax.Var] = {}
            for binding in bindings(imported):
                renewed[binding.var.name] = block.emit_output(_substitute(binding.value, renewed))
        block.emit_func_output(relax.Tuple([renewed[name] for name in names]))
    for name in imported.trace.values():
        if name != "y":
            imported.model.graph.output.append(onnx.ValueInfoProto(name=name))
    x = normal(1, 3, 8, 8)
    every = Imported(block.get(), imported.trace, imported.nodes, imported.inputs, imported.outputs, imported.model)
    wanted = dict(
        zip([o.name for o in imported.model.graph.output], run_reference(imported.model, {"x": x}), strict=True)
    )
    for name, value in zip(names, run_imported(every, {"x": x}), strict=True):
        np.testing.assert_allclose(value, wanted[imported.trace[name]], rtol=1e-4, atol=1e-5, err_msg=name)


def _substitute(call: relax.Call, renewed: Mapping[str, relax.Var]) -> relax.Call:
    arguments = [renewed.get(a.name, a) if isinstance(a, relax.Var) else a for a in call.args]
    return relax.Call(call.op, arguments, call.attrs, call.ty_args)


def test_passed_through_values_share_a_variable() -> None:
    model = build("r = Relu(x)\ni = Identity(r)\nd = Dropout(i)\ny = Neg(d)\nz = Identity(y)", {"x": X})
    imported = import_onnx(load_model(model))
    assert operators(imported) == ["nn.relu", "negative"] and len(bindings(imported)) == 2
    assert list(imported.trace.values()) == ["r", "y"]


def test_outputs_that_are_inputs_or_constants() -> None:
    model = build("c = Sqrt(k)\ny = Identity(x)", {"x": X}, {"k": np.float32([4, 9])})
    imported = import_onnx(load_model(model))
    constant, same = run_imported(imported, {"x": X})
    np.testing.assert_array_equal(constant, [2, 3])
    np.testing.assert_array_equal(same, X)


def test_names_that_collide_or_are_no_identifiers() -> None:
    x = {"x": X, "1/in.put": X}
    model = build("a = Add(x, x)\nb = Neg(a)", x)
    nodes = model.graph.node
    nodes[0].input[1], nodes[0].output[0], nodes[1].input[0] = "1/in.put", "/x", "/x"
    imported = import_onnx(load_model(model))
    assert [spec.name for spec in imported.inputs] == ["x", "1/in.put"]
    names = [p.name for p in imported.mod["main"].params] + list(imported.nodes)
    assert len(set(names)) == 4 and all(name.isidentifier() for name in names)


def test_foreign_functions_are_inlined() -> None:
    body = [parser.parse_node("d = Add(a, a)"), parser.parse_node("r = Relu(d)")]
    versions = [helper.make_opsetid("", 21)]
    model = build("y = Relu(x)", {"x": X})
    model.functions.append(helper.make_function("my.domain", "TwiceRelu", ["a"], ["r"], body, versions))
    model.graph.node[0].CopyFrom(helper.make_node("TwiceRelu", ["x"], ["y"], domain="my.domain"))
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    assert operators(import_onnx(load_model(model))) == ["add", "nn.relu"]


def test_standard_operators_without_converter_use_their_definition() -> None:
    imported = check("y = Celu<alpha = 2.0>(x)\nz = Relu(y)", {"x": X})
    assert imported.nodes["z"] == "Relu:z" and "nn.relu" in operators(imported)


@pytest.mark.parametrize(
    "model",
    [
        foreign_models.bireal_net(channels=8, size=8, per_channel_threshold=True, symmetric=False, batch="N"),
        foreign_models.sign_net(channels=8, batch="N"),
        foreign_models.vgg(channels=4, size=8, hidden=16, per_channel=True),
        foreign_models.mlp(features=24, hidden=(16, 12), symmetric=False, batch="N"),
    ],
    ids=["bireal", "sign", "vgg", "mlp"],
)
def test_foreign_models(model: onnx.ModelProto) -> None:
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    imported = import_onnx(load_model(model), shape)
    feeds = {"x": normal(*shape)}
    np.testing.assert_allclose(
        run_imported(imported, feeds)[0], run_reference(imported.model, feeds)[0], rtol=1e-4, atol=1e-4
    )


# --- refusals -------------------------------------------------------------------------------------------------------


def relu_model(**options: object) -> onnx.ModelProto:
    return build("y = Relu(x)", {"x": X}, **options)  # type: ignore[arg-type]


def test_shapes_must_be_static() -> None:
    model = relu_model(shapes={"x": ["batch", 4, 7, 9]})
    with pytest.raises(ModelError, match=r"input 'x' has the dynamic shape \[batch, 4, 7, 9\].*\(1, 4, 7, 9\)"):
        import_onnx(model)
    assert import_onnx(model, (3, 4, 7, 9)).inputs[0].shape == (3, 4, 7, 9)
    assert import_onnx(model, {"x": [3, 4, 7, 9]}).outputs[0].shape == (3, 4, 7, 9)
    for shape, match in [
        ((3, 5, 7, 9), "contradicts"),
        ((4, 7, 9), "contradicts"),
        ({"input": (1, 4, 7, 9)}, "names 'input', but the inputs of the model are: 'x'"),
        ((0, 4, 7, 9), "positive integers"),
        (("N", 4, 7, 9), "positive integers"),
    ]:
        with pytest.raises(ModelError, match=match):
            import_onnx(model, shape)  # type: ignore[arg-type]


def test_several_inputs_need_names() -> None:
    model = build("y = Add(a, b)", {"a": X, "b": X}, shapes={"a": ["N", 4, 7, 9], "b": ["N", 4, 7, 9]})
    with pytest.raises(ModelError, match="2 inputs"):
        import_onnx(model, X.shape)
    with pytest.raises(ModelError, match="dimension 'N'"):
        import_onnx(model, {"a": (2, 4, 7, 9), "b": (1, 4, 7, 9)})
    assert len(import_onnx(model, {"a": X.shape, "b": X.shape}).inputs) == 2


def test_all_unsupported_operators_are_named() -> None:
    nodes = [
        helper.make_node("FusedConv", ["x"], ["a"], name="first", domain="com.vendor"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("DeformConv", ["b", "b", "b"], ["c"], name="second"),
    ]
    model = relu_model()
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "c"
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(ModelError, match=r"com\.vendor::FusedConv \(node 'first' that computes 'a'\); DeformConv"):
        import_onnx(load_model(model))


@pytest.mark.parametrize(
    ("text", "constants", "match"),
    [
        ("y = Conv(x, w)", {"w": normal(5, 3, 3, 3)}, r"Conv node 'Conv:y' convolves an input of shape \[2, 4, 7, 9\]"),
        (
            "y = MatMul(x, w)",
            {"w": normal(5, 3)},
            r"MatMul node 'MatMul:y' on inputs of shape \[2, 4, 7, 9\], \[5, 3\]",
        ),
        ("y = Add(x, w)", {"w": normal(3)}, r"Add node 'Add:y' .* \[3\] cannot be imported: the first input shape"),
        ("y = MaxPool<kernel_shape = [20, 3]>(x)", {}, r"an output of shape \[2, 4, -12, 7\] .* larger input"),
        ("y = Reshape(x, s)", {"s": np.int64([5, 5])}, r"cannot make shape \[5, 5\]"),
        ("y = NonZero(x)", {}, "NonZero:y' has an output whose shape depends on the data"),
        ("y, i = MaxPool<kernel_shape = [2, 2]>(x)", {}, "indices of the maxima"),
        ("y = Gather<axis = 1>(x, p)", {"p": np.int64([4])}, "picks elements 4 to 4 of axis 1, which has 4"),
        ("y = Pad(x, p)", {"p": np.int64([0, 0, -1, 0, 0, 0, 0, 0])}, "negative pads"),
    ],
)
def test_nodes_that_cannot_be_imported(
    text: str, constants: Mapping[str, np.ndarray], match: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build("y = Relu(x)", {"x": X}, constants)
    node = parser.parse_node(text)
    node.name = f"{node.op_type}:y"
    model.graph.node[0].CopyFrom(node)
    with pytest.raises(ModelError, match=match) as caught:
        import_onnx(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_training_mode_is_refused() -> None:
    stats = {name: np.abs(normal(4)) for name in "sbmv"}
    model = build("y, m2, v2 = BatchNormalization<training_mode = 1>(x, s, b, m, v)", {"x": X}, stats, outputs=["y"])
    with pytest.raises(ModelError, match="training mode"):
        import_onnx(model)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = relu_model().SerializeToString()

    def written(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert load_model(written("good.onnx", good)).graph.name == "test"
    assert load_model(str(tmp_path / "good.onnx")) == load_model(good)
    for model, match in [
        (tmp_path / "missing.onnx", r"missing\.onnx' does not exist"),
        (tmp_path, "is a directory"),
        (written("empty.onnx", b""), r"empty\.onnx' is empty"),
        (written("cut.onnx", good[: len(good) // 2]), r"cut\.onnx' is damaged, truncated"),
        (written("text.onnx", b"import torch\n" * 9), r"text\.onnx' (is damaged|holds no ONNX graph)"),
        (b"\x08\x0a", "holds no ONNX graph"),
        (3, "but got int"),
    ]:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(model)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_models_that_violate_the_specification() -> None:
    model = relu_model()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="not valid ONNX"):
        load_model(model)


def test_missing_external_data(tmp_path: Path) -> None:
    model = build("y = MatMul(x, w)", {"x": normal(2, 300)}, {"w": normal(300, 4)})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert import_onnx(load_model(path)).outputs[0].shape == (2, 4)
    with pytest.raises(ModelError, match="cannot be found from memory"):
        load_model(path.read_bytes())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx' keeps weights in 'weights\.bin'"):
        load_model(path)


def test_damaged_weights_are_named() -> None:
    model = build("y = MatMul(x, w)", {"x": normal(2, 3)}, {"w": normal(3, 4)})
    model.graph.initializer[0].dims[0] = 5
    with pytest.raises(ModelError, match=r"the initializer 'w' of shape \[5, 4\] is damaged"):
        import_onnx(model)


def test_inputs_must_be_numeric_tensors() -> None:
    model = relu_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="element type STRING"):
        import_onnx(model)
