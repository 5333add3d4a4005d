"""`moesim plan` as a user runs it, with right and with wrong arguments."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.planning.engine_flags import read_back
from tests.program import run_here

SMALL = (
    "plan --model gpt-oss-20b --hardware h100-sxm-8 --nodes-max 1 --tp 1 2 --pp 1 --dp 1 --ep 1 "
    "--max-num-batched-tokens 8192 --max-num-seqs 64 256 --request-rate 20 --input-len lognormal:1000:1 "
    "--output-len 200 --num-requests 3000 --goodput ttft:1000 tpot:30 --confirm 1 --replications 2"
).split()


def _no_nan(text):
    return json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """One run with everything it can write, from a folder of its own."""
    folder = tmp_path_factory.mktemp("plan")
    words = [*SMALL, "--json", "--emit", "launch", "--out", "all.csv"]
    done = run_here(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, _no_nan(done.stdout), done.stderr


def test_the_document_has_stable_names(answer):
    _, document, _ = answer
    assert document["schema_version"] == 1
    assert document["kind"] == "plan"
    assert set(document) == {
        "kind",
        "schema_version", "feasible", "slo", "traffic", "currency", "prices", "minimised", "plan", "pareto",
        "confirmed", "refuted", "ranked", "refused", "searched", "seconds", "sensitivities", "launch",
        "written", "warnings", "provenance",
    }  # fmt: skip
    assert document["feasible"] is True
    assert document["slo"] == {"name": None, "attainment": 0.99, "ttft_s": 1.0, "tpot_s": 0.03}
    assert document["currency"] == "USD"
    assert document["minimised"] == "usd_per_hour"
    assert document["provenance"]["seed"] == 0
    assert len(document["provenance"]["inputs"]) == 2


def test_the_plan_adds_up(answer):
    _, document, _ = answer
    plan = document["plan"]
    assert plan["status"] == "confirmed"
    assert plan["metrics"]["attainment"] >= 0.99
    assert plan["metrics"]["ttft_p99_s"] <= 1.0
    assert plan["metrics"]["tpot_p99_s"] <= 0.03
    price = document["prices"][0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", price["date"])
    assert plan["devices"] == 8 * plan["nodes"]
    assert plan["usd_per_hour"] == pytest.approx(plan["devices"] * price["usd_per_device_hour"])
    tokens_per_hour = plan["metrics"]["output_throughput"] * 3600
    assert plan["usd_per_million_output_tokens"] == pytest.approx(
        plan["usd_per_hour"] / tokens_per_hour * 1e6
    )
    degrees = plan["layout"]
    assert degrees["tp"] * degrees["pp"] * degrees["dp"] == plan["devices_per_replica"]
    low, high = plan["interval"]["attainment"]
    assert low <= plan["metrics"]["attainment"] <= high
    assert plan["predicted"]["replicas"] >= 1


def test_what_if_has_no_wrong_signs(answer):
    _, document, _ = answer
    gains = {g["what"]: g for g in document["sensitivities"]}
    assert {"memory bandwidth", "memory capacity", "compute"} <= set(gains)
    assert all(g["rate_gain"] >= -0.005 for g in gains.values())
    assert any(g["rate_gain"] > 0.01 for g in gains.values())


def test_the_launch_commands_are_those_written(answer):
    folder, document, _ = answer
    script = (folder / "launch" / "commands.sh").read_text()
    plan = document["plan"]
    for command in document["launch"]["commands"]:
        assert command["text"] in script
        _, _, flags = read_back("vllm", command["text"])
        assert flags.tensor_parallel_size == plan["layout"]["tp"]
        assert flags.max_num_seqs == plan["max_num_seqs"]
        assert flags.max_num_batched_tokens == plan["max_num_batched_tokens"]
    assert document["written"] == ["launch/commands.sh", "all.csv"]


def test_the_table_holds_every_candidate_once(answer):
    folder, document, _ = answer
    with (folder / "all.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["status"] == "confirmed"
    assert float(rows[0]["ttft_p99_s"]) == document["plan"]["metrics"]["ttft_p99_s"]
    assert {row["hardware"] for row in rows} == {"h100-sxm-8"}
    assert len(rows) >= len(document["ranked"])


def test_tables_for_people_and_parquet(moesim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "--confirm", "0", "--price", "h100=2", "--out", "all.parquet", "--backend", "sglang"]
    code, out, err = moesim(*words)
    assert code == 0, err
    assert "2 USD per device and hour (--price)" in out
    assert "in steady state; not simulated" in out
    assert "python -m sglang.launch_server --model-path gpt-oss-20b" in out
    assert "what if there were more" in out
    table = pq.read_table("all.parquet")
    assert table.num_rows > 0
    assert {"usd_per_hour", "layout_tp", "ttft_s"} <= set(table.column_names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.parquet"]


def test_a_promise_nobody_can_keep(moesim):
    words = ["ttft:0.01" if word == "ttft:1000" else word for word in SMALL]
    code, out, err = moesim(*words)
    assert code == 1
    assert "infeasible" in err
    assert "ttft" in err + out
    code, out, _ = moesim(*words, "--json")
    document = _no_nan(out)
    assert code == 1
    assert document["feasible"] is False
    assert document["available"] > document["needed"]
    assert document["refused"]


def test_every_fault_at_once(moesim, tmp_path):
    words = (
        "plan --model deepsek-v3 --hardware h200-sxm h20 --request-rate -3 --input-len x "
        "--goodput ttff:4 tpot:50 "
        "--slo mlperf --price b200=3 h200-sxm-8=abc --out x.txt --max-devices -3 --dtype fp9 --backend vlm "
        "--max-num-seqs 0 --attainment 2"
    ).split()
    code, out, err = moesim(*words, "--emit", tmp_path / "no" / "folder")
    assert code == 2
    assert not out
    for part in (
        "deepsek-v3", "--request-rate", "--input-len", "--output-len", "ttff:4", "nearest: ttft",
        "mlperf-deepseek-r1-server", "b200=3", "h200-sxm-8=abc", "--out", "--emit", "--max-devices", "fp9",
        "vlm", "--max-num-seqs", "--attainment",
    ):  # fmt: skip
        assert part in err, part


def test_nothing_asked(moesim):
    code, _, err = moesim("plan")
    assert code == 2
    for option in ("--model", "--hardware", "--goodput or --slo", "--request-rate", "--input-len"):
        assert option in err


def test_help_stays_light():
    code = "import sys, moesim.cli.app; sys.exit(any(m in sys.modules for m in ('pandas', 'numba', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
