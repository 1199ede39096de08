"""The values of Sign at 0."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.phases.resolve_signs import SignZero, resolve_signs
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.graph import Graph
from tests.support.passes import imported
from tests.support.small_models import run_oracle, small_model


@pytest.mark.parametrize(("sign_zero", "at_zero"), [("exact", 0), ("positive", 1), ("negative", -1)])
def test_sign(sign_zero: SignZero, at_zero: int) -> None:
    model = small_model("y = Sign(x)", {"x": (1, 5)})
    mod = canonicalize(resolve_signs(imported(model), sign_zero))
    (result,) = run_oracle(mod, [np.float32([[-0.5, -0.0, 0.0, 1e-30, 2]])])
    np.testing.assert_array_equal(result, [[-1, at_zero, at_zero, 1, 1]])
    assert bool(domains(Graph(mod["main"]))) == (sign_zero != "exact")
