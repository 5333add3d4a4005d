"""Two-batch overlap of the engine against SGLang's measurements on 96 H100."""

import numpy as np
import pytest

from moesim.engine.deployment import Deployment
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision
from moesim.trace.types import DECODE, PREFILL


def gain(nodes, batch, phase):
    model = load_model("deepseek-v3")
    layout = Parallelism(dp=8 * nodes, ep=8 * nodes)
    hardware = load_hardware("h100-sxm-8", nodes=nodes)
    deployment = Deployment(model, hardware, layout, Precision.of(model, "fp8"))
    alone = deployment.sequential(batch, phase).seconds
    together = deployment._overlapped(deployment.sequential(batch.half(), phase))
    return alone / together - 1.0


def test_prefill_gains_what_was_measured():
    # 8192 tokens per GPU in prompts of 4096: 27 to 35 %.
    assert 0.27 < gain(4, Batch.prefill(np.array([2.0]), 4096.0), PREFILL)[0] < 0.35


def test_decode_gains_more_with_larger_batches():
    gains = gain(8, Batch.decode(np.array([32.0, 64.0, 128.0, 256.0]), 2000.0), DECODE)
    assert (np.diff(gains) > 0).all()
    # Measured: -27 % at 32 and +25.5 % at 256, from kernels that slow each other down, which is not modelled.
    assert gains[0] < 0.15
    assert gains[-1] == pytest.approx(0.255, abs=0.30)
