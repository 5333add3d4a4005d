"""What is taken away: the page of `moesim report`, and plans that `moesim place --check` accepts."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.ui.conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")
TRACED = SMALL | {"trace": "gpt-oss-20b-synthetic"}


def name_of(found):
    return re.fullmatch(r'attachment; filename="([\w.-]+)"', found.headers["content-disposition"])[1]


@pytest.mark.parametrize("format_", ["sglang", "trtllm", "vllm-ascend", "vllm", "eplb"])
def test_plans_are_accepted_by_the_check(page, moesim, tmp_path, format_):
    scenario = TRACED | {"redundant": 8}
    found = page.post("/api/export/plan", json={"scenario": scenario, "format": format_})
    assert found.status_code == 200, found.text
    file = tmp_path / name_of(found)
    file.write_bytes(found.content)
    words = ["--model", "gpt-oss-20b", "--ep", 8, "--redundant", 8, "--check", file]
    code, out, err = moesim("place", *words)
    assert code == 0, out + err
    again = page.post("/api/export/plan", json={"scenario": scenario, "format": format_})
    assert again.content == found.content


def test_a_plan_is_better_than_the_order_of_engines(page, tmp_path):
    from moesim.layout import ExpertMap
    from moesim.model import load_model
    from moesim.placement import evaluate, read_plan
    from moesim.trace import load_trace
    from moesim.ui.traces import data_dir

    found = page.post("/api/export/plan", json={"scenario": TRACED, "format": "sglang"})
    (tmp_path / "plan.json").write_bytes(found.content)
    model = load_model("gpt-oss-20b")
    loads = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz").load_counts().totals
    made = evaluate(read_plan(tmp_path / "plan.json", model, 8), loads)
    before = evaluate(ExpertMap.contiguous(len(loads), 32, 8), loads)
    assert made.mean < 0.7 * before.mean


def test_without_anything_to_place_there_is_a_reason(page):
    for changes, reason in (
        ({"trace": None}, "choose a trace"),
        ({"ep": 1}, "nothing to place"),
        ({"model": "llama-3.1-8b", "ep": 1, "trace": None}, "no experts"),
    ):
        found = page.post("/api/export/plan", json={"scenario": TRACED | changes, "format": "sglang"})
        assert found.status_code == 409
        assert reason in found.json()["error"]
    wrong = page.post("/api/export/plan", json={"scenario": TRACED | {"tp": 0}, "format": "sglag"})
    assert wrong.status_code == 422
    assert {row["where"] for row in wrong.json()["faults"]} == {"format", "tp"}
    assert "sglang" in wrong.text
    for raw in ([], {}, {"scenario": []}, {"scenario": TRACED, "format": ["sglang"]}):
        assert page.post("/api/export/plan", json=raw).status_code == 422


def test_a_report_is_the_page_that_the_command_makes(page, ask, moesim, tmp_path):
    scenarios = [SMALL, SMALL | {"tp": 8, "dp": 1, "ep": 1}]
    found = page.post("/api/export/report", json={"scenarios": scenarios, "labels": ["wide", "tensor"]})
    assert found.status_code == 200, found.text
    assert name_of(found) == "moesim-what-if.html"
    (tmp_path / "saved.html").write_bytes(found.content)
    for label, scenario in zip(("wide", "tensor"), scenarios, strict=True):
        code, out, _ = moesim(*shlex.split(ask(**scenario)["command"])[1:], "--json")
        assert code == 0
        (tmp_path / f"{label}.json").write_text(out)
    code, _, _ = moesim(
        "report", tmp_path / "wide.json", tmp_path / "tensor.json", "-o", tmp_path / "own.html"
    )
    assert code == 0
    drawn = [
        re.findall(r"<svg.*?</svg>", (tmp_path / f"{name}.html").read_text(), re.S)
        for name in ("saved", "own")
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 1


def test_labels_are_text(page):
    labels = ["<script>alert(1)</script>", "\"'&</title>"]
    found = page.post("/api/export/report", json={"scenarios": [SMALL, TRACED], "labels": labels})
    assert found.status_code == 200
    assert "<script>alert" not in found.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found.text


def test_every_fault_of_every_scenario_is_told(page):
    raw = {
        "scenarios": [SMALL | {"tp": 0}, SMALL | {"model": "gpt-oss-2b"}, 3],
        "labels": ["a", "b" * 81, "c"],
    }
    found = page.post("/api/export/report", json=raw)
    assert found.status_code == 422
    assert {row["where"] for row in found.json()["faults"]} == {
        "scenarios.0.tp",
        "scenarios.1.model",
        "scenarios.2.scenario",
        "labels.1",
    }
    lists = [None, [], [SMALL] * 9, SMALL]
    labels = [["a", "b"], "a", [1]]
    wrong = [{"scenarios": one} for one in lists] + [{"scenarios": [SMALL], "labels": one} for one in labels]
    for document in ([], {}, *wrong):
        assert page.post("/api/export/report", json=document).status_code == 422
    full = page.post(
        "/api/export/report", json={"scenarios": [SMALL, SMALL | {"model": "deepseek-v3"}], "labels": []}
    )
    assert full.status_code == 409
    assert full.json()["error"].startswith("scenario 2: ")
