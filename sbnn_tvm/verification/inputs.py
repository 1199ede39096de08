"""Draw inputs that test a model: the whole range of each type, values exactly at thresholds, at ties and at zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..errors import InputError
from ..runtime.inputs import random_inputs
from ..runtime.metadata import TensorSpec
from .decision_points import decision_points
from .legal_ranges import legal_ranges
from .reference import Reference

_AT_DECISIONS, _AT_ZERO, _LARGE = 1 / 8, 1 / 32, 1 / 64
"""Shares of the elements that are drawn at thresholds and ties, at zero, and far from it."""
_LARGE_FACTOR = 8


@dataclass(frozen=True)
class RandomInputs:
    """Inputs to draw at random.

    Attributes:
        samples: How many.
        seed: Seed of the generator.
        denormals: Whether floats may be denormal. The vectors of 32-bit ARM take them for zeros.
    """

    samples: int
    seed: int
    denormals: bool = True

    def draw(self, reference: Reference, specs: Sequence[TensorSpec]) -> DrawnInputs:
        """Decide from the model what to draw for each of its inputs."""
        model = onnx.shape_inference.infer_shapes(reference.graph.model, data_prop=True)
        ranges = legal_ranges(model, specs)
        points = decision_points(reference.graph, specs)
        drawn = DrawnInputs(self, tuple(specs), ranges, points)
        integers = [spec.name for spec in specs if spec.name in ranges]
        if integers:
            try:
                feeds = dict(zip((spec.name for spec in specs), next(iter(drawn)), strict=True))
                reference.run(feeds, [output.name for output in model.graph.output])
            except InputError as error:
                ranges = {**ranges, **{name: (0, 1) for name in integers}}
                note = f"integer inputs were drawn from 0 and 1, since with a wider range {error}"
                return DrawnInputs(self, tuple(specs), ranges, {}, note)
        return drawn


@dataclass(frozen=True, eq=False)
class DrawnInputs:
    """Random inputs of a model; iterating draws the same ones each time.

    Attributes:
        random: How many, and their seed.
        specs: The inputs.
        ranges: By name, the first and last value of integers of 32 and 64 bits.
        points: By name, arrays of values where a decision of the model changes.
        note: What a user should know about them; often empty.
    """

    random: RandomInputs
    specs: tuple[TensorSpec, ...]
    ranges: dict[str, tuple[int, int]]
    points: dict[str, list[np.ndarray]]
    note: str = ""

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        rng = np.random.default_rng(self.random.seed)
        for sample in range(self.random.samples):
            arrays = random_inputs(self.specs, rng, self.ranges)
            yield tuple(self._special(spec, a, rng, sample) for spec, a in zip(self.specs, arrays, strict=True))

    def _special(self, spec: TensorSpec, array: np.ndarray, rng: np.random.Generator, sample: int) -> np.ndarray:
        """Replace a share of the elements by special ones. Far values come after the first sample."""
        if array.dtype.kind == "f":
            info = np.finfo(array.dtype)
            zeros = np.array([0, -0.0, info.smallest_subnormal, -info.smallest_subnormal, info.tiny], array.dtype)
            array = np.where(rng.random(array.shape) < _AT_ZERO, rng.choice(zeros, array.shape), array)
            if sample:
                array = np.where(rng.random(array.shape) < _LARGE, array * array.dtype.type(_LARGE_FACTOR), array)
        for point in self.points.get(spec.name, ()):
            chosen = rng.random(array.shape) < _AT_DECISIONS
            steps = rng.integers(-1, 2, array.shape)
            values = _pick(point, array.shape, rng)
            if array.dtype.kind == "f":
                values = _neighbours(values.astype(array.dtype), steps)
            else:
                whole = np.iinfo(array.dtype)
                first, last = self.ranges.get(spec.name, (int(whole.min), int(whole.max)))
                values = np.clip(np.rint(values) + steps, first, min(last, 2**62))
            array = np.where(chosen, values, array).astype(array.dtype)
        if array.dtype.kind == "f" and not self.random.denormals:
            tiny = np.finfo(array.dtype).tiny
            array = np.where((array != 0) & (np.abs(array) < tiny), np.copysign(tiny, array), array)
        return np.asarray(array, spec.dtype)


def _pick(points: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One of the alternatives along the last axis, for every element of a shape."""
    index = rng.integers(0, points.shape[-1], shape)
    return np.take_along_axis(np.broadcast_to(points, (*shape, points.shape[-1])), index[..., None], -1)[..., 0]


def _neighbours(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The floats that are ``steps`` (-1, 0 or 1) units in the last place from others."""
    away = np.nextafter(values, np.copysign(np.inf, steps).astype(values.dtype))
    return np.where(steps == 0, values, away)
