"""A file that is exported again under the same name is a new model, also to a process that has loaded the old one."""

import numpy as np

import sbnn_tvm
from tests.support import foreign_models


def test_a_new_library_under_an_old_name(tmp_path, rng):
    path = tmp_path / "model.so"
    x = rng.standard_normal((1, 64)).astype(np.float32)
    first, second = (sbnn_tvm.compile(foreign_models.mlp(seed=seed)) for seed in (0, 1))
    old = sbnn_tvm.load(first.export(path))
    expected = old.run(x)
    new = sbnn_tvm.load(second.export(path))
    np.testing.assert_array_equal(new.run(x), second.run(x))
    np.testing.assert_array_equal(old.run(x), expected)
    assert not np.array_equal(new.run(x), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["model.so"]
