"""Resize and Upsample against onnxruntime, and against ONNX's definition where the two differ."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import X, build, check, operators, run_imported

TRANSFORMATIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric")
SCALES = {
    "whole": np.float32([1, 1, 2, 3]),
    "up": np.float32([1, 1, 1.7, 1.3]),
    "down": np.float32([1, 1, 0.6, 0.45]),
    "mixed": np.float32([1, 1, 0.3, 1.5]),
}


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales(mode: str) -> None:
    lines = [
        f'y{index} = Resize<mode = "{mode}", coordinate_transformation_mode = "{transformation}">(x, , {scales})'
        for index, (transformation, scales) in enumerate(product(TRANSFORMATIONS, SCALES))
    ]
    if mode == "nearest":  # that pixel lies halfway between two others, where the rounding of this mode decides
        lines = [line for line in lines if "symmetric" not in line or "down" not in line]
    lines.append(f'corners = Resize<mode = "{mode}", coordinate_transformation_mode = "align_corners">(x, , whole)')
    check("\n".join(lines), {"x": X[:1, :2]}, SCALES, version=19)


def test_nearest_modes() -> None:
    lines = [
        f'y{index} = Resize<mode = "nearest", nearest_mode = "{rounding}", '
        f'coordinate_transformation_mode = "{transformation}">(x, , {scales})'
        for index, (rounding, transformation, scales) in enumerate(
            product(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"), ("half_pixel", "asymmetric"), SCALES)
        )
    ]
    imported = check("\n".join(lines), {"x": X[:1, :2]}, SCALES, version=19, exact=True)
    assert set(operators(imported)) == {"take"}


def test_sizes_and_their_policies() -> None:
    lines = [
        f'y{index} = Resize<mode = "{mode}", keep_aspect_ratio_policy = "{policy}", axes = [{axes}], '
        f'coordinate_transformation_mode = "{transformation}">(x, , , {sizes})'
        for index, (mode, policy, axes, transformation, sizes) in enumerate(
            product(
                ("nearest", "linear"),
                ("stretch", "not_larger", "not_smaller"),
                ("2, 3", "3, 2"),
                ("half_pixel", "align_corners"),
                ("larger", "smaller"),
            )
        )
    ]
    sizes = {"larger": np.int64([10, 12]), "smaller": np.int64([5, 4])}
    check("\n".join(lines), {"x": X[:1, :2]}, sizes, version=19)


def test_a_region_of_interest_and_what_lies_outside() -> None:
    lines = [
        f'y{index} = Resize<mode = "{mode}", coordinate_transformation_mode = "tf_crop_and_resize", '
        f"extrapolation_value = 3.5>(x, {roi}, , {sizes})"
        for index, (mode, roi, sizes) in enumerate(
            product(("nearest", "linear", "cubic"), ("inside", "beyond"), ("many", "one"))
        )
    ]
    check(
        "\n".join(lines),
        {"x": X[:1, :2]},
        {
            "inside": np.float32([0, 0, 0.2, 0.3, 1, 1, 0.8, 0.9]),
            "beyond": np.float32([0, 0, -0.2, 0.15, 1, 1, 0.7, 1.3]),
            "many": np.int64([1, 2, 6, 11]),
            "one": np.int64([1, 2, 1, 5]),
        },
        version=19,
    )


def test_antialias_and_exclude_outside() -> None:
    lines = [
        f'y{index} = Resize<mode = "{mode}", antialias = {antialias}, exclude_outside = {exclude}, '
        f"cubic_coeff_a = {a}>(x, , {scales})"
        for index, (mode, antialias, exclude, a, scales) in enumerate(
            product(("linear", "cubic"), (0, 1), (0, 1), (-0.5,), ("up", "mixed"))
        )
        if mode == "cubic" or antialias
    ]
    check("\n".join(lines), {"x": X[:1, :2]}, SCALES, version=19)


def test_integers_halves_and_doubles(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (1, 3, 6, 7))
    inputs = {
        "bytes": image.astype(np.uint8),
        "signed": (image - 128).astype(np.int8),
        "numbers": (image - 100).astype(np.int32),
        "halves": image.astype(np.float16),
    }
    lines = [
        f'{mode}_{name}_{scales} = Resize<mode = "{mode}">({name}, , {scales})'
        for mode, name, scales in product(("nearest", "linear"), inputs, ("mixed",))
    ]
    lines.append('smooth_bytes = Resize<mode = "linear", antialias = 1>(bytes, , mixed)')
    lines.append('cubic_bytes = Resize<mode = "cubic", antialias = 1>(bytes, , mixed)')
    lines.append('cubic_halves = Resize<mode = "cubic">(halves, , mixed)')
    check("\n".join(lines), inputs, {"mixed": SCALES["mixed"]}, version=19)


def test_other_numbers_of_dimensions(rng: np.random.Generator) -> None:
    check(
        """
        line = Resize<mode = "nearest">(l, , s1)
        plane = Resize<mode = "linear">(p, , s2)
        volume = Resize<mode = "linear">(v, , s5)
        volume_nearest = Resize<mode = "nearest">(v, , s5_all)
        channels = Resize<mode = "nearest">(x, , s4)
        channels_linear = Resize<mode = "linear">(x, , s4_channels)
        """,
        {
            "l": rng.standard_normal(7).astype(np.float32),
            "p": rng.standard_normal((4, 7)).astype(np.float32),
            "v": rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32),
            "x": X,
        },
        {
            "s1": np.float32([1.6]),
            "s2": np.float32([1.6, 0.7]),
            "s5": np.float32([1, 1, 2, 0.7, 1.5]),
            "s5_all": np.float32([2, 1.5, 2, 0.7, 1.5]),
            "s4": np.float32([2, 1.5, 1, 0.5]),
            "s4_channels": np.float32([1, 1.5, 1, 1]),
        },
        version=19,
    )


@pytest.mark.parametrize("version", [7, 9, 10, 11, 18])
def test_operator_sets(version: int) -> None:
    inputs, constants = {"x": X[:1, :2]}, dict(SCALES)
    modes = ("nearest", "linear")
    if version == 7:
        lines = [
            f'y{index} = Upsample<mode = "{mode}", scales = [{scales}]>(x)'
            for index, (mode, scales) in enumerate(product(modes, ("1., 1., 2., 3.", "1., 1., 1.7, 1.3")))
        ]
        constants = {}
    elif version == 9:
        lines = [f'{mode}_{s} = Upsample<mode = "{mode}">(x, {s})' for mode, s in product(modes, ("whole", "up"))]
    elif version == 10:
        lines = [f'{mode}_{s} = Resize<mode = "{mode}">(x, {s})' for mode, s in product(modes, ("up", "mixed"))]
    else:
        lines = [f'{mode}_{s} = Resize<mode = "{mode}">(x, none, {s})' for mode, s in product(modes, ("mixed",))]
        lines.append("sized = Resize(x, none, none, sizes)")
        constants |= {"none": np.empty(0, np.float32), "sizes": np.int64([1, 2, 4, 13])}
    if version in (11, 12):
        lines.append('tf = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, none, mixed)')
    used = {name: value for name, value in constants.items() if any(name in line for line in lines)}
    check("\n".join(lines), inputs, used, version=version)


def test_aligned_corners_use_the_given_scale_as_onnx_defines_them() -> None:
    """onnxruntime uses the rounded size instead."""
    text = 'y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , up)'
    model = build(text, {"x": X}, {"up": SCALES["up"]}, version=19)
    (got,) = run_imported(import_onnx(model), {"x": X})
    (want,) = ReferenceEvaluator(model).run(None, {"x": X})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "text, message",
    [
        ('y = Resize<mode = "bicubic">(x, , s)', "unknown mode 'bicubic'"),
        ('y = Resize<coordinate_transformation_mode = "middle">(x, , s)', "coordinate_transformation_mode 'middle'"),
        ('y = Resize<nearest_mode = "up">(x, , s)', "unknown nearest_mode 'up'"),
        ("y = Resize<antialias = 1>(x, , s)", "antialias with mode 'nearest'"),
        ("y = Resize<axes = [2, 2, 3, 0]>(x, , s)", r"has axes \[2, 2, 3, 0\]"),
        ("y = Resize<axes = [2]>(x, , s)", "one number for each of 1 axes"),
        ("y = Resize(x)", "needs either scales or sizes"),
        ("y = Resize(x, , tiny)", "resizes axis 2 from 7 to 0"),
        ("y = Resize(x, , negative)", "expected positive numbers"),
        ("y = Resize(x, , computed)", "needs a constant as input 2"),
        (
            'y = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(x, , s)',
            "region of interest of 0 numbers",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    constants = {
        "s": np.float32([1, 1, 2, 2]),
        "tiny": np.float32([1, 1, 0.1, 1]),
        "negative": np.float32([1, 1, -2, 1]),
    }
    inputs = {"x": X} | ({"computed": constants["s"]} if "computed" in text else {})
    used = {name: value for name, value in constants.items() if name in text.split("(")[-1]}
    model = build(text, inputs, used, version=19)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
