"""Whole compilations against onnxruntime: every model is compiled, run, verified layer by layer, and compared here.

Inputs lie on a coarse grid, so that thresholds are hit exactly: what a comparison does with ties is part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import CompileError
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    Signs,
    TwoValues,
    resnet,
    to_onnx,
    vgg_small,
)
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.schedules.tir import loops
from tests.support import foreign_models
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.grids import every
from tests.support.random_arrays import normal, signs, two_valued
from tests.support.small_models import grid_inputs, run_reference, small_model
from tests.support.torch_seed import fixed_seed


def check(model: onnx.ModelProto, target: str = "native", exact: bool = False, **options: Any) -> CompiledModule:
    """Compile, run on inputs with ties, compare all outputs with onnxruntime and let the module verify itself."""
    feeds = grid_inputs(model)
    expected = run_reference(model, feeds)
    module = sbnn_tvm.compile(model, target, **options)
    outputs = module.run(feeds)
    assert [spec.name for spec in module.outputs] == list(expected)
    for (name, want), got in zip(expected.items(), outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        if exact:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max(initial=1e-30), err_msg=name)
    module.verify(feeds)
    return module


@dataclass
class Case:
    """A graph, and what the report must say about it.

    Attributes:
        text, inputs, constants, outputs: Same as in small_model.
        kinds: The kinds of the layers that run in kernels of ours, in order.
        left: How many operators are left to TVM.
        exact: Whether all values are integers, so that outputs must be equal.
    """

    text: str
    inputs: Mapping[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    kinds: Sequence[str] | None = None
    left: int = 0
    exact: bool = False


def cases(rng: np.random.Generator) -> dict[str, Case]:
    """The graphs of all kinds, with weights of one generator."""
    return {
        # Who reads bits, and in which form.
        "a transpose of bits": Case(
            BITS + "p = Transpose<perm=[1, 0]>(b)\ny = MatMul(p, w)",
            {"x": (20, 3)},
            {**BINARIZE, "w": signs(rng, 20, 5)},
            left=1,
            exact=True,
        ),
        "a float layer reads bits": Case(BITS + "y = Conv(b, w)", IMAGE, {**BINARIZE, "w": normal(rng, 4, 8, 3, 3)}),
        "bits are scaled, then convolved": Case(
            BITS + "m = Mul(b, s)\ny = Conv(m, w)",
            IMAGE,
            {**BINARIZE, "s": normal(rng, 1, 8, 1, 1), "w": normal(rng, 4, 8, 3, 3)},
        ),
        "bits of a convolution are scaled": Case(
            "d = Conv(x, w)\nc = Greater(d, t)\nb = Where(c, hi, lo)\ny = Mul(b, s)",
            IMAGE,
            {**BINARIZE, "s": normal(rng, 1, 4, 1, 1), "w": normal(rng, 4, 8, 3, 3)},
        ),
        "bits are added to what they were made of": Case(
            "d = Conv(x, v)\nc = Greater(d, t)\nb = Where(c, hi, lo)\nm = Add(b, d)\ne = Conv(b, w)\ny = Add(e, m)",
            IMAGE,
            {**BINARIZE, "v": normal(rng, 8, 8, 1, 1), "w": signs(rng, 8, 8, 1, 1)},
        ),
        "bits are binarised": Case(
            BITS + "g = GreaterOrEqual(b, hi)\ne = Where(g, hi, lo)\ny = Conv(e, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
        ),
        "bits of a single pixel are flattened": Case(
            "d = Conv(x, v)\nc = Greater(d, t)\nb = Where(c, hi, lo)\nf = Flatten(b)\ny = MatMul(f, w)",
            {"x": (2, 8, 4, 4)},
            {**BINARIZE, "v": normal(rng, 7, 8, 4, 4), "w": signs(rng, 7, 5)},
            kinds=["conv 4x4", "binary dense"],
            exact=True,
        ),
        "bits of a map are flattened": Case(
            BITS + "f = Flatten(b)\ny = MatMul(f, w)",
            {"x": (2, 9, 3, 2)},
            {**BINARIZE, "w": signs(rng, 54, 7)},
            kinds=["elementwise", "binary conv 3x2"],
            exact=True,
        ),
        "bits are averaged": Case(
            BITS + "p = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(b)\ng = GlobalAveragePool(b)\ny = Add(p, g)",
            IMAGE,
            BINARIZE,
        ),
        "bits are concatenated": Case(
            BITS + "l = Less(x, t)\ne = Where(l, hi, lo)\nm = Concat<axis=1>(b, e)\ny = Conv(m, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 16, 3, 3)},
            exact=True,
        ),
        "bits are split": Case(
            BITS + "p, q = Split<axis=1, num_outputs=2>(b)\nd = Conv(p, w)\ne = Conv(q, w)\ny = Concat<axis=1>(d, e)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 4, 3, 3)},
            exact=True,
        ),
        "bits, sums and the condition are outputs": Case(
            BITS + "d = Conv(b, w)\ne = Add(d, a)\ng = Greater(e, t)\nf = Where(g, hi, lo)\ny = Conv(f, v)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3), "v": signs(rng, 4, 4, 1, 1), "a": normal(rng, 1, 4, 1, 1)},
            outputs=("y", "d", "e", "f", "b", "c"),
            left=1,
        ),
        "two layers share bits": Case(
            BITS
            + "d = Conv(b, w)\ne = Conv<pads=[1, 1, 1, 1]>(b, v)\nf = MaxPool<kernel_shape=[3, 3]>(e)\ny = Add(d, f)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3), "v": signs(rng, 4, 8, 3, 3)},
            exact=True,
        ),
        "where chooses between floats and bits": Case(
            BITS + "y = Where(c, x, b)", IMAGE, BINARIZE, outputs=("y", "b"), left=2, exact=True
        ),
        # How bits are made.
        "x <= t": Case(
            "c = LessOrEqual(x, t)\nb = Where(c, hi, lo)\ny = Conv(b, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3)},
            kinds=["elementwise", "binary conv 3x3"],
            exact=True,
        ),
        "not (x > t)": Case(
            "c = Greater(x, t)\nn = Not(c)\nb = Where(n, hi, lo)\ny = Conv(b, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
        ),
        "x == t": Case(
            "c = Equal(x, t)\nb = Where(c, hi, lo)\ny = Conv(b, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
            left=2,
        ),
        "a threshold that is computed": Case(
            "c = Greater(x, z)\nb = Where(c, hi, lo)\ny = Conv(b, w)",
            {**IMAGE, "z": (2, 8, 6, 6)},
            {**BINARIZE, "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
            kinds=["elementwise", "binary conv 3x3"],
        ),
        "a threshold a pixel after a pooling": Case(
            "p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)\nc = Greater(p, t)\nb = Where(c, hi, lo)\n"
            "y = Conv(b, w)",
            IMAGE,
            {**BINARIZE, "t": normal(rng, 1, 8, 3, 3), "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
            left=2,
        ),
        "one channel against many thresholds": Case(
            BITS + "y = Conv(b, w)",
            {"x": (1, 1, 6, 6)},
            {**BINARIZE, "t": normal(rng, 1, 8, 1, 1), "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
            left=2,
        ),
        "branches of more dimensions than the condition": Case(
            "c = Greater(x, t)\ny = Where(c, hi, lo)",
            {"x": (3, 8)},
            {"t": 0.0, "hi": np.ones((1, 1, 1, 1)), "lo": np.zeros((1, 1, 1, 1))},
            exact=True,
            left=2,
        ),
        "integers are compared": Case(
            "c = Greater(x, t)\nb = Where(c, hi, lo)\nl = Less(x, t)\ne = Where(l, hi, lo)\nm = Add(b, e)\n"
            "d = Conv(b, w)\ny = Sub(d, m)",
            {"x": ((1, 8, 6, 6), "int32")},
            {**BINARIZE, "t": np.int32(3), "w": signs(rng, 8, 8, 1, 1)},
            exact=True,
            left=4,
        ),
        "integers are chosen": Case(
            "c = Greater(x, t)\nb = Where(c, hi, lo)\ny = Cast<to=1>(b)",
            IMAGE,
            {"t": 0.0, "hi": np.int64(1), "lo": np.int64(0)},
            exact=True,
        ),
        # Padding.
        "a pad of one of the two values, as an output too": Case(
            BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)",
            IMAGE,
            {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": signs(rng, 4, 8, 3, 3)},
            outputs=("y", "p"),
            exact=True,
        ),
        "a pad before a padded convolution": Case(
            BITS + "p = Pad(b, pads, hi)\ny = Conv<pads=[1, 1, 1, 1]>(p, w)",
            IMAGE,
            {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
        ),
        "a pad of channels": Case(
            BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)",
            IMAGE,
            {**BINARIZE, "pads": np.array([0, 1, 1, 1, 0, 2, 1, 1]), "w": signs(rng, 4, 11, 3, 3)},
            exact=True,
        ),
        "{0, 1} padded with 0": Case(
            BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)",
            IMAGE,
            {**BINARIZE, "lo": 0.0, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": signs(rng, 4, 8, 3, 3)},
            kinds=["elementwise", "binary conv 3x3"],
            exact=True,
        ),
        "{0, 1} padded with 1": Case(
            BITS + "p = Pad(b, pads, hi)\ny = Conv(p, w)",
            IMAGE,
            {**BINARIZE, "lo": 0.0, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": signs(rng, 4, 8, 3, 3)},
            kinds=["elementwise", "binary conv 3x3"],
            exact=True,
        ),
        "{0, 1} padded with -1 is no two-valued tensor": Case(
            BITS + "p = Pad(b, pads, m)\ny = Conv(p, w)",
            IMAGE,
            {**BINARIZE, "lo": 0.0, "m": -1.0, "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": signs(rng, 4, 8, 3, 3)},
            exact=True,
        ),
        "floats padded with something else": Case(
            "p = Pad(x, pads, v)\ny = Conv(p, w)",
            IMAGE,
            {"v": 0.5, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(rng, 4, 8, 3, 3)},
        ),
        # Two values of weights and activations.
        "{0, 1} times general weights, dense": Case(
            BITS + "y = MatMul(b, w)", {"x": (3, 70)}, {**BINARIZE, "lo": 0.0, "w": two_valued(rng, -0.1, 0.3, 70, 5)}
        ),
        "{0.25, 1} times general weights, dense": Case(
            BITS + "y = MatMul(b, w)", {"x": (3, 70)}, {**BINARIZE, "lo": 0.25, "w": two_valued(rng, -0.1, 0.3, 70, 5)}
        ),
        "general times general, padded with 0": Case(
            BITS + "y = Conv<pads=[1, 2, 0, 1], strides=[1, 2], dilations=[2, 1]>(b, w)",
            {"x": (2, 70, 7, 6)},
            {"t": 0.25, "lo": 0.5, "hi": 2.0, "w": two_valued(rng, -0.1, 0.3, 6, 70, 3, 3)},
        ),
        "general times general in groups": Case(
            BITS + "y = Conv<group=2, pads=[1, 1, 1, 1]>(b, w)",
            {"x": (1, 256, 5, 5)},
            {"t": 0.0, "lo": 0.5, "hi": 2.0, "w": two_valued(rng, -0.1, 0.3, 6, 128, 3, 3)},
        ),
        "channels of zeros, and of one value": Case(
            BITS + "y = Conv<pads=[1, 1, 1, 1]>(b, w)",
            {"x": (2, 70, 6, 6)},
            {
                **BINARIZE,
                "w": two_valued(rng, -0.1, 0.3, 6, 70, 3, 3) * np.array([0, 1, 1, 1, 0, 1]).reshape(6, 1, 1, 1)
                + np.array([0, 0, 0, 1, 1, 0]).reshape(6, 1, 1, 1),
            },
        ),
        "one filter of ones": Case(
            BITS + "d = Conv<pads=[1, 1, 1, 1]>(b, w)\ny = Mul(d, s)",
            IMAGE,
            {**BINARIZE, "w": np.ones((1, 8, 3, 3)), "s": 0.3},
        ),
        "{0, 1} weights": Case(
            BITS + "y = Conv<pads=[1, 1, 1, 1]>(b, w)",
            {"x": (1, 64, 5, 5)},
            {**BINARIZE, "w": two_valued(rng, 0, 1, 9, 64, 3, 3)},
            exact=True,
        ),
        # Groups.
        "groups that do not fill a word": Case(
            BITS + "y = Conv<group=3, pads=[1, 1, 1, 1]>(b, w)",
            {"x": (2, 99, 5, 5)},
            {**BINARIZE, "w": signs(rng, 15, 33, 3, 3)},
            kinds=["elementwise", "binary conv 3x3, 3 groups"],
            exact=True,
        ),
        "groups of whole words": Case(
            BITS + "y = Conv<group=2>(b, w)",
            {"x": (1, 128, 5, 5)},
            {**BINARIZE, "w": signs(rng, 24, 64, 3, 3)},
            kinds=["elementwise", "binary conv 3x3, 2 groups"],
            exact=True,
        ),
        "depthwise on bits": Case(
            BITS + "y = Conv<group=8, pads=[1, 1, 1, 1]>(b, w)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 8, 1, 3, 3)},
            exact=True,
        ),
        "depthwise with a multiplier": Case(
            BITS + "d = Conv<group=8, pads=[1, 1, 1, 1]>(b, w)\ny = Conv<group=8, strides=[2, 2]>(x, v)",
            IMAGE,
            {**BINARIZE, "w": signs(rng, 16, 1, 3, 3), "v": normal(rng, 16, 1, 3, 3)},
            outputs=("d", "y"),
        ),
        "depthwise on floats": Case(
            "d = Conv<group=8, pads=[1, 1, 1, 1], dilations=[2, 2]>(x, w)\ny = Relu(d)",
            IMAGE,
            {"w": normal(rng, 8, 1, 3, 3)},
        ),
        # Tensors of other ranks.
        "rank 3, general weights and a bias": Case(
            BITS + "d = MatMul(b, w)\ny = Add(d, a)",
            {"x": (2, 3, 20)},
            {**BINARIZE, "w": two_valued(rng, -0.1, 0.3, 20, 5), "a": normal(rng, 5)},
        ),
        "rank 3 to rank 2, then binary": Case(
            "d = MatMul(x, w)\ns = Squeeze(d, axes)\nc = Greater(s, t)\nb = Where(c, hi, lo)\ny = MatMul(b, v)",
            {"x": (2, 7, 20)},
            {**BINARIZE, "w": normal(rng, 20, 1), "axes": np.array([-1]), "v": signs(rng, 7, 5)},
            exact=True,
        ),
        "rank 3, a slope a row": Case(
            "d = MatMul(x, w)\ny = PRelu(d, s)",
            {"x": (2, 7, 20)},
            {"w": normal(rng, 20, 7), "s": np.abs(normal(rng, 7, 1))},
            left=1,
        ),
        "rank 4 times a matrix": Case(
            BITS + "d = MatMul(b, w)\ne = MatMul(x, v)\ny = Add(d, e)",
            {"x": (2, 3, 4, 20)},
            {**BINARIZE, "w": two_valued(rng, -0.1, 0.3, 20, 6), "v": normal(rng, 20, 6)},
        ),
        "rank 1 times a matrix": Case(
            BITS + "y = MatMul(b, w)", {"x": (20,)}, {**BINARIZE, "w": signs(rng, 20, 6)}, exact=True, left=0
        ),
        "rank 5": Case("y = Relu(x)", {"x": (1, 2, 3, 4, 5)}, exact=True),
        "a column of pixels loses its last axis": Case(
            "d = Conv(x, w)\nz = Squeeze(d, axes)\ny = Relu(z)",
            {"x": (1, 8, 6, 1)},
            {"w": normal(rng, 5, 8, 3, 1), "axes": np.array([3])},
            outputs=("y", "z"),
        ),
        "batch norm on rank 3": Case(
            "y = BatchNormalization(x, s, a, m, v)",
            {"x": (2, 7, 7)},
            {"s": normal(rng, 7), "a": normal(rng, 7), "m": normal(rng, 7), "v": np.abs(normal(rng, 7))},
        ),
        "sums over rows of bits": Case(
            BITS + "y = ReduceSum<keepdims=1>(b, last)\nz = ReduceSum<keepdims=1>(b, first)",
            {"x": (2, 3, 4, 5)},
            {**BINARIZE, "last": np.array([-1]), "first": np.array([1])},
            outputs=("y", "z"),
            exact=True,
        ),
        "sums over rows of {0, 1}": Case(
            BITS + "y = ReduceSum<keepdims=1>(b, last)",
            {"x": (2, 70)},
            {**BINARIZE, "lo": 0.0, "last": np.array([-1])},
            exact=True,
        ),
        "a convolution over one axis": Case(
            BITS + "y = Conv(b, w)", {"x": (1, 8, 9)}, {**BINARIZE, "w": signs(rng, 4, 8, 3)}, exact=True
        ),
        # Broadcasts.
        "one value a pixel": Case(
            "d = Conv(x, w)\ne = Mul(d, p)\nf = Mul(v, p)\ny = Sub(f, e)",
            {"x": (3, 8, 6, 6), "p": (3, 1, 4, 4)},
            {"w": normal(rng, 4, 8, 3, 3), "v": normal(rng, 1, 4, 1, 1)},
            left=1,
        ),
        "a pixel times a channel, convolved, pooled and activated": Case(
            "m = Mul(x, v)\nd = Conv(m, w)\np = MaxPool<kernel_shape=[3, 3]>(m)\nr = Relu(m)\nz = Sigmoid(m)\n"
            "e = Add(d, p)\ny = Add(r, z)",
            {"x": (2, 1, 6, 6)},
            {"v": normal(rng, 1, 4, 1, 1), "w": normal(rng, 4, 4, 3, 3)},
            outputs=("y", "e"),
            left=1,
        ),
        "a constant a position": Case(
            "d = Conv(x, w)\ny = Add(m, d)", IMAGE, {"w": normal(rng, 4, 8, 3, 3), "m": normal(rng, 1, 1, 4, 4)}, left=0
        ),
        "one image for the whole batch": Case(
            "d = Conv(x, w)\ny = Add(d, r)",
            {"x": (3, 8, 6, 6), "r": (1, 4, 4, 4)},
            {"w": normal(rng, 4, 8, 3, 3)},
            left=1,
        ),
        "squeeze and excitation": Case(
            "d = Conv(x, w)\ng = GlobalAveragePool(d)\ns = Sigmoid(g)\ny = Mul(d, s)",
            IMAGE,
            {"w": normal(rng, 8, 8, 3, 3)},
        ),
        "constants first": Case(
            "d = Conv(x, w)\ne = Sub(one, d)\nf = Exp(e)\ny = Div(one, f)",
            IMAGE,
            {"w": 0.1 * normal(rng, 4, 8, 3, 3), "one": 1.0},
        ),
        # Graphs with corners.
        "the input is an output": Case("y = Identity(x)\nz = Relu(x)", {"x": (2, 3)}, outputs=("y", "z"), exact=True),
        "an output twice": Case("y = Relu(x)\nz = Identity(y)", {"x": (2, 3)}, outputs=("y", "z"), exact=True),
        "a constant is an output": Case(
            "y = Relu(x)\nz = Identity(k)", {"x": (2, 3)}, {"k": normal(rng, 3)}, ("y", "z"), exact=True
        ),
        "a value and itself": Case(
            "d = Add(x, x)\ne = Conv(d, w)\ny = Mul(e, e)", IMAGE, {"w": normal(rng, 4, 8, 1, 1)}
        ),
        "weights are inputs": Case(
            "v = Relu(w)\np = Pad(x, pads)\ny = Conv(p, v)",
            {"x": (1, 3, 5, 5), "w": (4, 3, 3, 3)},
            {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
            left=1,
        ),
        "float64": Case(
            "v = Cast<to=11>(w)\nd = MatMul(x, v)\nr = Relu(d)\nm = Mul(r, r)\ny = Cast<to=1>(m)",
            {"x": ((2, 5), "float64")},
            {"w": normal(rng, 5, 4)},
            left=4,
        ),
        "windows that end beyond the image": Case(
            "m = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1>(x)\n"
            "a = AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1>(x)\n"
            "n = AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, "
            "count_include_pad=1>(x)\n" + BITS + "p = MaxPool<kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1>(b)\n",
            IMAGE,
            BINARIZE,
            outputs=("m", "a", "n", "p"),
        ),
        "kernels larger than the image": Case(
            BITS
            + "d = Conv<pads=[5, 5, 5, 5]>(b, w)\n"
            + "e = Conv<pads=[4, 4, 4, 4], dilations=[4, 3]>(b, v)\n"
            + "f = Conv<pads=[3, 3, 3, 3]>(x, u)",
            {"x": (1, 20, 3, 4)},
            {
                **BINARIZE,
                "w": two_valued(rng, -0.25, 0.5, 3, 20, 11, 11),
                "v": two_valued(rng, -0.25, 0.5, 3, 20, 3, 3),
                "u": normal(rng, 3, 20, 2, 2),
            },
            outputs=("d", "e", "f"),
        ),
        "thresholds at infinity, and two values that are neighbours": Case(
            BITS + "y = Conv(b, w)\nz = Conv(b, v)",
            {"x": (1, 20, 6, 6)},
            {
                "t": np.repeat(np.float32([np.inf, -np.inf, 0, 0.25]), 5).reshape(20, 1, 1),
                "hi": np.nextafter(np.float32(1), np.float32(2)),
                "lo": 1.0,
                "w": signs(rng, 4, 20, 1, 1),
                "v": 1e30 * signs(rng, 4, 20, 1, 1),
            },
            outputs=("y", "z"),
        ),
        "one input, one output, one weight": Case(
            BITS + "y = MatMul(b, w)", {"x": (1, 1)}, {**BINARIZE, "w": signs(rng, 1, 1)}
        ),
        "operators that TVM's importer writes as loops": Case(
            'v, i = TopK<axis=1>(x, three)\ns = CumSum(x, axis)\nt = Tile(x, twice)\np = Pad<mode="reflect">(x, pads)\n'
            'e = Einsum<equation="nchw,nchw->nhw">(x, x)\ng = GatherND(x, where)\nn = InstanceNormalization(x, a, a)',
            IMAGE,
            {
                "three": np.array([3]),
                "axis": np.int64(1),
                "twice": np.array([1, 2, 1, 1]),
                "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
                "where": np.array([[0, 1], [1, -2]]),
                "a": normal(rng, 8),
            },
            outputs=("v", "i", "s", "t", "p", "e", "g", "n"),
            left=6,
        ),
        "codes as float32 ones": Case(
            "i = ArgMax<axis=1, keepdims=0>(x)\nj = Neg(i)\no = OneHot<axis=1>(i, depth, v)\np = OneHot(j, depth, v)",
            IMAGE,
            {"depth": np.int64(8), "v": np.float32([-0.5, 2])},
            outputs=("o", "p"),
            exact=True,
            left=10,
        ),
        "dilated windows": Case(
            "y = MaxPool<kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 0, 0, 1]>(x)", {"x": (1, 9, 7, 8)}, exact=True
        ),
    }


CASES = cases(np.random.default_rng(0))


@pytest.mark.parametrize("name", every(2, CASES))
def test_small_graph(name: str) -> None:
    case = CASES[name]
    model = small_model(case.text, case.inputs, case.constants, case.outputs)
    report = check(model, exact=case.exact).report
    scheduled = [layer.kind for layer in report.layers if layer.scheduled]
    if case.kinds is not None:
        assert scheduled == case.kinds
    assert sum(not layer.scheduled for layer in report.layers) == case.left, [layer.kind for layer in report.layers]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, slopes and thresholds as after training: none of them neutral, some batch norms falling."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor, lo: float, hi: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (hi - lo) + lo

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                sign = torch.where(draw(module.weight, 0, 1) < 0.25, -1.0, 1.0)
                module.weight.copy_(draw(module.weight, 0.3, 1.5) * sign)
                module.weight[0] = 0  # a channel that batch norm switched off
                module.bias.copy_(draw(module.bias, -0.5, 0.5))
                module.running_mean.copy_(draw(module.running_mean, -1, 1))
                module.running_var.copy_(draw(module.running_var, 0.5, 3))
            elif isinstance(module, nn.PReLU):
                module.weight.copy_(draw(module.weight, -0.3, 0.5))
            elif isinstance(module, Binarize):
                module.threshold.copy_(torch.round(draw(module.threshold, -1, 1) * 4) / 4)
            elif isinstance(module, BinaryLayer) and module.bias is not None:
                module.bias.copy_(draw(module.bias, -1, 1))
    return model.eval()


SEPARATE = TwoValues(per="channel", init="fit")


def every_option() -> nn.Module:
    """Odd channels and sizes, all paddings and their values, groups, dilations, biases, activations after them."""
    return nn.Sequential(
        nn.Conv2d(3, 33, 3, padding=1, bias=True),
        nn.Hardtanh(),
        BinaryConv2d(33, 70, 3, padding=(1, 0, 2, 1), padding_value=-1, bias=True, binarize=Binarize(33, learned=True)),
        nn.PReLU(70),
        BinaryConv2d(70, 66, (3, 2), stride=(2, 1), padding=1, padding_value=1, domain=SEPARATE, binarize=Binarize()),
        nn.BatchNorm2d(66),
        nn.LeakyReLU(0.1),
        BinaryConv2d(66, 40, 3, groups=2, dilation=2, padding="same", domain=SEPARATE, binarize=Binarize(66)),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        BinaryConv2d(40, 24, 1, domain=Signs(), binarize=Binarize(domain=BinaryDomain(0.0, 1.0))),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.ReLU6(),
        BinaryConv2d(24, 35, 3, padding=1, domain=TwoValues(), binarize=Binarize(domain=BinaryDomain(-0.5, 2.0))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        BinaryLinear(35, 19, bias=True, domain=SEPARATE, binarize=Binarize(domain=BinaryDomain(0.0, 1.0))),
        nn.BatchNorm1d(19),
        nn.Linear(19, 7),
    )


TORCH_MODELS = {
    "vgg": (
        lambda: vgg_small(5, image_size=20, stages=((9, 12), (16,)), hidden=(40,), learn_threshold=True),
        (1, 3, 20, 20),
    ),
    "vgg, two values": (lambda: vgg_small(5, image_size=8, stages=((65,), (70,)), domain=SEPARATE), (3, 3, 8, 8)),
    "resnet": (
        lambda: resnet(
            5, image_size=13, widths=(16, 24), blocks=(2, 2), prelu=True, domain=SEPARATE, learn_threshold=True
        ),
        (3, 3, 13, 13),
    ),
    "resnet, imagenet stem": (
        lambda: resnet(5, image_size=33, widths=(64, 128), blocks=(1, 2), stem="imagenet", domain=Signs()),
        (1, 3, 33, 33),
    ),
    "every option": (every_option, (2, 3, 9, 7)),
}


@cache
def torch_model(name: str) -> tuple[nn.Module, onnx.ModelProto]:
    """The module, and its export, which takes longer than the compilation."""
    make, shape = TORCH_MODELS[name]
    with fixed_seed():
        model = randomise(make())
        return model, to_onnx(model, shape)


@pytest.mark.parametrize("name", every(2, TORCH_MODELS))
def test_torch_model(name: str) -> None:
    model, exported = torch_model(name)
    shape = TORCH_MODELS[name][1]
    module = sbnn_tvm.compile(exported, strict=True)
    x = torch.randn(shape).mul(4).round().div(4)
    with torch.no_grad():
        eager = model(x).numpy()
    np.testing.assert_allclose(module.run(x.numpy()), eager, rtol=0, atol=1e-4 * np.abs(eager).max())
    verification = module.verify(x.numpy())
    assert len(verification.layers) >= 4 and not verification.flipped


FOREIGN = {
    "bireal": foreign_models.bireal_net(channels=13, size=15, blocks=3, classes=3, batch=2),
    "bireal, sparse": foreign_models.bireal_net(
        channels=65, size=12, per_channel_threshold=True, symmetric=False, density=0.1, seed=1
    ),
    "sign": foreign_models.sign_net(channels=20, size=7, layers=3, batch=3),
    "vgg": foreign_models.vgg(channels=9, size=12, hidden=33, classes=7, batch=3, per_channel=True),
    "vgg, signs": foreign_models.vgg(channels=70, size=8, seed=2),
    "mlp": foreign_models.mlp(features=70, hidden=(65, 31), batch=5, symmetric=False),
}


@pytest.mark.parametrize("name", every(2, FOREIGN))
def test_foreign_model(name: str) -> None:
    module = check(FOREIGN[name])
    binary = [layer for layer in module.report.linear if layer.binary]
    assert binary and {layer.activations for layer in binary} == ({2} if name == "sign" else {1})


@pytest.mark.parametrize("sign_zero", ["positive", "negative"])
def test_sign_without_zero(sign_zero: str) -> None:
    model = FOREIGN["sign"]
    with pytest.raises(CompileError, match=r"strict=True refuses this model: .*Sign gives"):
        sbnn_tvm.compile(model, sign_zero=sign_zero, strict=True)
    module = sbnn_tvm.compile(model, sign_zero=sign_zero)
    assert sum(layer.binary for layer in module.report.layers) == 3
    assert "Sign gives" in module.report.notes[0]
    # Without an exact zero before a Sign the two meanings agree.
    module.verify()


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_instruction_sets_of_this_machine(target: str) -> None:
    if not resolve(target).native:
        pytest.skip(f"this machine cannot run {target}")
    check(FOREIGN["vgg"], target)
    sbnn_tvm.compile(torch_model("every option")[1], target).verify()


def test_threads_do_not_change_the_result(tmp_path: Path, rng: np.random.Generator) -> None:
    with patch.multiple(loops, GRAIN=64, MODEL_GRAINS=1):  # most loops are parallel, as in a large network
        module = sbnn_tvm.compile(torch_model("resnet, imagenet stem")[1])
        path = module.export(tmp_path / "model.so")
    x = rng.standard_normal((1, 3, 33, 33)).astype(np.float32)
    libraries = [sbnn_tvm.load(path, num_threads=threads) for threads in (1, 2, 1)]
    assert libraries[1].metadata.parallel
    results = [library.run(x) for library in libraries]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("target", ["native", "arm"])
def test_a_model_without_kernels(target: str, tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([3, 2]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "reshape",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    module = sbnn_tvm.compile(model, target)
    module.verify()
    assert module.export(tmp_path / "model.so").stat().st_size
