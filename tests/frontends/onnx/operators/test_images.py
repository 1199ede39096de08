"""Rearrangements of pixels, samples at positions, regions, against onnxruntime."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import X, build, check, run_imported
from tests.support.random_arrays import normal

REGIONS = np.float32([[0, 0, 4, 4], [1, 1, 3, 5], [-1, -1, 7, 7], [2, 2, 2, 2.5], [3, 1, 1, 3], [0.2, 0.7, 5.9, 4.1]])
SAMPLES = np.int64([0, 1, 0, 1, 1, 0])


def test_blocks_and_crops(rng: np.random.Generator) -> None:
    check(
        """
        depth = SpaceToDepth<blocksize = 2>(x)
        space = DepthToSpace<blocksize = 2>(d)
        space_crd = DepthToSpace<blocksize = 2, mode = "CRD">(d)
        cropped = CenterCropPad(x, smaller)
        padded = CenterCropPad<axes = [-1, 1]>(x, mixed)
        """,
        {"x": normal(rng, 2, 3, 6, 8), "d": normal(rng, 2, 12, 3, 5)},
        {"smaller": np.int64([1, 3, 5, 5]), "mixed": np.int64([5, 6])},
        exact=True,
    )


def test_space_to_depth_by_channels_which_onnxruntime_lacks(rng: np.random.Generator) -> None:
    inputs = {"x": normal(rng, 2, 3, 6, 8)}
    model = build('y = SpaceToDepth<blocksize = 2, mode = "CRD">(x)', inputs, version=28)
    (got,) = run_imported(import_onnx(model), inputs)
    np.testing.assert_array_equal(got, ReferenceEvaluator(model).run(None, inputs)[0])


def test_columns_to_images(rng: np.random.Generator) -> None:
    check(
        """
        plain = Col2Im(a, image, block)
        strided = Col2Im<strides = [2, 1], pads = [1, 0, 0, 2]>(b, image, block)
        dilated = Col2Im<dilations = [2, 3], pads = [1, 1, 1, 1]>(c, image, block)
        line = Col2Im<strides = [2], pads = [1, 1]>(d, image1, block1)
        """,
        {
            "a": normal(rng, 2, 12, 20),
            "b": normal(rng, 1, 6, 21),
            "c": normal(rng, 1, 12, 15),
            "d": normal(rng, 1, 6, 4),
        },
        {
            "image": np.int64([5, 7]),
            "block": np.int64([2, 3]),
            "image1": np.int64([7]),
            "block1": np.int64([3]),
        },
    )


def test_grids_of_positions(rng: np.random.Generator) -> None:
    lines = [
        f"{name}_{corners} = AffineGrid<align_corners = {corners}>({theta}, {name})"
        for (theta, name), corners in product((("t2", "s4"), ("t2", "s1"), ("t3", "s5")), (0, 1))
    ]
    check(
        "\n".join(lines),
        {"t2": normal(rng, 2, 2, 3), "t3": normal(rng, 2, 3, 4)},
        {"s4": np.int64([2, 3, 4, 5]), "s1": np.int64([2, 3, 1, 5]), "s5": np.int64([2, 3, 2, 3, 4])},
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_samples_at_positions(padding: str, rng: np.random.Generator) -> None:
    plane = rng.uniform(-1.7, 1.7, (2, 4, 3, 2)).astype(np.float32)
    plane[0, 0] = [[-1, 1], [0, 0], [1, 1]]
    inputs = {
        "x": normal(rng, 2, 3, 5, 6),
        "g": plane,
        "v": normal(rng, 2, 3, 4, 5, 6),
        "h": rng.uniform(-1.7, 1.7, (2, 4, 3, 2, 3)).astype(np.float32),
    }
    lines = [
        f'y{index} = GridSample<mode = "{mode}", padding_mode = "{padding}", align_corners = {corners}>({data})'
        for index, (mode, corners, data) in enumerate(product(("linear", "nearest", "cubic"), (0, 1), ("x, g", "v, h")))
        if mode != "cubic" or (data == "x, g" and padding != "reflection")  # which TVM compiles for long
    ]
    check("\n".join(lines), inputs)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_positions_that_are_no_numbers_read_no_other_memory(padding: str, rng: np.random.Generator) -> None:
    grid = np.full((1, 2, 2, 2), np.nan, np.float32)
    grid[0, 1] = [[np.inf, -np.inf], [3e38, -3e38]]
    inputs = {"x": normal(rng, 1, 3, 5, 6), "g": grid}
    imported = import_onnx(build(f'y = GridSample<padding_mode = "{padding}">(x, g)', inputs))
    assert np.isfinite(run_imported(imported, inputs)[0]).all()


def test_aligned_regions(rng: np.random.Generator) -> None:
    lines = [
        f'{mode}_{transformation}_{ratio} = RoiAlign<mode = "{mode}", sampling_ratio = {ratio}, output_height = 2, '
        f'output_width = 3, spatial_scale = 0.9, coordinate_transformation_mode = "{transformation}">(x, r, b)'
        for mode, transformation, ratio in product(("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2))
        if mode == "avg" or ratio
    ]
    lines.append("pooled = MaxRoiPool<pooled_shape = [2, 3], spatial_scale = 0.9>(x, q)")
    regions = np.concatenate([SAMPLES[:, None].astype(np.float32), REGIONS], axis=1)
    inputs = {"x": normal(rng, 2, 3, 5, 6), "r": REGIONS, "b": SAMPLES, "q": regions}
    check("\n".join(lines), inputs)


def test_regions_of_old_operator_sets_begin_at_corners(rng: np.random.Generator) -> None:
    inputs = {"x": normal(rng, 2, 3, 5, 6), "r": REGIONS, "b": SAMPLES}
    check("y = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2>(x, r, b)", inputs, version=10)


def test_deformable_convolutions(rng: np.random.Generator) -> None:
    check(
        """
        plain = DeformConv(x, w, o)
        masked = DeformConv<pads = [1, 0, 1, 1], strides = [2, 1], dilations = [1, 2]>(x, w, o2, b, m2)
        grouped = DeformConv<group = 2, offset_group = 2>(x, wg, og)
        """,
        {
            "x": normal(rng, 2, 4, 5, 6),
            "o": normal(rng, 2, 12, 4, 4) * 2,
            "o2": normal(rng, 2, 12, 3, 3),
            "m2": normal(rng, 2, 6, 3, 3),
            "og": normal(rng, 2, 24, 4, 4),
        },
        {"w": normal(rng, 3, 4, 2, 3), "b": normal(rng, 3), "wg": normal(rng, 6, 2, 2, 3)},
        version=19,
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("y = SpaceToDepth<blocksize = 4>(x)", "blocks of 4 x 4 do not divide"),
        ("y = DepthToSpace<blocksize = 3>(x)", "has 4 channels"),
        ('y = DepthToSpace<blocksize = 2, mode = "ABC">(x)', "mode 'ABC'"),
        ('y = GridSample<mode = "area">(x, g)', "unknown mode 'area'"),
        ("y = NonMaxSuppression(s, s)", "shape depends on the data"),
        ('y = RoiAlign<mode = "max">(x, r, b)', "sampling_ratio 0"),
        ("y = DeformConv(x, w, x)", r"has offsets of shape \[2, 4, 7, 9\]"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    inputs = {"x": X, "g": X[..., :2], "r": REGIONS, "b": SAMPLES, "s": X[0], "w": X[:2, :, :2, :2]}
    used = {name: value for name, value in inputs.items() if name in text.split("(")[-1]}
    model = build(text, used, outputs=["y"])
    model.graph.output[0].type.tensor_type.elem_type = 1
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
