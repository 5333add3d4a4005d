"""The worked roofline table of LLM-Viewer (arXiv:2402.16363, table 1): Llama-2-7B on an A6000, exactly.

2,048 tokens, batch 1, 16 bits, 768 GB/s and 154.84 TFLOP/s; recomputed values of the table in operations and
bytes. One decoder layer without kernel fusion.
"""

from __future__ import annotations

import numpy as np
import pytest

from moesim.cost import op_times
from moesim.hardware.types import Device, Memory, Processor
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.ops import Batch, Precision, step_work

PEAK, BANDWIDTH = 154.84e12, 768e9
A6000 = Device(
    "a6000",
    "RTX A6000",
    (Processor("sm", {"bf16": PEAK}, 84, {"gddr": BANDWIDTH}, {}),),
    (Memory("gddr", 48e9, BANDWIDTH),),
)
PREFILL = {
    "q_proj": (68_719_476_736, 67_108_864),
    "k_proj": (68_719_476_736, 67_108_864),
    "v_proj": (68_719_476_736, 67_108_864),
    "o_proj": (68_719_476_736, 67_108_864),
    "gate_proj": (184_683_593_728, 152_043_520),
    "up_proj": (184_683_593_728, 152_043_520),
    "down_proj": (184_683_593_728, 152_043_520),
    "qk_matmul": (34_359_738_368, 301_989_888),
    "sv_matmul": (34_359_738_368, 301_989_888),
    "softmax": (671_088_640, 536_870_912),
    "norm": (58_720_256, 33_554_432),
    "add": (8_388_608, 33_554_432),
}
DECODE = {
    "q_proj": (33_554_432, 33_570_816),
    "k_proj": (33_554_432, 33_570_816),
    "v_proj": (33_554_432, 33_570_816),
    "o_proj": (33_554_432, 33_570_816),
    "gate_proj": (90_177_536, 90_207_744),
    "up_proj": (90_177_536, 90_207_744),
    "down_proj": (90_177_536, 90_207_744),
    "qk_matmul": (16_777_216, 16_916_480),
    "sv_matmul": (16_777_216, 16_916_480),
    "softmax": (327_680, 262_144),
    "norm": (28_672, 16_384),
    "add": (4_096, 16_384),
}


def _layer(batch):
    model = load_model("llama-2-7b")
    work = step_work(model, Parallelism(), batch, Precision.of(model, "bf16"), fused=False)
    table = work.table
    seconds = op_times(table, A6000).seconds
    return {
        op.name: (float(np.sum(op.flops)), float(np.sum(op.bytes)), seconds[i, 0])
        for i, (op, _) in enumerate(table.ops)
    }


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(Batch.prefill(1.0, 2048.0), PREFILL), (Batch.decode(1.0, 2048.0), DECODE)],
    ids=["prefill", "decode"],
)
def test_table(batch, expected):
    rows = _layer(batch)
    for name, (flops, data) in expected.items():
        assert rows[name][:2] == (flops, data), name


@pytest.mark.parametrize(
    ("batch", "name", "gflops_per_s"),
    [
        (Batch.prefill(1.0, 2048.0), "q_proj", 154_840),
        (Batch.prefill(1.0, 2048.0), "qk_matmul", 87_381.33),
        (Batch.prefill(1.0, 2048.0), "softmax", 960.0),
        (Batch.prefill(1.0, 2048.0), "add", 192.0),
        (Batch.decode(1.0, 2048.0), "q_proj", 767.625),
        (Batch.decode(1.0, 2048.0), "qk_matmul", 761.678),
    ],
)
def test_attained_performance_is_the_roofline(batch, name, gflops_per_s):
    flops, _, seconds = _layer(batch)[name]
    assert flops / seconds / 1e9 == pytest.approx(gflops_per_s, rel=1e-5)
