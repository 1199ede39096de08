"""The profile of a module, kernel by kernel."""

import sbnn_tvm
from tests.support import foreign_models


def test_the_profile_names_every_layer_and_its_limit():
    module = sbnn_tvm.compile(foreign_models.vgg(channels=32, size=8, hidden=32))
    times = module.profile(seconds=0.001)
    kernels = {layer.name: layer for layer in module.report.layers}
    assert set(kernels) <= {time.layer for time in times}
    for time_ in times:
        assert time_.seconds > 0 and time_.share > 0 and time_.bytes > 0
        layer = kernels.get(time_.layer)
        if layer is not None and layer.macs and time_.kernel == layer.kernel:
            assert (time_.macs, time_.limit) == (layer.macs, "popcount" if layer.binary else "float32")
        elif time_.macs == 0:
            assert time_.limit == "loads, L2"
