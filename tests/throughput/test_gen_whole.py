"""Whole batches: the GPU's memory sets them, and module batches are better for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim import load_hardware, load_model
from moesim.errors import InfeasibleError
from moesim.throughput.gen import HYBRID, plan
from moesim.throughput.gen_box import StreamBox
from moesim.throughput.gen_whole import sequence_bytes, whole_plan
from moesim.throughput.gen_work import ModelWork
from moesim.throughput.result import Workload


@pytest.fixture(scope="module")
def box():
    return StreamBox.of(load_hardware("a5000-epyc-512gb"))


@pytest.mark.parametrize("name", ["mixtral-8x7b", "mixtral-8x22b", "deepseek-v2"])
def test_module_batches_decode_faster(box, name):
    work, workload = ModelWork.of(load_model(name)), Workload(512, 256)
    whole, modules = whole_plan(work, box, workload), plan(work, box, workload, HYBRID)
    assert modules.batch > 10 * whole.batch
    assert modules.decode_tokens_per_s > 4 * whole.decode_tokens_per_s
    assert whole.decode_tokens_per_s <= whole.bounds["link"]
    assert whole.memory_bytes["gpu"] <= box.gpu_bytes
    # One more sequence would not fit.
    assert whole.memory_bytes["gpu"] + sequence_bytes(work, workload) > box.gpu_bytes


def test_a_step_is_the_weights_over_the_link(box):
    work = ModelWork.of(load_model("mixtral-8x22b"))
    whole = whole_plan(work, box, Workload(512, 1024))
    assert whole.decode_s / 1024 == pytest.approx(work.streamed_bytes / box.link_bytes_per_s, rel=0.02)


def test_refusals(box):
    work = ModelWork.of(load_model("mixtral-8x22b"))
    with pytest.raises(InfeasibleError) as caught:
        whole_plan(work, replace(box, host_bytes=1e11), Workload(512, 256))
    assert caught.value.resource == "host memory"
    with pytest.raises(InfeasibleError) as caught:
        whole_plan(work, box, Workload(200_000, 256))
    assert caught.value.resource == "gpu memory"
