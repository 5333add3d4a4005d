"""The layer on a CPU against float64."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.reference import exact
from moesim.reference.cpu import CpuRunner
from moesim.reference.layer import Case, LayerShape

#: Error relative to the root mean square of the output.
TOLERANCE = {"fp32": 1e-5, "bf16": 4e-2}


@pytest.fixture(scope="module")
def runner():
    with CpuRunner(memory_bytes=2**24) as made:
        yield made


def error(prepared, given) -> float:
    wanted = exact.reference(given, prepared.ids, prepared.weights)
    return float(np.abs(prepared.output() - wanted).max() / np.sqrt((wanted**2).mean()))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("offloaded", [0.0, 0.5])
def test_layer_is_exact(runner, dtype, offloaded):
    case = Case(LayerShape("small", 8, 2, 64, 32), 21, dtype=dtype, offloaded=offloaded)
    given = exact.inputs(case)
    prepared = runner.prepare(case, inputs=given)
    timing = prepared.run()
    assert error(prepared, given) < TOLERANCE[dtype]
    assert prepared.loads == (4 if offloaded else 0)
    assert sum(timing.parts.values()) == pytest.approx(timing.seconds)
    np.testing.assert_array_equal(prepared.ids, exact.router(given, 2, True)[0])
