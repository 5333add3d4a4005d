"""What `moesim place` does with its options, on small loads of Mixtral's shape and a bundled recording."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.files import data_dir

LAYERS, EXPERTS = 32, 8
TINY = data_dir("traces") / "tiny-moe"


@pytest.fixture
def place(tmp_path, monkeypatch, moesim):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    common = rng.lognormal(0.0, 0.8, (LAYERS, EXPERTS))
    for name in "abcd":
        loads = 1000.0 * common * rng.lognormal(0.0, 0.4, (LAYERS, EXPERTS))
        (tmp_path / f"{name}.json").write_text(json.dumps({"logical_count": loads.tolist()}))

    def run(*words, model="mixtral-8x7b", code=0):
        found, out, err = moesim("place", *words, "--model", model, "--json")
        assert found == code, err
        return json.loads(out) if out else {}

    return run


def test_robust_takes_files_in_a_row_and_the_first_file_is_one_of_them(place):
    one = place("a.json", "--robust", "b.json", "c.json", "--ep", 4, "--redundant", 4)
    two = place("--robust", "a.json", "b.json", "--robust", "c.json", "--ep", 4, "--redundant", 4)
    assert one["load_imbalance"] == two["load_imbalance"]
    assert one["objective"]["terms"] == "expected-max"
    assert one["bound_kind"][0] == "each step"
    assert set(one["provenance"]["inputs"]) > {"a.json", "b.json", "c.json"}
    alone = place("a.json", "--ep", 4, "--redundant", 4, "--evaluate-on", "b.json")
    # What counts is the mean over the three, and the plan for one of them is not best at that.
    judged = place(
        "a.json", "--robust", "b.json", "c.json", "--ep", 4, "--redundant", 4, "--method", "greedy"
    )
    assert one["objective"]["mean"] <= judged["objective"]["mean"]
    assert alone["load_imbalance"]["plan"]["fitted"]["mean"] < one["load_imbalance"]["plan"]["fitted"]["mean"]


@pytest.mark.parametrize("ep", [2, 4, 8])
def test_small_models_are_proven(place, ep):
    found = place("a.json", "--ep", ep, "--exact", "--time-limit", 20)
    assert found["method"] == "exact"
    assert found["gap"]["worst"] <= 0.005
    assert found["seconds"] < 20


def test_a_plan_near_the_loaded_one_moves_less(place):
    place("a.json", "--ep", 4, "--redundant", 4, "--emit", "sglang:now.json")
    words = ("b.json", "--ep", 4, "--current", "now.json")
    kept, near, far = (
        place(*words, "--objective", objective)
        for objective in ("migration, max-load", "max-load + 0.5 migration", "max-load")
    )
    assert kept["slots"] == near["slots"] == far["slots"] == 12
    assert kept["objective"]["mean"] == 0.0
    imbalance = [f["load_imbalance"]["plan"]["fitted"]["mean"] for f in (kept, near, far)]
    assert imbalance[0] > imbalance[1] >= imbalance[2] - 1e-9
    experts = [f["migration"]["experts"] for f in (kept, near, far)]
    assert experts[0] == 0 < experts[1] < experts[2]
    # A share of the slots, weighed, is what the objective holds beside the imbalance.
    assert near["objective"]["mean"] - imbalance[1] == pytest.approx(0.5 * experts[1] / (12 * LAYERS))
    each = 3 * 4096 * 14336 * 2  # gate, up and down projections of Mixtral in 16 bits
    assert far["migration"]["bytes"] == experts[2] * each


def test_ranks_of_other_speed_and_room(place):
    found = place("a.json", "--ep", 4, "--rank-slots", "3,2,2,2", "--rank-speeds", "2,1,1,1")
    assert found["redundant"] == 4  # slots beyond one of each, the empty ones included
    assert (
        found["load_imbalance"]["plan"]["fitted"]["mean"]
        < found["load_imbalance"]["greedy"]["fitted"]["mean"]
    )
    assert "contiguous" not in found["load_imbalance"]
    assert found["gap"]["worst"] >= 0.0


@pytest.mark.parametrize("rule", ["static", "sglang-dynamic", "vllm-ascend", "lp"])
def test_plans_are_made_and_judged_under_the_rule(place, rule):
    found = place("a.json", "--ep", 4, "--redundant", 4, "--dispatch", rule)
    assert found["dispatch"] == {"static": "sglang-static"}.get(rule, rule)
    judged = found["load_imbalance"]
    assert judged["plan"]["fitted"]["mean"] <= judged["greedy"]["fitted"]["mean"] + 1e-12


def test_steps_of_a_trace_are_fitted_only_if_that_holds_for_others(place):
    found = place(
        TINY / "trace.parquet",
        "--ep",
        4,
        "--redundant",
        4,
        "--objective",
        "expected-max",
        "--batch-tokens",
        64,
        model=TINY / "config.json",
    )
    judged = found["load_imbalance"]
    assert judged["plan"]["fitted"]["mean"] <= judged["greedy"]["fitted"]["mean"]
    assert found["objective"]["mean"] == pytest.approx(judged["plan"]["fitted"]["mean"])
    (told,) = (note for note in found["warnings"] if "held out" in note)
    same = judged["plan"]["fitted"]["mean"] == judged["greedy"]["fitted"]["mean"]
    assert ("greedy's plan is kept" in told) == same


def test_objectives_of_traffic_and_time(place):
    words = (TINY / "trace.parquet", "--ep", 8, "--hardware", "h100-sxm-8", "--batch-tokens", 256)
    fast = place(*words, "--objective", "layer-time", model=TINY / "config.json")
    even = place(*words, model=TINY / "config.json")
    assert fast["objective"]["terms"] == "layer-time"
    assert fast["objective"]["mean"] > 0
    assert fast["predicted"]["after"]["tpot_s"] <= even["predicted"]["before"]["tpot_s"] * 1.01
    hops = place(TINY / "trace.parquet", "--ep", 4, "--objective", "transitions", model=TINY / "config.json")
    assert 0.0 < hops["objective"]["mean"] < 0.75  # by chance three of four leave
    assert min(hops["objective"]["bound_per_layer"][1:]) >= 0.0
