"""Settings of published launch scripts, for rows that do not record them."""

from __future__ import annotations

import numpy as np
import pytest
from serving_rows import POOLS, write_csv

from moesim.validate import read_serving
from moesim.validate.physics import physics_of
from moesim.validate.recipes import recipe_of

R1 = {"model_path": "deepseek-ai/DeepSeek-R1", "precision": "fp8", "tp_size": "8", "moe_tp_size": "8"}
SGLANG = {**R1, "backend": "sglang", "isl": "1024", "osl": "1024"}


def _load(concurrency):
    text = f"lab/2026-05-02; silicon_concurrency={concurrency}; measured=2026-05-01T08:00Z"
    return {"silicon_data_source": text, "batch_size": str(concurrency)}


def _rows(tmp_path, *rows):
    return read_serving(write_csv(tmp_path / "rows.csv", *({"id": f"r{i}", **r} for i, r in enumerate(rows))))


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ({}, "auto"),
        ({"system": "b200_sxm"}, "fp8"),
        ({**R1, "backend": "trtllm", "system": "h200_sxm"}, "fp8"),
        ({**SGLANG, "system": "h200_sxm"}, "auto"),
        ({**SGLANG, "system": "b200_sxm"}, "fp8"),
        # SGLang has no fast kernel for an 8-bit latent cache on Hopper, whatever the model.
        ({**SGLANG, "model_path": "moonshotai/Kimi-K2.5", "precision": "fp4", "system": "h200_sxm"}, "auto"),
        ({**SGLANG, "model_path": "Qwen/Qwen3.5-397B-A17B", "system": "h200_sxm"}, "fp8"),
        ({"model_path": "moonshotai/Kimi-K2.5", "precision": "int4", "system": "b200_sxm"}, "auto"),
        ({"model_path": "Qwen/Qwen3-32B", "precision": ""}, "auto"),
        (POOLS, "fp8"),
    ],
)
def test_data_type_of_the_cache(tmp_path, row, dtype):
    assert recipe_of(_rows(tmp_path, row)[0]).kv_cache_dtype == dtype


def test_sglang_looks_for_requests_now_and_then_on_blackwell(tmp_path):
    few, many, hopper = _rows(
        tmp_path,
        {**SGLANG, "system": "b200_sxm", **_load(8)},
        {**SGLANG, "system": "b200_sxm", **_load(16)},
        {**SGLANG, "system": "h200_sxm", **_load(16)},
    )
    assert [recipe_of(row).wait_steps for row in (few, many, hopper)] == [5.0, 15.0, 0.0]
    physics = physics_of([few, many, hopper], {})
    assert physics.ttft_steps == pytest.approx(np.array([5.0, 15.0, 0.0]))


def test_tensorrt_llm_may_wait_for_a_batch(tmp_path):
    llama = {"backend": "trtllm", "model_path": "meta-llama/Llama-3.1-70B", "precision": "fp8", "osl": "1024"}
    r1 = {**R1, "backend": "trtllm", "system": "b200_sxm", "osl": "1024", **_load(64)}
    rows = _rows(
        tmp_path, llama, {**llama, "isl": "8192"}, {**llama, "tp_size": "8"}, r1, {**r1, "precision": "fp4"}
    )
    assert [recipe_of(row).wait_steps for row in rows] == [20.0, 0.0, 0.0, 40.0, 0.0]
