"""The engines' own loaders hold what the plans say; and take without a word what is refused here."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from engine_sources import sglang_flags, sglang_loads, trtllm_config, vllm_ascend_loads
from plan_samples import GOOD, KEY, MODEL, PLAN, RANKS, ROWS, trtllm

from moesim.files import data_dir
from moesim.model import load_model
from moesim.placement import FORMATS, Problem, check_plan, solve, write
from moesim.placement.files import Launch
from moesim.trace import load_trace


@pytest.fixture(scope="module")
def real():
    """DeepSeek-V3 on 32 ranks with 32 redundant experts."""
    model = load_model("deepseek-v3")
    loads = load_trace(data_dir("traces") / "deepseek-v3-synthetic.json", shape=model).load_counts().totals
    return solve(Problem(loads, 32, 32), "greedy").expert_map, model


def test_sglang_loads_the_plan(real, tmp_path):
    for plan, model in ((PLAN, MODEL), real):
        path = tmp_path / "plan.json"
        write(plan, f"sglang:{path}", model)
        held = sglang_loads(path, model, plan.ranks, plan.redundant, rank=1)
        assert len(held) == model.num_layers
        np.testing.assert_array_equal(held[list(model.moe_layer_ids)], plan.physical_to_logical)


@pytest.mark.parametrize(
    ("rows", "loads"),
    [
        (ROWS, True),  # no dense rows
        ([GOOD[:6]] * 5, True),  # no redundant experts
        ([[0, 0, 1, 2, 3, 4, 5, 1]] * 5, True),  # an expert twice on a rank
        ([[0, 1, 2, 3, 4, 0, 1, 2]] * 5, False),  # an expert that is nowhere
        ([[0, 1, 2, 3, 4, 5, 6, 1]] * 5, False),  # an expert the model does not have
    ],
)
def test_what_sglang_takes_and_moesim_does_not(rows, loads, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({KEY: rows}))
    assert check_plan(path, MODEL, RANKS, 8).faults
    if loads:
        assert sglang_loads(path, MODEL, RANKS, 2).tolist() == rows
    else:
        sglang_raises(path)


def test_sglang_takes_no_other_name(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({KEY: [GOOD] * 5, "seed": 0}))
    sglang_raises(path)


def sglang_raises(path):
    with pytest.raises((TypeError, IndexError, ZeroDivisionError, AssertionError)):
        sglang_loads(path, MODEL, RANKS, 2)


def test_sglang_has_every_flag_of_the_command_line(tmp_path):
    launch = Launch("m", tmp_path / "plan.json", ranks=16, redundant=16, nodes=2, dispatch="sglang-static")
    words = shlex.split(FORMATS["sglang"].command(launch))
    flags = {word for word in words if word.startswith("--")}
    assert len(flags) == 12
    assert flags <= sglang_flags()


def test_vllm_ascend_loads_the_plan(real, tmp_path):
    for plan, model in ((PLAN, MODEL), real):
        path = tmp_path / "map.json"
        write(plan, f"vllm-ascend:{path}", model)
        held = vllm_ascend_loads(path, plan.layers)
        np.testing.assert_array_equal(held.reshape(plan.layers, -1), plan.physical_to_logical)


def test_vllm_ascend_goes_by_position(tmp_path):
    path = tmp_path / "map.json"
    write(PLAN, f"vllm-ascend:{path}", MODEL)
    document = json.loads(path.read_text())
    document["layer_list"][0]["device_list"].reverse()
    path.write_text(json.dumps(document))
    held = vllm_ascend_loads(path, 3)
    assert held[0].ravel().tolist() == ROWS[0][4:] + ROWS[0][:4]
    assert any("is not its position" in fault.message for fault in check_plan(path, MODEL, RANKS).faults)


def test_tensorrt_llm_loads_the_plan(real, tmp_path):
    yaml = pytest.importorskip("yaml", reason="TensorRT-LLM reads YAML with PyYAML")
    for plan, model in ((PLAN, MODEL), real):
        path = tmp_path / "plan.yaml"
        write(plan, f"tensorrt-llm:{path}", model)
        config = trtllm_config(yaml.safe_load(path.read_text()))
        config.setup(ep_rank=1, ep_size=plan.ranks)
        assert (config.num_local_slots, config.layer_updates_per_iter) == (plan.slots_per_rank, 0)
        for row, layer in zip(plan.physical_to_logical.tolist(), model.moe_layer_ids, strict=True):
            assert config.get_layer_initial_global_assignments(layer) == row


@pytest.mark.parametrize(
    "text",
    [
        trtllm({2: [0] * 8, 3: GOOD, 4: GOOD}),  # experts nowhere, one twice on a rank
        trtllm({0: GOOD, 2: GOOD, 3: GOOD, 4: GOOD}),  # a dense layer
    ],
)
def test_what_tensorrt_llm_takes_and_moesim_does_not(text, tmp_path):
    yaml = pytest.importorskip("yaml", reason="TensorRT-LLM reads YAML with PyYAML")
    path = tmp_path / "plan.yaml"
    path.write_bytes(text)
    assert check_plan(path, MODEL, RANKS).faults
    config = trtllm_config(yaml.safe_load(text))
    config.setup(ep_rank=1, ep_size=RANKS)
    for layer in MODEL.moe_layer_ids:
        config.get_layer_initial_global_assignments(layer)
