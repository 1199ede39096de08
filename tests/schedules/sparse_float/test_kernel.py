"""The kernels for few float weights against numpy: shapes, instruction sets, kinds of data, epilogues, threads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain, Domain, Levels
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE, BitsOutput, FloatOutput, Program, Ref, Scalar, Step, Tensor
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import pixel_tile, sparse_float_conv2d, sparse_float_dense
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import rich_program
from tests.support.kernel_execution import run, target_for
from tests.support.paths import ROOT
from tests.support.reference.convolution import conv2d

MORE = {
    **SHAPES,
    "several tiles": Conv2dShape(2, 20, 23, 5, 18, (3, 3), (1, 1), (1, 1, 1, 1)),
    "a row in parts": Conv2dShape(1, 2, 500, 3, 7, (1, 3)),
    "two rows a tile": Conv2dShape(1, 5, 170, 2, 3, (3, 3), (1, 1), (1, 1, 1, 1)),
    "one output pixel": Conv2dShape(2, 4, 3, 10, 33, (4, 3)),
    "one pixel, padded": Conv2dShape(1, 2, 2, 40, 20, (5, 5), (3, 3), (1, 2, 2, 1)),
    "more stride than kernel": Conv2dShape(1, 9, 11, 6, 17, (2, 1), (3, 4), (0, 1, 1, 0)),
    "taps outside only": Conv2dShape(1, 1, 1, 4, 5, (3, 3), (1, 1), (3, 3, 3, 3)),
}
DOMAINS: list[Domain | None] = [
    None,
    SIGN,
    BinaryDomain(0.0, 0.75),
    BinaryDomain(-1 - 2**-10, 0.5),  # takes a whole float32
    Levels((-1.5, -0.5, 0.5, 1.5)),
    Levels(tuple(q / 4 for q in range(8))),
]


def sparse_weights(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    """Few of them, in eighths, so that sums are exact; very different numbers a channel, and a channel of none."""
    densities = np.linspace(0, 2 * density, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    values = rng.integers(-24, 25, shape) / 8
    return np.where(rng.random(shape) < densities, values, 0).astype(np.float32)


def data_of(
    rng: np.random.Generator, extent: tuple[int, ...], domain: Domain | None, isa: Isa
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's data, and what it means."""
    if domain is None:
        x = (rng.integers(-8, 9, extent) / 4).astype(np.float32)
        return x, x
    codes = rng.integers(0, 1 << domain.bits, extent)
    return pack_codes(codes, domain.bits, isa), domain.values[codes]


def check_convolution(rng: np.random.Generator, shape: Conv2dShape, name: str, domain: Domain | None) -> None:
    target = target_for(name)
    w = sparse_weights(rng, (shape.out_channels, shape.group_in_channels, *shape.kernel), 0.2)
    data, x = data_of(rng, (shape.batch, shape.height, shape.width, shape.in_channels), domain, target.isa)
    (stored,) = run(sparse_float_conv2d(shape, w, STORE, target.isa, domain), target, data)
    np.testing.assert_array_equal(stored, conv2d(x, w, shape))


@pytest.mark.parametrize("name", MORE)
def test_shapes(name: str, rng: np.random.Generator) -> None:
    check_convolution(rng, MORE[name], "native", DOMAINS[list(MORE).index(name) % 2])


@pytest.mark.parametrize("name", ["native", "x86-64-v3", "x86-64", "arm", "armv7"])
def test_instruction_sets(name: str, rng: np.random.Generator) -> None:
    check_convolution(rng, MORE["channel tails"], name, SIGN)
    check_convolution(rng, MORE["asymmetric"], name, None)


@pytest.mark.parametrize("domain", DOMAINS[2:], ids=str)
def test_codes(domain: Domain, rng: np.random.Generator) -> None:
    check_convolution(rng, MORE["3 odd groups"], "native", domain)
    check_convolution(rng, MORE["one output pixel"], "arm", domain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "domain"),
    [
        (name, domain)
        for domain, other in zip(DOMAINS, itertools.cycle(["x86-64-v3", "x86-64", "armv7"]))
        for name in ("native", "arm", other)
    ],
    ids=str,
)
def test_everything(name: str, domain: Domain | None, rng: np.random.Generator) -> None:
    for shape in MORE.values():
        check_convolution(rng, shape, name, domain)


@pytest.mark.parametrize("name", ["native", "arm"])
@pytest.mark.parametrize("shape", ["channel tails", "one output pixel"])
def test_epilogue(shape: str, name: str, rng: np.random.Generator) -> None:
    layer, target = MORE[shape], target_for(name)
    w = sparse_weights(rng, (layer.out_channels, layer.group_in_channels, *layer.kernel), 0.1)
    data, x = data_of(rng, (layer.batch, layer.height, layer.width, layer.in_channels), SIGN, target.isa)
    program, tensors = rich_program(rng, layer)
    sums = conv2d(x, w, layer).astype(np.float32)
    expected = evaluate(program, sums, tensors, target.isa, layer.border_classes())
    stored = run(sparse_float_conv2d(layer, w, program, target.isa, SIGN), target, data, *tensors)
    for got, want in zip(stored, expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("domain", [None, SIGN, DOMAINS[4]], ids=str)
@pytest.mark.parametrize(("batch", "name"), [(1, "native"), (1, "arm"), (2, "native"), (5, "arm"), (40, "native")])
def test_dense(batch: int, name: str, domain: Domain | None, rng: np.random.Generator) -> None:
    target = target_for(name)
    w = sparse_weights(rng, (37, 131), 0.1)
    data, x = data_of(rng, (batch, 131), domain, target.isa)
    tensor = (rng.integers(-8, 9, (batch, 37)) / 8).astype(np.float32)
    program = Program((Step("add", Tensor(0), Ref(0)),), (FloatOutput(Ref(1)), BitsOutput(Ref(1), Scalar(0.0))))
    expected = evaluate(program, x.astype(np.float64) @ w.T, [tensor], target.isa)
    stored = run(sparse_float_dense(batch, w, program, target.isa, domain), target, data, tensor)
    for got, want in zip(stored, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_no_weights_at_all() -> None:
    target, shape = target_for("native"), Conv2dShape(1, 4, 4, 3, 5, (3, 3), (1, 1), (1, 1, 1, 1))
    kernel = sparse_float_conv2d(shape, np.zeros((5, 3, 3, 3), np.float32), STORE, target.isa)
    (stored,) = run(kernel, target, np.ones((1, 4, 4, 3), np.float32))
    np.testing.assert_array_equal(stored, 0)


def test_constants_take_six_bytes_a_weight() -> None:
    target, shape = target_for("native"), Conv2dShape(1, 12, 12, 256, 256, (3, 3), (1, 1), (1, 1, 1, 1))
    w = np.zeros((256, 256, 3, 3), np.float32)
    w.flat[::100] = 1
    lists = 4 * 257
    assert sparse_float_conv2d(shape, w, STORE, target.isa).constant_bytes == 6 * np.count_nonzero(w) + lists


@pytest.mark.parametrize("shape", MORE.values(), ids=MORE.keys())
def test_tiles_cover_the_output(shape: Conv2dShape) -> None:
    for lanes, most in ((16, 28), (4, 12)):
        tile = pixel_tile(shape, shape.out_width + 2, lanes, most)
        assert 1 <= tile.rows <= shape.out_height and 1 <= tile.columns <= shape.out_width
        assert tile.rows == 1 or tile.columns == shape.out_width
        assert (tile.rows - 1) * (shape.out_width + 2) + tile.columns <= tile.vectors * lanes
        assert tile.vectors <= most


def test_wrong_weights() -> None:
    target = target_for("native")
    with pytest.raises(ValueError, match=r"not \(OC, Cin / groups, kh, kw\) = \(5, 3, 3, 3\)"):
        sparse_float_conv2d(Conv2dShape(1, 4, 4, 3, 5, (3, 3)), np.zeros((5, 3, 3), np.float32), STORE, target.isa)


def test_two_threads() -> None:
    script = (
        "import numpy as np; rng = np.random.default_rng(3); import tests.schedules.sparse_float.test_kernel as tests;"
        "tests.check_convolution(rng, tests.MORE['several tiles'], 'native', tests.SIGN);"
        "tests.check_convolution(rng, tests.Conv2dShape(2, 20, 9, 30, 60, (3, 3), groups=15), 'x86-64-v3', None)"
    )
    environment = {**os.environ, "TVM_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=ROOT)
