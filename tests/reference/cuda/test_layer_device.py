"""Where there is a GPU: the same checks on it."""

import pytest

from moesim.errors import ConfigError
from moesim.reference.cuda.backend import open_backend
from moesim.reference.cuda.check import check_kernels, check_paths
from moesim.reference.layer import LayerShape


@pytest.fixture(scope="module")
def device():
    try:
        backend = open_backend()
    except ConfigError as error:
        pytest.skip(str(error))
    yield backend
    backend.close()


def test_every_kernel(device):
    assert [check for check in check_kernels(device) if not check.passed] == []


def test_a_layer_of_usual_size(device):
    shapes, batches = [LayerShape("usual", 64, 8, 2048, 1024)], [(1, "uniform"), (300, "zipf:1")]
    assert [
        check for check in check_kernels(device, shapes=shapes, batches=batches) if not check.passed
    ] == []


def test_every_way_to_run_a_layer(device):
    assert [check for check in check_paths(device) if not check.passed] == []
