"""Graphs with channels last, and other constant permutations, come out as if they were written channels first."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.ir import IRModule

import sbnn_tvm
from sbnn_tvm.passes.phases.move_permutations import move_permutations
from sbnn_tvm.passes.relax.graph import Graph, op_name, shape
from tests.support.binarised_models import BINARIZE, binarized, check_exactly, kinds
from tests.support.passes import agrees, imported, only, operators
from tests.support.random_arrays import quarters, signs
from tests.support.random_layouts import RandomLayouts
from tests.support.small_models import small_model

TO_FIRST, TO_LAST = "perm=[0, 3, 1, 2]", "perm=[0, 2, 3, 1]"


def moves(mod: IRModule) -> int:
    """The number of transpositions that move elements."""
    graph = Graph(mod["main"])
    live = graph.live()
    found = 0
    for var, value in graph.bindings:
        if var in live and op_name(value) == "permute_dims":
            extent = shape(value.args[0])
            axes = value.attrs.axes or range(len(extent))[::-1]
            wide = [axis for axis in axes if extent[axis] > 1]
            found += wide != sorted(wide)
    return found


def moved(text, inputs, constants, permutations, **counts):
    """The module of a model after the phase, which must be right and have so many permutations and operators."""
    model = small_model(text, inputs, constants)
    mod = move_permutations(imported(model))
    assert moves(mod) == permutations
    found = operators(mod)
    assert {name: found[name.replace("__", ".")] for name in counts} == counts
    agrees(mod, model)
    return mod


@pytest.mark.parametrize(
    ("between", "operator"),
    [
        ("Relu({})", "nn__relu"),
        ("Add({}, vector)", "add"),
        ("Mul({}, map)", "multiply"),
        ("Softmax<axis=-1>({})", "nn__softmax"),
        ("PRelu({}, slopes)", None),
        ("Pad({}, pads, one)", "nn__pad"),
        ('Pad<mode="reflect">({}, pads)', "take"),
        ("Gather<axis=3>({}, picks)", "take"),
        ("Slice({}, start, end, axes)", "strided_slice"),
        ("Concat<axis=3>({}, {})", "concat"),
        ("Concat<axis=3>({}, map)", "concat"),
        ("CumSum({}, axis)", None),
    ],
)
def test_layout_changes_on_both_sides_cancel(rng, between, operator):
    text = f"a = Transpose<{TO_LAST}>(x)\nb = {between.format('a', 'a')}\ny = Transpose<{TO_FIRST}>(b)"
    constants = {
        "vector": quarters(rng, 4), "map": quarters(rng, 1, 5, 6, 4), "slopes": quarters(rng, 5, 1, 1),
        "pads": np.array([0, 1, 2, 0, 0, 2, 1, 0]), "one": 1.0, "picks": np.array([3, 1]),
        "start": np.array([1]), "end": np.array([4]), "axes": np.array([1]), "axis": np.array(3),
    }  # fmt: skip
    expected = {operator: 2 if "reflect" in between else 1} if operator else {}
    moved(text, {"x": (1, 4, 5, 6)}, constants, 2 if "CumSum" in between else 0, **expected)


def test_a_network_with_channels_last_keeps_one_permutation_at_each_edge(rng):
    text = f"""
s = Sub(x, half)
a = Transpose<{TO_FIRST}>(s)
b = Conv<pads=[1, 1, 1, 1]>(a, w1)
c = Transpose<{TO_LAST}>(b)
d = Relu(c)
e = Pad(d, pads)
f = Transpose<{TO_FIRST}>(e)
g = Conv(f, w2)
h = Transpose<{TO_LAST}>(g)
i = Add(h, d)
j = Mul(i, k)
l = Transpose<{TO_FIRST}>(j)
m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(l)
n = Transpose<{TO_LAST}>(m)
y = Add(n, k)"""
    constants = {
        "half": 0.5, "w1": quarters(rng, 8, 3, 3, 3), "w2": quarters(rng, 8, 8, 3, 3),
        "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]), "k": quarters(rng, 8),
    }  # fmt: skip
    mod = moved(text, {"x": (1, 6, 6, 3)}, constants, 2)
    graph = Graph(mod["main"])
    assert op_name(graph.bindings[0][1]) == "permute_dims", "the input is permuted first"
    assert op_name(graph.bindings[-1][1]) == "permute_dims", "and the output last"


def test_the_rows_of_a_dense_layer_are_permuted_instead_of_its_input(rng):
    text = f"a = Transpose<{TO_LAST}>(x)\nb = Reshape(a, flat)\nc = MatMul(b, w)\ny = Add(c, v)"
    constants = {"flat": np.array([2, -1]), "w": quarters(rng, 60, 7), "v": quarters(rng, 7)}
    moved(text, {"x": (2, 3, 4, 5)}, constants, 0, matmul=1, reshape=1)


def test_a_product_over_channels_last_is_a_convolution(rng):
    text = f"a = Transpose<{TO_LAST}>(x)\nb = MatMul(a, w)\nc = Relu(b)\ny = Transpose<{TO_FIRST}>(c)"
    moved(text, {"x": (2, 3, 4, 5)}, {"w": quarters(rng, 3, 7)}, 0, nn__conv2d=1)


def test_the_mean_of_a_map_with_channels_last_is_a_global_pooling(rng):
    text = f"a = Transpose<{TO_LAST}>(x)\nb = ReduceMean<keepdims=0>(a, axes)\ny = MatMul(b, w)"
    constants = {"axes": np.array([1, 2]), "w": quarters(rng, 3, 7)}
    moved(text, {"x": (2, 3, 4, 5)}, constants, 0, nn__adaptive_avg_pool2d=1)


def test_a_scale_per_sample_and_channel_fits_itself_to_the_map(rng):
    text = f"""
a = Transpose<{TO_LAST}>(x)
b = ReduceMean<keepdims=0>(a, axes)
c = MatMul(b, w)
d = Sigmoid(c)
e = Reshape(d, wide)
f = Mul(a, e)
y = Transpose<{TO_FIRST}>(f)"""
    constants = {"axes": np.array([1, 2]), "w": quarters(rng, 3, 3), "wide": np.array([2, 1, 1, 3])}
    moved(text, {"x": (2, 3, 4, 5)}, constants, 0)


def test_convolutions_over_time_with_channels_last(rng):
    text = """
u = Unsqueeze(x, first)
a = Transpose<perm=[0, 3, 1, 2]>(u)
b = Conv<pads=[0, 1, 0, 1]>(a, w1)
c = Transpose<perm=[0, 2, 3, 1]>(b)
d = Squeeze(c, first)
e = Add(d, v)
f = Unsqueeze(e, first)
g = Transpose<perm=[0, 3, 1, 2]>(f)
h = Conv<pads=[0, 1, 0, 1]>(g, w2)
i = Transpose<perm=[0, 2, 3, 1]>(h)
j = Squeeze(i, first)
k = ReduceMean<keepdims=0>(j, first)
y = Softmax<axis=1>(k)"""
    constants = {
        "first": np.array([1]), "w1": quarters(rng, 6, 4, 1, 3), "w2": quarters(rng, 5, 6, 1, 3), "v": quarters(rng, 6),
    }  # fmt: skip
    moved(text, {"x": (1, 9, 4)}, constants, 1)


def test_attention_and_the_tokens_of_an_image_stay_as_written(rng):
    text = """
p = Conv<strides=[2, 2]>(x, w)
r = Reshape(p, tokens)
t = Transpose<perm=[0, 2, 1]>(r)
q = MatMul(t, wq)
k = MatMul(t, wk)
h = Transpose<perm=[0, 2, 1]>(k)
s = MatMul(q, h)
m = Softmax<axis=-1>(s)
o = MatMul(m, t)
y = Add(o, t)"""
    constants = {"w": quarters(rng, 8, 3, 2, 2), "tokens": np.array([1, 8, 9]), "wq": quarters(rng, 8, 8),
                 "wk": quarters(rng, 8, 8)}  # fmt: skip
    moved(text, {"x": (1, 3, 6, 6)}, constants, 2)


def test_convolutions_over_time_are_maps_of_one_row_and_fuse(rng):
    text = """
a = Conv<pads=[1, 1]>(x, w1)
b = Mul(a, k)
c = Relu(b)
d = MaxPool<kernel_shape=[2], strides=[2]>(c)
e = Conv<pads=[1, 1]>(d, w2)
f = Add(e, d)
y = ReduceMean<keepdims=0>(f, last)"""
    constants = {
        "w1": quarters(rng, 6, 4, 3), "k": quarters(rng, 6, 1), "w2": quarters(rng, 6, 6, 3), "last": np.array([2]),
    }  # fmt: skip
    model = small_model(text, {"x": (1, 4, 16)}, constants)
    module = sbnn_tvm.compile(model)
    assert kinds(module) == ["conv 1x3", "max pool 1x2/1x2", "conv 1x3", "global average pool"]
    module.verify()


def test_a_shuffle_of_channels_last_is_one_of_channels(rng):
    text = f"""
a = Conv(x, w)
b = Transpose<{TO_LAST}>(a)
c = Reshape(b, apart)
d = Transpose<perm=[0, 1, 2, 4, 3]>(c)
e = Reshape(d, whole)
f = Slice(e, start, end, axes)
g = Transpose<{TO_FIRST}>(f)
y = Conv(g, v)"""
    constants = {
        "w": quarters(rng, 8, 3, 1, 1), "apart": np.array([1, 5, 6, 2, 4]), "whole": np.array([1, 5, 6, 8]),
        "start": np.array([4]), "end": np.array([8]), "axes": np.array([3]), "v": quarters(rng, 3, 4, 1, 1),
    }  # fmt: skip
    moved(text, {"x": (1, 3, 5, 6)}, constants, 1)
    module = check_exactly(small_model(text, {"x": (1, 3, 5, 6)}, constants))
    assert kinds(module) == ["conv 1x1", "channels: selection", "conv 1x1"]


def test_an_image_of_bytes_is_permuted_as_floats(rng):
    text = f"a = Cast<to=1>(x)\nb = Mul(a, k)\nc = Transpose<{TO_FIRST}>(b)\ny = Conv(c, w)"
    mod = moved(text, {"x": ((1, 5, 6, 3), "uint8")}, {"k": quarters(rng, 3), "w": quarters(rng, 4, 3, 1, 1)}, 1)
    assert str(only(mod, "permute_dims").args[0].ty.dtype) == "float32"


def test_a_permutation_between_the_image_formats_costs_nothing(rng):
    text = f"a = Transpose<{TO_FIRST}>(x)\nb = Conv(a, w)\ny = Transpose<{TO_LAST}>(b)"
    module = check_exactly(small_model(text, {"x": (2, 5, 6, 3)}, {"w": quarters(rng, 4, 3, 1, 1)}))
    assert kinds(module) == ["conv 1x1"]
    assert [name for name in operators(module.lowered.mod) if name not in ("reshape", "call_tir")] == []
    assert operators(module.lowered.mod)["call_tir"] == 1


def test_models_that_return_what_they_read(rng):
    text = f"a = Transpose<{TO_FIRST}>(x)\ny = Transpose<{TO_LAST}>(a)\nz = Transpose<{TO_LAST}>(x)\nr = Relu(x)"
    check_exactly(small_model(text, {"x": (1, 4, 5, 6)}, {}, ["y", "z", "r", "a"]))


def test_axes_of_one_element_need_no_permutation(rng):
    text = f"a = Transpose<{TO_LAST}>(x)\nb = Relu(a)\ny = Reshape(b, flat)"
    moved(text, {"x": (2, 5, 1, 1)}, {"flat": np.array([2, 5])}, 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs(seed):
    model = RandomLayouts(np.random.default_rng(seed)).model
    before = imported(model)
    after = move_permutations(before)
    assert moves(after) <= moves(before)
    agrees(after, model)


@pytest.mark.fuzz
def test_many_random_graphs():
    for seed in range(1000):
        test_random_graphs(seed)


def test_bits_of_a_file_with_channels_last_are_verified_layer_by_layer(rng):
    text = (
        f"a = Transpose<{TO_FIRST}>(x)\nb = Conv<pads=[1, 1, 1, 1]>(a, w1)\nc = Transpose<{TO_LAST}>(b)\n"
        + binarized("d", "c")
        + f"e = Pad(d, pads, one)\nf = Transpose<{TO_FIRST}>(e)\ng = Conv(f, w2)\nh = Transpose<{TO_LAST}>(g)\n"
        + "i = Mul(h, k)\nj = Add(i, c)\nm = ReduceMean<keepdims=0>(j, axes)\ny = MatMul(m, w3)"
    )
    constants = {
        **BINARIZE, "w1": quarters(rng, 32, 3, 3, 3), "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]), "one": 1.0,
        "w2": signs(rng, 32, 32, 3, 3), "k": np.abs(quarters(rng, 32)) + 0.25, "axes": np.array([1, 2]),
        "w3": quarters(rng, 32, 10),
    }  # fmt: skip
    module = check_exactly(small_model(text, {"x": (2, 7, 6, 3)}, constants))
    assert kinds(module) == ["conv 3x3", "binary conv 3x3", "global average pool", "dense"]
    result = module.verify()
    compared = {layer.name for layer in result.layers}
    assert {"d", "j"} <= compared, "values in another layout are compared too"
