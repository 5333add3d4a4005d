"""Bytes and seconds of a box against what they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost import op_times
from moesim.errors import ConfigError, InfeasibleError
from moesim.hardware import load_hardware
from moesim.layout.parallelism import Parallelism
from moesim.model import load_model
from moesim.offload import Box
from moesim.ops import Batch, step_work

MODELS = ("mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-30b-a3b")


@pytest.fixture(scope="module")
def hardware():
    return load_hardware("rtx-4090-workstation")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("phase", [0, 1])
def test_the_rest_is_the_step_without_routed_experts(hardware, name, phase):
    box = Box.of(hardware, load_model(name), gpu_bytes=1e9)
    tokens, context = (64, 300.0) if phase == 0 else (3, 800.0)
    rest = box.rest(
        np.array([phase], np.int8),
        np.array([tokens], np.int32),
        np.array([context], np.float32),
        np.array([2]),
    )
    whole = rest.before[rest.piece].sum() + rest.beside[rest.kind].sum() + rest.tail.sum()
    chunk = tokens / 2
    batch = Batch.of(prompts=2.0, chunk=chunk, past=context - (chunk + 1) / 2)
    if phase == 1:
        batch = Batch.decode(float(tokens), context)
    table = step_work(box.model, Parallelism(), batch, box.precision).table
    expected = (table.counts * op_times(table, hardware.device).seconds).sum()
    assert whole == pytest.approx(expected, rel=1e-9)


def test_bytes_and_loads(hardware):
    box = Box.of(hardware, load_model("mixtral-8x7b"), gpu_bytes=10e9, expert_dtypes=("bf16", "int4", 2.5))
    params = 3 * 4096 * 14336
    assert [w.bytes for w in box.widths] == pytest.approx([2.0 * params, 0.5625 * params, 2.5 / 8 * params])
    assert box.slots == int(10e9 // (2 * params))
    link = hardware.host_link
    expected = link.latency_s + 2 * params / (link.bandwidth_bytes_per_s * link.efficiency)
    assert box.load_seconds() == pytest.approx(expected)
    gpu, cpu = box.gpu_seconds(64), box.cpu_seconds(64)
    assert gpu.shape == cpu.shape == (3, 65)
    for table in (gpu, cpu):
        assert (table[:, 0] == 0).all()
        assert (np.diff(table, axis=1) >= 0).all()
    # Reading the weights once is the least that one token costs, and fewer bits are read faster.
    assert (gpu[:, 1] >= [w.bytes / 1008e9 for w in box.widths]).all()
    assert (np.diff(gpu[:, 1]) < 0).all()
    bandwidth = hardware.host.memory.bandwidth_bytes_per_s
    assert cpu[0, 1] >= 2 * params / bandwidth
    assert np.isinf(box.near_seconds(4)).all()


def test_memory_left_to_experts_shrinks_with_the_cache(hardware):
    model = load_model("gpt-oss-20b")
    sizes = [Box.of(hardware, model, context=c, sequences=4).expert_bytes for c in (1000, 10_000, 50_000)]
    assert sizes[0] > sizes[1] > sizes[2]
    with pytest.raises(InfeasibleError):
        Box.of(hardware, model, context=100_000, sequences=1000)


def test_what_host_memory_cannot_hold_is_on_storage(hardware):
    model = load_model("gpt-oss-20b")
    box = Box.of(hardware, model, host_bytes=100 * 13219200.0)
    assert box.host_experts == 100
    assert Box.of(hardware, model).host_experts is None
    storage = Box.of(hardware, model, backing="storage")
    assert storage.host_experts == 0
    assert storage.load_seconds(stored=True) == pytest.approx(box.load_seconds() + 13219200.0 / 7e9)


def test_every_fault_is_told_at_once(hardware):
    bare = replace(hardware, host_link=None, host=replace(hardware.host, storage=None))
    with pytest.raises(ConfigError) as found:
        Box.of(bare, load_model("llama-2-7b"), backing="tape")
    assert len(found.value.faults) == 2
    with pytest.raises(ConfigError):
        Box.of(bare, load_model("gpt-oss-20b"))
    with pytest.raises(ConfigError):
        Box.of(hardware, load_model("gpt-oss-20b"), expert_dtypes=(0.0,))


def test_one_memory_loads_from_storage_alone():
    orin = load_hardware("jetson-agx-orin-32gb")
    box = Box.of(orin, load_model("deepseek-v2-lite"))
    assert box.to_device is None
    assert box.host_experts == 0
    assert box.load_seconds() == pytest.approx(box.widths[0].bytes / 3e9)
    with pytest.raises(ConfigError):
        Box.of(orin, load_model("deepseek-v2-lite"), backing="host")


def test_a_unit_works_from_its_own_memory():
    box = Box.of(load_hardware("a100-monde"), load_model("mixtral-8x7b"))
    assert box.near_seconds(1)[0, 1] == pytest.approx(box.widths[0].bytes / 512e9, rel=1e-3)
