"""Einsum of two operands becomes a product of matrices, with the sums that numpy computes."""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.imports import check, operators
from tests.support.random_arrays import normal


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, str, str]:
    """The letters of two operands and of the result, so that each is in two of them at least."""
    letters = ascii_lowercase[: draw(st.integers(1, 5))]
    where = [draw(st.sampled_from(["batch", "rows", "columns", "summed"])) for _ in letters]
    groups = {name: [c for c, each in zip(letters, where, strict=True) if each == name] for name in set(where)}

    def mixed(*names: str) -> str:
        return "".join(draw(st.permutations([c for name in names for c in groups.get(name, [])])))

    out = mixed("batch", "rows", "columns")
    return mixed("batch", "rows", "summed"), mixed("batch", "columns", "summed"), out


@settings(max_examples=12, deadline=None)
@given(equation=equations(), constant=st.sampled_from([None, 0, 1]), seed=st.integers(0, 9))
def test_products(equation: tuple[str, str, str], constant: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {letter: int(rng.integers(1, 4)) for letter in ascii_lowercase}
    left, right, out = equation
    arrays = {name: normal(rng, *(sizes[c] for c in term)) for name, term in (("a", left), ("b", right)) if term or out}
    if len(arrays) < 2:
        return
    constants = {name: arrays.pop(name) for name in (["a", "b"][constant],)} if constant is not None else {}
    check(f'y = Einsum<equation = "{left},{right}->{out}">(a, b)', arrays, constants)


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("bqhd,bkhd->bhqk", True),
        ("ij,jk", True),
        (" ij , kj -> ik ", True),
        ("ij,ij->i", False),
        ("...j,jk->...k", False),
    ],
)
def test_which_become_products(equation: str, expected: bool, rng: np.random.Generator) -> None:
    shapes = [(3,) * sum(c.isalpha() or c == "." for c in term) for term in equation.split("->")[0].split(",")]
    shapes = [(3, 3) if len(shape) == 4 and "." in equation else shape for shape in shapes]
    imported = check(
        f'y = Einsum<equation = "{equation}">(a, b)',
        {name: normal(rng, *s) for name, s in zip("ab", shapes, strict=True)},
    )
    assert ("matmul" in operators(imported)) == expected
