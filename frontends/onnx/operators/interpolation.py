"""Resizing along one axis as a linear map: which inputs each output reads, and with which weights.

Sources: the definition of ONNX's Resize, and onnxruntime, which computes the coordinates in float32. The latter decides
where a coordinate lies halfway between two inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

F32 = np.float32


@dataclass(frozen=True, eq=False)
class AxisMap:
    """``y[i] = sum over j of weights[i, j] * x[indices[i, j]]``, along one axis.

    Attributes:
        indices: The inputs that each output reads: int64 [outputs, taps], within the axis.
        weights: Their weights: float32 [outputs, taps], or int32 as ``fixed_point`` makes them.
        outside: Which outputs lie outside the region of interest, and take a fixed value: bool [outputs].
    """

    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray

    @property
    def is_selection(self) -> bool:
        """Whether every output is a copy of one input."""
        return self.indices.shape[1] == 1 and bool(np.all(self.weights == 1))

    def fixed_point(self, bits: int) -> AxisMap:
        """The same map, times ``2**bits``, in integers."""
        return replace(self, weights=np.rint(self.weights.astype(np.float64) * 2**bits).astype(np.int32))

    def is_identity(self, size: int) -> bool:
        """Whether the outputs are the ``size`` inputs."""
        same = self.is_selection and np.array_equal(self.indices[:, 0], np.arange(size))
        return same and not self.outside.any()


def coordinates(
    mode: str, inputs: int, outputs: int, scale: float, length: float, roi: tuple[float, float]
) -> np.ndarray:
    """The position of each output on the input's axis.

    Args:
        mode: ONNX's ``coordinate_transformation_mode``.
        inputs, outputs: Sizes.
        scale: The given scale, or the ratio of the sizes.
        length: The resized length; unlike ``outputs`` it may be no whole number.
        roi: Start and end of the region of interest, as fractions of the axis.

    Returns:
        float32 [outputs].

    Raises:
        ValueError: If the mode is not known.
    """
    i, s, half = np.arange(outputs, dtype=F32), F32(scale), F32(0.5)
    start, end, last = F32(roi[0]), F32(roi[1]), F32(inputs - 1)
    half_pixel = (i + half) / s - half
    match mode:
        case "half_pixel":
            return half_pixel
        case "half_pixel_symmetric":
            return F32(inputs) / F32(2) + (i + half - F32(outputs) / F32(2)) / s - half
        case "pytorch_half_pixel":
            return half_pixel if outputs > 1 else np.zeros(1, F32)
        case "tf_half_pixel_for_nn":
            return (i + half) / s
        case "asymmetric":
            return i / s
        case "align_corners":
            return np.zeros(outputs, F32) if length == 1 else i * last / F32(length - 1)
        case "tf_crop_and_resize":
            if outputs == 1:
                return np.array([half * (start + end) * last], F32)
            return start * last + i * (end - start) * last / F32(outputs - 1)
    raise ValueError(mode)


def nearest(x: np.ndarray, rounding: str, inputs: int, shrinks: bool) -> AxisMap:
    """The nearest input, by ONNX's ``nearest_mode``; ``"simple"`` is the rule of operator sets before 11.

    Raises:
        ValueError: If the mode is not known.
    """
    x = x.astype(np.float64)  # in which adding 0.5 is exact
    match rounding:
        case "round_prefer_floor":
            index = np.ceil(x - 0.5)
        case "round_prefer_ceil":
            index = np.floor(x + 0.5)
        case "floor":
            index = np.floor(x)
        case "ceil":
            index = np.ceil(x)
        case "simple":
            index = np.ceil(x) if shrinks else np.floor(x)
        case _:
            raise ValueError(rounding)
    indices = np.clip(index.astype(np.int64), 0, inputs - 1)[:, None]
    return AxisMap(indices, np.ones(indices.shape, F32), np.zeros(len(x), bool))


def weighted(
    x: np.ndarray, inputs: int, cubic: float | None, scale: float = 1.0, exclude_outside: bool = False
) -> AxisMap:
    """Linear or cubic interpolation.

    Args:
        x: Positions: float32 [outputs].
        inputs: The size of the axis; inputs beyond its ends are those at its ends.
        cubic: The coefficient a of cubic interpolation, None for linear.
        scale: Below 1, the filter is wider by its inverse, against aliasing.
        exclude_outside: Inputs beyond the ends get no weight; the others sum to 1.
    """
    scale = min(scale, 1.0)
    if cubic is None and scale == 1 and not exclude_outside:
        x = np.clip(x, 0, inputs - 1)
    reach = 1 if cubic is None else 2
    first = int(np.floor(-reach / scale)) + 1
    offsets = np.arange(first, 2 - first)
    whole = np.floor(x).astype(np.int64)
    fraction = (x - whole.astype(F32)).astype(np.float64)
    # a position on an input counts as the end of the interval before it, as in ONNX's reference
    whole, fraction = np.where(fraction == 0, whole - 1, whole), np.where(fraction == 0, 1.0, fraction)
    distance = np.abs(offsets - fraction[:, None]) * scale
    weights = np.clip(1 - distance, 0, None) if cubic is None else _cubic(distance, cubic)
    if scale < 1:
        weights /= weights.sum(axis=1, keepdims=True)
    indices = whole[:, None] + offsets
    if exclude_outside:
        weights = np.where((indices >= 0) & (indices < inputs), weights, 0)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total == 0, 1, total)
    used = np.any(weights != 0, axis=0)
    indices = np.clip(indices[:, used], 0, inputs - 1)
    return AxisMap(indices, weights[:, used].astype(F32), np.zeros(len(x), bool))


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
