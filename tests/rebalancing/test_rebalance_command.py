"""`moesim rebalance`, as a user sees it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from moesim.layout import ExpertMap
from moesim.model import load_model
from moesim.placement import write

COMMON = "--model gpt-oss-20b --hardware h100-sxm-8 --ep 8 --redundant 8 --interval 5 --window 10".split()


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Loads of two kinds of traffic, as SGLang dumps them."""
    folder, rng = tmp_path_factory.mktemp("loads"), np.random.default_rng(0)
    paths = []
    for name in ("one", "two"):
        loads = (rng.lognormal(0.0, 1.0, (24, 32)) * 1000).astype(int)
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"logical_count": loads.tolist()}))
        paths.append(path)
    return paths


def test_document(moesim, counts, tmp_path):
    out = tmp_path / "steps.parquet"
    code, text, _ = moesim(
        "rebalance", *counts, *COMMON, "--steps", 8, "--policy", "static,ours", "--json", "-o", out
    )
    assert code == 0
    document = json.loads(text)
    assert document["schema_version"] == 1
    assert len(document["provenance"]["inputs"]) >= 2
    assert list(document["policies"]) == ["static", "ours"]
    assert document["policies"]["static"]["steps"] == 16
    assert document["best"] == "ours"
    assert document["tokens"] == 16 * 2048
    table = pyarrow.parquet.read_table(out).to_pydict()
    assert len(table["step"]) == 32
    again = moesim("rebalance", *counts, *COMMON, "--steps", 8, "--policy", "static,ours", "--json")[1]
    other = json.loads(again)
    for run in (*document["policies"].values(), *other["policies"].values(), document["hindsight"]):
        run.pop("solve_s"), [change.pop("solve_s") for change in run.get("changes", [])]
    assert other["policies"] == document["policies"]


def test_table_and_a_lost_node(moesim, counts, tmp_path):
    out = tmp_path / "steps.csv"
    code, text, notes = moesim(
        "rebalance", counts[0], *COMMON, "--policy", "static,eplb", "--steps", 12, "--lose-rank", "3@6",
        "--async-steps", 1, "-o", out, "--nodes", 1,
    )  # fmt: skip
    assert code == 0
    assert "best fixed plan in hindsight" in text
    assert "7 ranks left" in text
    assert "copies beside the steps" in text
    assert "--host-seconds" in notes
    assert pyarrow.csv.read_csv(out).num_rows == 24


def test_a_plan_to_start_from(moesim, counts, tmp_path):
    plan = ExpertMap.contiguous(24, 32, 8, 8)
    path = tmp_path / "plan.json"
    write(plan, f"sglang:{path}", load_model("gpt-oss-20b"))
    texts = [
        moesim("rebalance", counts[0], *COMMON, "--policy", "static", "--steps", 4, "--json", *more)[1]
        for more in ([], ["--start", path])
    ]
    one, two = (json.loads(text)["policies"]["static"]["total_s"] for text in texts)
    assert one == two


def test_too_few_slots_are_infeasible(moesim, counts):
    code, _, text = moesim(
        "rebalance", counts[0], *COMMON[:-6], "--policy", "static", "--steps", 4, "--lose-rank", "0@2"
    )
    assert code == 1
    assert "lack a slot" in text


def test_everything_wrong_is_said_at_once(moesim, counts):
    code, _, text = moesim(
        "rebalance", counts[0], *COMMON, "--policy", "ours,foo", "--copy-share", 2, "--trigger", 0,
        "--order", "x", "--lose-rank", "3,4", "--lose-node", "7@3", "-o", "steps.txt", "--restore-from", "x",
        "--steps", 1, "--tokens-per-step", 0,
    )  # fmt: skip
    assert code == 2
    for part in (
        "foo",
        "--copy-share",
        "--trigger",
        "--order",
        "--lose-rank",
        "--lose-node",
        "--output",
        "--restore-from",
        "--steps",
        "--tokens-per-step",
    ):
        assert part in text


def test_a_trace_of_another_model_is_refused(moesim, counts):
    other = ["--model", "deepseek-v3", *COMMON[2:]]
    code, _, text = moesim("rebalance", counts[0], *other)
    assert code == 2
    assert "DeepSeek" in text or "deepseek" in text


def test_recorded_tokens(moesim, shared):
    trace = shared("traces/gpt-oss-20b/decode.npz")
    code, text, _ = moesim(
        "rebalance",
        trace,
        *COMMON,
        "--policy",
        "static,ours",
        "--steps",
        20,
        "--tokens-per-step",
        256,
        "--json",
    )
    assert code == 0
    assert json.loads(text)["policies"]["ours"]["steps"] == 20
