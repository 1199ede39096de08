"""A file that is exported again under the same name is a new model, also to a process that has loaded the old one."""

import numpy as np
import pytest

import sbnn_tvm
from tests.support import foreign_models
from tests.support.tiny_model import RUNTIMES


@pytest.fixture(scope="module")
def compiled():
    return [sbnn_tvm.compile(foreign_models.mlp(seed=seed)) for seed in (0, 1)]


@pytest.mark.parametrize("runtimes", [(first, second) for first in RUNTIMES for second in RUNTIMES], ids="-".join)
def test_a_new_library_under_an_old_name(compiled, tmp_path, rng, runtimes):
    path = tmp_path / "model.so"
    x = rng.standard_normal((1, 64)).astype(np.float32)
    first, second = compiled
    old = sbnn_tvm.load(first.export(path, runtimes[0]))
    expected = old.run(x)
    new = sbnn_tvm.load(second.export(path, runtimes[1]))
    np.testing.assert_array_equal(new.run(x), second.run(x))
    np.testing.assert_array_equal(old.run(x), expected)
    assert not np.array_equal(new.run(x), expected)
    assert {file.name for file in tmp_path.iterdir()} - {"foreign.h"} == {"model.so"}
