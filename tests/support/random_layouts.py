"""Random models that transpose, reshape, join and cut tensors between layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from tests.support.small_models import small_model

Shape = tuple[int, ...]
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_MOST_ELEMENTS = 600


class RandomLayouts:
    """Draws one model.

    Attributes:
        model: The model. It returns all values that no node of it reads.
    """

    def __init__(self, rng: np.random.Generator, nodes: int = 25) -> None:
        self._rng = rng
        self._lines: list[str] = []
        self._constants: dict[str, np.ndarray] = {}
        self._values: dict[str, Shape] = {}
        batch, height, width, channels = (int(rng.choice(sizes)) for sizes in ((1, 2), (1, 3, 4), (1, 3, 4), (2, 3, 4)))
        inputs = {"x": (batch, height, width, channels), "z": (batch, channels, height, width)}
        self._values |= inputs
        while len(self._lines) < nodes:
            self._rng.choice(np.array(self._operators, dtype=object))()
        read = {name for line in self._lines for name in re.findall(r"\w+", line.split(" = ")[1])}
        ends = [name for name in self._values if name not in read and name not in inputs]
        outputs = dict.fromkeys([*ends, str(rng.choice([name for name in self._values if name not in inputs]))])
        self.model: onnx.ModelProto = small_model("\n".join(self._lines), inputs, self._constants, list(outputs))

    @property
    def _operators(self) -> list[Callable[[], None]]:
        return [
            *[self._transpose] * 6, *[self._unary] * 3, *[self._with_constant] * 2, *[self._binary] * 3,
            self._broadcast, self._chosen, self._pad, self._pool, *[self._conv] * 2, *[self._concat] * 2, self._slice,
            self._gather, self._split, self._reduce, self._arg_max, self._softmax, *[self._reshape] * 2,
            *[self._dense] * 2, self._prelu,
        ]  # fmt: skip

    def _pick(self, fits: Callable[[Shape], bool] = lambda shape: True) -> tuple[str, Shape] | None:
        """A value, the newer the likelier."""
        found = [name for name, shape in self._values.items() if fits(shape)][-8:]
        if not found:
            return None
        name = str(self._rng.choice(found))
        return name, self._values[name]

    def _add(self, text: str, shape: Shape) -> None:
        if prod(shape) > _MOST_ELEMENTS:
            return
        name = f"v{len(self._lines)}"
        self._lines.append(f"{name} = {text}")
        self._values[name] = shape

    def _constant(self, array: object) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = np.asarray(array)
        return name

    def _quarters(self, *shape: int) -> np.ndarray:
        return np.round(self._rng.standard_normal(shape) * 2) / 4

    def _axis(self, shape: Shape) -> int:
        return int(self._rng.integers(0, len(shape)))

    def _transpose(self) -> None:
        name, shape = self._pick() or ("", ())
        if len(shape) == 4 and self._rng.random() < 0.8:
            axes: Shape = _CHANNELS_LAST if self._rng.random() < 0.5 else _CHANNELS_FIRST
        else:
            axes = tuple(self._rng.permutation(len(shape)).tolist())
        self._add(f"Transpose<perm={list(axes)}>({name})", tuple(shape[axis] for axis in axes))

    def _unary(self) -> None:
        name, shape = self._pick() or ("", ())
        self._add(f"{self._rng.choice(['Relu', 'Neg', 'Abs', 'Sign', 'LeakyRelu'])}({name})", shape)

    def _with_constant(self) -> None:
        name, shape = self._pick() or ("", ())
        own = [extent if self._rng.random() < 0.5 else 1 for extent in shape][self._axis(shape) :]
        self._add(f"{self._rng.choice(['Add', 'Mul', 'Max'])}({name}, {self._constant(self._quarters(*own))})", shape)

    def _binary(self) -> None:
        name, shape = self._pick() or ("", ())
        other, _ = self._pick(lambda each: each == shape) or ("", ())
        self._add(f"{self._rng.choice(['Add', 'Sub', 'Min'])}({name}, {other})", shape)

    def _broadcast(self) -> None:
        name, shape = self._pick() or ("", ())
        fits = self._pick(
            lambda each: len(each) <= len(shape) and each != shape
            and all(a in (1, b) for a, b in zip(each[::-1], shape[::-1], strict=False))
        )  # fmt: skip
        if fits is not None:
            self._add(f"Add({name}, {fits[0]})", shape)

    def _chosen(self) -> None:
        name, shape = self._pick() or ("", ())
        other, _ = self._pick(lambda each: each == shape) or ("", ())
        condition = f"v{len(self._lines)}"
        self._lines.append(f"{condition} = Greater({name}, {self._constant(self._quarters())})")
        self._add(f"Where({condition}, {name}, {other})", shape)

    def _pad(self) -> None:
        name, shape = self._pick() or ("", ())
        before, after = self._rng.integers(0, 2, len(shape)).tolist(), self._rng.integers(0, 2, len(shape)).tolist()
        mode = str(self._rng.choice(["constant", "edge"]))
        widths = self._constant(np.array([*before, *after], np.int64))
        padded = tuple(extent + a + b for extent, a, b in zip(shape, before, after, strict=True))
        self._add(f'Pad<mode="{mode}">({name}, {widths})', padded)

    def _pool(self) -> None:
        name, shape = self._pick(lambda each: len(each) == 4 and min(each[2:]) > 1) or ("", ())
        if name:
            kind = self._rng.choice(["MaxPool", "AveragePool"])
            self._add(f"{kind}<kernel_shape=[2, 2]>({name})", (*shape[:2], shape[2] - 1, shape[3] - 1))

    def _conv(self) -> None:
        name, shape = self._pick(lambda each: len(each) == 4) or ("", ())
        if name:
            weight = self._constant(self._quarters(3, shape[1], 1, 1))
            self._add(f"Conv({name}, {weight})", (shape[0], 3, *shape[2:]))

    def _concat(self) -> None:
        name, shape = self._pick() or ("", ())
        axis = self._axis(shape)
        rest = shape[:axis] + shape[axis + 1 :]
        other, more = self._pick(
            lambda each: len(each) == len(shape) and each[:axis] + each[axis + 1 :] == rest
        ) or ("", ())  # fmt: skip
        joined = (*shape[:axis], shape[axis] + more[axis], *shape[axis + 1 :])
        self._add(f"Concat<axis={axis}>({name}, {other})", joined)

    def _slice(self) -> None:
        name, shape = self._pick(lambda each: max(each) > 1) or ("", ())
        if not name:
            return
        axis = int(np.argmax(shape))
        bounds = [self._constant(np.array([value], np.int64)) for value in (1, shape[axis], axis)]
        self._add(f"Slice({name}, {', '.join(bounds)})", (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :]))

    def _gather(self) -> None:
        name, shape = self._pick() or ("", ())
        axis = self._axis(shape)
        picks = self._constant(self._rng.integers(0, shape[axis], 2))
        self._add(f"Gather<axis={axis}>({name}, {picks})", (*shape[:axis], 2, *shape[axis + 1 :]))

    def _split(self) -> None:
        name, shape = self._pick(lambda each: any(extent % 2 == 0 for extent in each)) or ("", ())
        if not name:
            return
        axis = next(i for i, extent in enumerate(shape) if extent % 2 == 0)
        half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        first, second = f"v{len(self._lines)}", f"v{len(self._lines)}_b"
        self._lines.append(f"{first}, {second} = Split<axis={axis}, num_outputs=2>({name})")
        self._values |= {first: half, second: half}

    def _reduce(self) -> None:
        name, shape = self._pick(lambda each: len(each) > 2) or ("", ())
        if not name:
            return
        axes = sorted(self._rng.choice(len(shape), 2, replace=False).tolist())
        keep = int(self._rng.integers(0, 2))
        kind = self._rng.choice(["ReduceMean", "ReduceMax", "ReduceSum"])
        kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape) if keep or axis not in axes)
        self._add(f"{kind}<keepdims={keep}>({name}, {self._constant(np.array(axes, np.int64))})", kept)

    def _arg_max(self) -> None:
        name, shape = self._pick(lambda each: len(each) > 2) or ("", ())
        if not name:
            return
        axis = self._axis(shape)
        position = f"v{len(self._lines)}"
        self._lines.append(f"{position} = ArgMax<axis={axis}, keepdims=0>({name})")
        self._add(f"Cast<to=1>({position})", shape[:axis] + shape[axis + 1 :])

    def _softmax(self) -> None:
        name, shape = self._pick() or ("", ())
        self._add(f"Softmax<axis={self._axis(shape)}>({name})", shape)

    def _prelu(self) -> None:
        name, shape = self._pick(lambda each: len(each) > 1) or ("", ())
        if name:
            slope = self._constant(self._quarters(shape[1], *[1] * (len(shape) - 2)))
            self._add(f"PRelu({name}, {slope})", shape)

    def _reshape(self) -> None:
        name, shape = self._pick() or ("", ())
        place = self._axis(shape)
        merged = (*shape[:place], prod(shape[place : place + 2]), *shape[place + 2 :])
        flat = (shape[0], prod(shape[1:]))
        longer = (*shape[:place], 1, *shape[place:])
        shorter = tuple(extent for extent in shape if extent > 1) or (1,)
        cut = (*shape[:place], 2, shape[place] // 2, *shape[place + 1 :]) if shape[place] % 2 == 0 else merged
        choices = [each for each in (merged, flat, longer, shorter, cut) if 1 < len(each) < 6]
        if choices:
            new = choices[int(self._rng.integers(0, len(choices)))]
            self._add(f"Reshape({name}, {self._constant(np.array(new, np.int64))})", new)

    def _dense(self) -> None:
        name, shape = self._pick(lambda each: len(each) > 1) or ("", ())
        if name:
            self._add(f"MatMul({name}, {self._constant(self._quarters(shape[-1], 3))})", (*shape[:-1], 3))
