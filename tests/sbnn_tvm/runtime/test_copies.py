"""copy, deepcopy and pickle of a loaded model."""

import copy
import pickle

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.errors import LibraryError
from sbnn_tvm.runtime.metadata import RUNTIMES
from tests.support import foreign_models


@pytest.fixture(scope="module")
def compiled():
    return [sbnn_tvm.compile(foreign_models.mlp(seed=seed)) for seed in (0, 1)]


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture
def image(rng):
    return rng.standard_normal((1, 64)).astype(np.float32)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_run_by_themselves(compiled, image, tmp_path, runtime, duplicate):
    model = sbnn_tvm.load(compiled[0].export(tmp_path / "model.so", runtime), num_threads=2)
    expected, threads = model.run(image), model.num_threads
    other = duplicate(model)
    assert other is not model
    other.num_threads = 1
    assert model.num_threads == threads
    del model
    np.testing.assert_array_equal(other.run(image), expected)
    assert other.metadata.report == compiled[0].report.to_json()


def test_pickle_of_a_relative_path(compiled, image, tmp_path, runtime, monkeypatch):
    compiled[0].export(tmp_path / "model.so", runtime)
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(sbnn_tvm.load("model.so"))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(pickled).run(image), compiled[0].run(image))


def test_a_pickle_whose_file_is_another_model_now(compiled, tmp_path, runtime):
    path = compiled[0].export(tmp_path / "model.so", runtime)
    pickled = pickle.dumps(sbnn_tvm.load(path))
    compiled[1].export(path, runtime)
    with pytest.raises(LibraryError, match=r"model.so has changed since the model was pickled.*load\(\) the new model"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(LibraryError, match=r"there is no file .*model.so"):
        pickle.loads(pickled)
