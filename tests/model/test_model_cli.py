"""`moesim model` as a user runs it."""

from __future__ import annotations

import json

import pytest

from moesim.model import names
from tests.program import run_here


def run(*arguments):
    return run_here("model", *arguments)


def document(*arguments):
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)


def test_show_json():
    shown = document("show", "deepseek-v3", "--context", 1000)
    assert shown["schema_version"] == 1
    assert shown["num_layers"] == 61
    assert shown["moe_layer_ids"] == list(range(3, 61))
    assert (shown["num_experts"], shown["top_k"]) == (256, 8)
    assert shown["total_params"] == 671_026_419_200
    assert sum(shown["params"].values()) == shown["total_params"]
    assert shown["kv_bytes_per_token"] == 61 * 576 * 2
    assert shown["cache_bytes"] == 1000 * shown["kv_bytes_per_token"]
    assert shown["weight_bytes"] == shown["weight_bytes_by_dtype"]["auto"]
    assert shown["weight_bytes"] == pytest.approx(sum(shown["weight_bytes_by_module"].values()))
    assert shown["flops_per_token"]["decode"] > 2 * shown["active_params_without_embedding"]
    assert list(shown["provenance"]["inputs"].values())


def test_show_types():
    plain = document("show", "qwen3-30b-a3b")
    half = document("show", "qwen3-30b-a3b", "--dtype", "fp8", "--kv-cache-dtype", "fp8")
    assert half["kv_bytes_per_token"] * 2 == plain["kv_bytes_per_token"]
    assert 0.5 < half["weight_bytes"] / plain["weight_bytes"] < 0.53
    assert half["module_dtypes"]["router"] == "bf16"


def test_show_for_people():
    done = run("show", "gpt-oss-20b", "--context", 200_000)
    assert done.returncode == 0
    for text in ("20.91 B parameters", "window 128", "32 experts of 2880", "mxfp4", "13.76 GB", "experts"):
        assert text in done.stdout
    assert "beyond the model's 131072" in done.stderr


def test_list():
    listed = document("list")
    assert [row["name"] for row in listed["models"]] == names()
    done = run("list", "--moe")
    assert "mixtral-8x7b" in done.stdout
    assert "llama-2-7b" not in done.stdout


def test_wrong_options_come_all_at_once(tmp_path):
    done = run("show", "deepseek-v3", "--dtype", "fp7", "--kv-cache-dtype", "int4", "--context", 0)
    assert done.returncode == 2
    assert "3 faults" in done.stderr
    broken = tmp_path / "config.json"
    broken.write_text('{"model_type": "deepseek_v3", "hidden_size": "big"}')
    done = run("show", broken, "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for text in (str(broken), "hidden_size", "num_experts_per_tok", "num_hidden_layers"):
        assert text in done.stderr


def test_unknown_model():
    done = run("show", "mixtral-8x7")
    assert done.returncode == 2
    assert "mixtral-8x7b" in done.stderr
