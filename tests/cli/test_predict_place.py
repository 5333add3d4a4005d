"""`moesim predict` and `moesim place` as a user runs them, with right and with wrong arguments."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from moesim.files import data_dir
from moesim.metrics import DEFINITIONS
from tests.program import run_here as run

COUNTS = str(data_dir("traces") / "deepseek-v3-synthetic.json")


PREDICT = (
    "predict --model gpt-oss-20b --hardware h100-sxm-8 --tp 1 --dp 8 --ep 8 "
    "--input-len 1024 --output-len 1024 --concurrency 256"
).split()


def _no_nan(text):
    return json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))


def test_predict_json_has_every_field(tmp_path):
    done = run(*PREDICT, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = _no_nan(done.stdout)
    assert set(DEFINITIONS) <= set(answer)
    assert answer["feasible"] is True
    assert answer["schema_version"] == 1
    assert answer["interval"]["level"] == 0.9
    low, high = answer["interval"]["tpot_s"]
    assert answer["bounds"]["tpot_s"] <= low <= answer["tpot_s"] <= high
    assert sum(b["share"] for b in answer["bottleneck"]) == pytest.approx(1.0)
    assert sum(line["seconds"] for line in answer["breakdown"]) == pytest.approx(answer["tpot_s"])
    assert {"op", "seconds", "bound_by"} == set(answer["breakdown"][0])
    hashes = answer["provenance"]["inputs"]
    assert len(hashes) == 2
    assert all(len(h) == 64 for h in hashes.values())
    assert not list(tmp_path.iterdir())


def test_predict_twice_is_the_same_to_the_byte():
    command = [sys.executable, "-m", "moesim", *PREDICT, "--json"]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second


def test_physics_alone_has_no_interval():
    answer = _no_nan(run(*PREDICT, "--calibration", "none", "--json").stdout)
    assert answer["interval"] is None
    assert answer["calibration"] == {}
    assert any("physics alone" in note for note in answer["warnings"])
    learnt = _no_nan(run(*PREDICT, "--json").stdout)
    assert learnt["calibration"]["digest"]
    text = run(*PREDICT, "--calibration", "none")
    assert text.returncode == 0
    assert "no interval" in text.stdout


def test_a_rate_two_pools_and_drafts_on_one_line():
    words = "predict --model deepseek-r1 --hardware h200-sxm-8 --nodes 3 --tp 8 --backend sglang".split()
    pools = "--request-rate 3 --prefill-workers 2 --prefill-ep 8 --speculative-tokens 1".split()
    done = run(*words, *pools, "--acceptance-rate", "0.8", "--json")
    assert done.returncode == 0, done.stderr
    answer = _no_nan(done.stdout)
    assert answer["request_rate"] == answer["request_throughput"] == 3
    assert answer["concurrency"] == pytest.approx(3 * answer["e2el_s"])
    assert answer["devices"] == 24
    assert answer["pools"]["prefill"]["workers"] == 2
    assert answer["pools"]["prefill"]["layout"]["ep"] == 8
    assert answer["pools"]["decode"]["layout"] == answer["layout"]
    assert answer["tokens_per_step"] == pytest.approx(1.8)
    text = run(*words, *pools)
    assert "2 x (tp=8 pp=1 dp=1 ep=8) prefill, 1 x (tp=8 pp=1 dp=1 ep=1) decode, 3 requests/s" in text.stdout


def test_a_rate_beyond_all_is_infeasible_and_says_the_most():
    done = run(*PREDICT[:-2], "--request-rate", "1e6", "--json")
    assert done.returncode == 1
    answer = _no_nan(done.stdout)
    assert answer["feasible"] is False
    assert 1 < answer["most_request_rate"] < 1e6


def test_real_routing_is_visible_in_the_breakdown(shared):
    trace = shared("traces/gpt-oss-20b/decode.npz")
    plain, real = (
        _no_nan(run(*PREDICT, *extra, "--json").stdout)
        for extra in (("--routing", "uniform"), ("--trace", trace))
    )
    assert real["experts"]["distinct_experts"] < plain["experts"]["distinct_experts"]
    assert real["load_imbalance"] > plain["load_imbalance"]
    waits = [
        next(line["seconds"] for line in a["breakdown"] if line["op"] == "expert_imbalance")
        for a in (plain, real)
    ]
    assert waits[1] > 1.5 * waits[0]


def test_infeasible_is_exit_1_and_says_what_holds_it():
    words = (
        "predict --model deepseek-v3 --dtype bf16 --hardware h100-sxm-8 --tp 8 --input-len 4096 "
        "--output-len 1024 --concurrency 64"
    ).split()
    done = run(*words, "--json")
    assert done.returncode == 1
    answer = _no_nan(done.stdout)
    assert answer["feasible"] is False
    assert answer["resource"] == "memory hbm"
    assert answer["short_bytes"] == pytest.approx(answer["needed"] - answer["available"])
    assert answer["fewest_nodes"] >= 2
    assert str(answer["fewest_nodes"]) in done.stderr
    assert "tp=8" in done.stderr


def test_a_full_cache_is_an_answer_not_an_error():
    words = (
        "predict --model llama-3.1-70b --hardware h100-sxm-8 --tp 4 --input-len 8192 --concurrency 900"
    ).split()
    done = run(*words)
    assert done.returncode == 0
    assert "wait" in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model", "gpt-oss-20", "--hardware", "h100_sxm8x"], ["gpt-oss-20b", "h100-sxm-8"]),
        (
            ["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--dp", "8", "--ep", "3"],
            ["--ep", "1, 2, 4, 8"],
        ),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--dtype", "fp3"], ["--dtype", "fp8"]),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--overlap", "full"], ["two-batch"]),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--dp", "64"], ["--nodes 8"]),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--trace", "no.npz"], ["no.npz"]),
        (
            ["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--trace", COUNTS],
            ["61 MoE layers", "24", "256 experts", "32"],
        ),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--nodes", "0"], ["--nodes"]),
        (["--model", "gpt-oss-20b"], ["--hardware"]),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--bogus"], ["--bogus"]),
        (["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--calibration", "no.json"], ["no.json"]),
        (
            ["--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--calibration", COUNTS],
            ["is not a calibration", "moesim calibrate serving"],
        ),
        (
            [
                "--model",
                "gpt-oss-20b",
                "--hardware",
                "h100-sxm-8",
                "--prefill-tp",
                "2",
                "--decode-workers",
                "2",
            ],
            ["--prefill-tp", "--prefill-workers", "--decode-workers"],
        ),
        (
            "--model gpt-oss-20b --hardware h100-sxm-8 --request-rate 0 --speculative-tokens 99".split(),
            ["--request-rate", "--speculative-tokens", "0 to 16", "either says"],
        ),
    ],
)
def test_wrong_arguments(words, parts, tmp_path):
    done = run(
        "predict",
        *words,
        *([] if "--concurrency" in words else ["--concurrency", "8"]),
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for part in parts:
        assert part in done.stderr
    assert not list(tmp_path.iterdir())


def test_truncated_and_foreign_traces(tmp_path, shared):
    whole = shared("traces/gpt-oss-20b/decode.npz").read_bytes()
    for name, content in (
        ("cut.npz", whole[:5000]),
        ("photo.npz", b"\xff\xd8\xff\xe0" * 100),
        ("empty.json", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        done = run(*PREDICT, "--trace", path)
        assert done.returncode == 2, name
        assert "Traceback" not in done.stderr
        assert name in done.stderr


def test_place_on_the_bundled_loads(tmp_path):
    words = ["place", COUNTS, "--model", "deepseek-v3", "--hardware", "h200-sxm-8", "--nodes", 4, "--ep", 32]
    done = run(*words, "--redundant", 32, "--emit", "sglang:plan.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = _no_nan(done.stdout)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert list(plan) == ["physical_to_logical_map"]
    table = np.array(plan["physical_to_logical_map"])
    assert table.shape == (61, 288)
    assert all(set(row) == set(range(256)) for row in table.tolist())
    for name in ("contiguous", "greedy", "plan"):
        assert len(answer["load_imbalance"][name]["fitted"]["per_layer"]) == 58
        assert answer["load_imbalance"][name]["evaluated"] is None
    fitted = {name: v["fitted"]["worst"] for name, v in answer["load_imbalance"].items()}
    assert fitted["plan"] <= fitted["greedy"] < fitted["contiguous"]
    assert answer["gap"]["worst"] <= 0.0005
    (emitted,) = answer["emitted"]
    assert {"path": "plan.json", "format": "sglang", "rows": 61}.items() <= emitted.items()
    assert "--init-expert-location plan.json --ep-num-redundant-experts 32" in emitted["command"]
    assert answer["predicted"]["after"]["tpot_s"] < answer["predicted"]["before"]["tpot_s"]


def test_redundancy_that_loses_is_said_to_lose(tmp_path):
    words = ["place", COUNTS, "--model", "deepseek-v3", "--hardware", "h200-sxm-8", "--nodes", 4, "--ep", 32]
    done = run(*words, "--redundant", 32, "--concurrency", 64, "--json", cwd=tmp_path)
    answer = _no_nan(done.stdout)
    priced = answer["predicted"]
    assert priced["after"]["tpot_s"] > priced["balanced"]["tpot_s"]
    assert any("LOSES" in sentence for sentence in answer["verdict"])
    assert any("redundant experts per layer cost more than they save" in s for s in answer["verdict"])


def test_other_loads_never_influence_the_plan(shared, tmp_path):
    folder = shared("traces/deepseek-v3-counts")
    words = [
        "place",
        folder / "decode_in1000out1000.json",
        "--model",
        "deepseek-v3",
        "--ep",
        32,
        "--redundant",
        32,
    ]
    plans = []
    for i, extra in enumerate(([], ["--evaluate-on", folder / "prefill_in1024.json"])):
        done = run(*words, *extra, "--emit", f"sglang:{i}.json", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        plans.append((tmp_path / f"{i}.json").read_text())
    assert plans[0] == plans[1]
    answer = _no_nan(done.stdout)
    assert answer["gap"]["worst"] <= 0.0005
    assert (
        answer["load_imbalance"]["plan"]["evaluated"]["mean"]
        > answer["load_imbalance"]["plan"]["fitted"]["mean"]
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--ep", 7], ["256"]),
        (["--ep", 32, "--redundant", 5], ["256 experts and 5 redundant", "32 would fit"]),
        (["--ep", 32, "--emit", "sglang:missing/plan.json", "--emit", "cuda:x"], ["missing", "sglang"]),
        (["--ep", 32, "--method", "serch"], ["search"]),
        (["--ep", 64, "--hardware", "h200-sxm-8"], ["--nodes 8"]),
        (["--ep", 32, "--report", "missing/r.html"], ["missing"]),
    ],
)
def test_wrong_placements(words, parts, tmp_path):
    done = run("place", COUNTS, "--model", "deepseek-v3", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    assert not list(tmp_path.iterdir())


def test_placing_a_dense_model():
    done = run("place", COUNTS, "--model", "llama-3.1-8b", "--ep", 8)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_written_plan_can_be_predicted(tmp_path):
    words = ["--model", "deepseek-v3", "--hardware", "h200-sxm-8", "--nodes", 4, "--ep", 32]
    emit = ["--redundant", 32, "--emit", "sglang:plan.json", "--json"]
    done = run("place", COUNTS, *words, *emit, cwd=tmp_path)
    after = _no_nan(done.stdout)["predicted"]["after"]
    words += ["--dp", 32, "--concurrency", 64 * 32, "--trace", COUNTS, "--json"]
    planned = _no_nan(run("predict", *words, "--plan", "plan.json", cwd=tmp_path).stdout)
    assert planned["tpot_s"] == pytest.approx(after["tpot_s"])
    spare = _no_nan(run("predict", *words, "--redundant", 32, cwd=tmp_path).stdout)
    assert spare["experts"]["slots_per_rank"] == 9
    assert spare["tpot_s"] > planned["tpot_s"]


def test_wrong_plans_to_predict(tmp_path):
    (tmp_path / "bad.json").write_text('{"physical_to_logical_map": [[0, 0]]}')
    for extra, part in (
        (["--plan", "bad.json"], "61"),
        (["--plan", "none.json"], "none.json"),
        (["--redundant", 5], "5 redundant"),
    ):
        words = "--model deepseek-v3 --hardware h200-sxm-8 --dp 8 --ep 8 --concurrency 8".split()
        done = run("predict", *words, *extra, cwd=tmp_path)
        assert done.returncode == 2, done.stdout
        assert part in done.stderr
        assert "Traceback" not in done.stderr


def test_spare_experts_let_ranks_outnumber_experts():
    words = (
        "--model gpt-oss-20b --hardware h100-sxm-8 --nodes 6 --tp 1 --dp 48 --ep 48 --concurrency 96".split()
    )
    alone = run("predict", *words)
    assert alone.returncode == 2
    assert "does not divide the 32 experts" in alone.stderr
    assert "or 16 redundant experts" in alone.stderr
    spare = _no_nan(run("predict", *words, "--redundant", 16, "--json").stdout)["experts"]
    assert (spare["slots_per_rank"], spare["redundant"]) == (1.0, 16.0)


def test_all_that_is_wrong_with_spare_experts_is_said_at_once():
    words = "--model gpt-oss-20b --hardware h100-sxm-8 --dp 16 --ep 5 --redundant 200 --input-len 0".split()
    done = run("predict", *words, "--overlap", "x", "--concurrency", 8)
    assert done.returncode == 2
    for part in (
        "6 faults",
        "--overlap: unknown",
        "--input-len: must be",
        "--ep: does not divide dp x tp = 16",
        "--ep: does not divide the 32 experts and 200 redundant of gpt-oss-20b (got 5)",
        "203 redundant experts",
        "layout: pp x dp x tp = 16 devices",
        "--redundant: no expert goes twice on a rank (got 200); allowed: 0 to 128",
    ):
        assert part in done.stderr, part


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-3", "1e300"])
def test_loads_must_be_sane(value):
    done = run("predict", "--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--concurrency", value)
    assert done.returncode == 2
    assert "--concurrency" in done.stderr
