"""Views are what chains of numpy's reshapes and transpositions are."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from sbnn_tvm.passes.relax.views import View


def random_shape(rng: np.random.Generator, size: int) -> list[int]:
    """A shape of ``size`` elements, with some axes of extent 1."""
    found = []
    while size > 1:
        found.append(int(rng.choice([extent for extent in range(2, size + 1) if size % extent == 0])))
        size //= found[-1]
    for _ in range(rng.integers(0, 3)):
        found.insert(int(rng.integers(0, len(found) + 1)), 1)
    return found


def chain(rng: np.random.Generator) -> tuple[np.ndarray, View, np.ndarray]:
    """A stored array, a view, and the array that it should read."""
    stored = np.arange(prod(shape := rng.choice([1, 1, 2, 3, 4, 6], size=rng.integers(1, 5)))).reshape(shape)
    view, value = View.identity(tuple(int(extent) for extent in shape)), stored
    for _ in range(rng.integers(1, 6)):
        if rng.random() < 0.5:
            axes = rng.permutation(value.ndim).tolist()
            view, value = view.permuted(axes), value.transpose(axes)
        else:
            new = random_shape(rng, value.size)
            reshaped = view.reshaped(new)
            if reshaped is not None:
                view, value = reshaped, value.reshape(new)
    return stored, view, value


@pytest.fixture(params=range(25))
def drawn(request):
    return np.random.default_rng(request.param)


def test_a_view_is_the_chain_that_it_was_made_of(drawn):
    stored, view, value = chain(drawn)
    np.testing.assert_array_equal(view.read(stored), value)
    np.testing.assert_array_equal(view.store(value), stored)
    assert view.is_reshape == np.array_equal(value.reshape(-1), stored.reshape(-1))
    cut, axes = view.steps()
    np.testing.assert_array_equal(stored.reshape(cut).transpose(axes).reshape(view.shape), value)
    assert view.inverse().inverse() == view
    assert view.then(view.inverse()) == View.identity(stored.shape)


def test_constants_broadcast_to_the_stored_tensor_as_to_the_value(drawn):
    stored, view, value = chain(drawn)
    shape = tuple(extent if drawn.random() < 0.5 else 1 for extent in value.shape)
    constant = drawn.integers(0, 100, shape)
    wanted = view.store(value + constant)
    np.testing.assert_array_equal(stored + view.store_broadcast(constant), wanted)
    if (narrow := view.broadcast(shape)) is not None:
        np.testing.assert_array_equal(stored + narrow.store(constant), wanted)


def test_resized_axes_stay_where_they_are(drawn):
    stored, view, value = chain(drawn)
    extents = {axis: int(drawn.choice([1, 2, 5])) for axis in range(value.ndim) if drawn.random() < 0.5}
    resized = view.resized(extents)
    if resized is None:
        assert any(view.stored_axis(axis) is None for axis in extents)
        return
    for axis, extent in extents.items():
        place = view.stored_axis(axis)
        value = np.take(value, np.arange(extent) % value.shape[axis], axis)
        stored = np.take(stored, np.arange(extent) % stored.shape[place], place)
    np.testing.assert_array_equal(resized.read(stored), value)


def test_a_permutation_of_axes_needs_no_reshape():
    view = View.identity((1, 8, 3, 1)).permuted([0, 2, 3, 1])
    cut, axes = view.steps()
    assert cut == view.stored and [cut[axis] for axis in axes] == list(view.shape)


def test_axes_of_one_pixel_make_a_permutation_a_reshape():
    assert View.identity((4, 8, 1, 1)).permuted([0, 2, 3, 1]).is_reshape
    assert not View.identity((4, 8, 2, 1)).permuted([0, 2, 3, 1]).is_reshape


def test_a_reshape_that_cuts_elsewhere_is_no_view():
    assert View.identity((2, 3)).reshaped((3, 2)) is None
    assert View.identity((2, 3)).reshaped((6,)) is not None
