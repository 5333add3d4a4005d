"""`moesim demo` as someone runs it first."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from moesim.model import load_model
from moesim.placement import read_plan
from tests.program import run_here


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The first command of all, in a process of its own."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "moesim", "demo"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env=os.environ | {"NO_COLOR": "1"},
        check=False,
    )
    return folder, done


def test_demo_prints_before_and_after(shown):
    folder, done = shown
    assert done.returncode == 0, done.stderr
    rows = {
        found[0]: [float(cell.replace(",", "")) for cell in found[1:]]
        for line in done.stdout.splitlines()
        if (found := line.split())[:1] and found[0] in ("contiguous", "greedy", "plan") and len(found) == 5
    }
    assert set(rows) == {"contiguous", "greedy", "plan"}
    for column, better in enumerate((min, min, min, max)):
        values = {name: row[column] for name, row in rows.items()}
        assert better(values.values()) == values["plan"]
    assert rows["contiguous"][0] > 1.5 > 1.01 > rows["plan"][1]
    assert "synthetic" in done.stdout
    real, uniform = (
        float(re.search(rf"{name}:\s+TPOT ([\d.]+) ms", done.stdout)[1])
        for name in ("bundled synthetic trace", "every expert equally likely")
    )
    assert real > uniform
    for name in ("moesim-demo-plan.json", "moesim-demo-report.html"):
        assert name in done.stdout
        assert (folder / name).is_file()
    assert len(list(folder.iterdir())) == 3  # and the record of the plan


def test_demo_plan_is_one_sglang_loads(shown):
    folder, _ = shown
    whole = json.loads((folder / "moesim-demo-plan.json").read_text())
    assert list(whole) == ["physical_to_logical_map"]
    assert len(whole["physical_to_logical_map"]) == 61
    plan = read_plan(folder / "moesim-demo-plan.json", load_model("deepseek-v3"), 32)
    assert (plan.layers, plan.slots, plan.redundant) == (58, 288, 32)


def test_demo_report_says_it_is_synthetic(shown):
    text = (shown[0] / "moesim-demo-report.html").read_text(encoding="utf-8")
    assert "The routing is synthetic" in text
    assert len(text) < 1_000_000
    assert text.count("<figure ") == 6


def test_demo_json(tmp_path):
    done = run_here("demo", "--json", "--output-dir", tmp_path, cwd=tmp_path.parent)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=lambda c: pytest.fail(f"{c} in JSON"))
    assert document["schema_version"] == 1
    assert document["synthetic"] is True
    balance = document["placement"]["load_imbalance"]
    assert balance["plan"]["fitted"]["worst"] < balance["greedy"]["fitted"]["worst"]
    assert document["placement"]["gap"]["worst"] < 5e-4
    routing = document["routing"]
    assert routing["with_trace"]["tpot_s"] > routing["without_trace"]["tpot_s"]
    assert len(document["provenance"]["inputs"]) == 5
    judged = {name: v["evaluated"]["mean"] for name, v in document["recorded"]["load_imbalance"].items()}
    assert judged["plan"] < judged["contiguous"]
    names = {"moesim-demo-plan.json", "moesim-demo-plan.json.provenance.json", "moesim-demo-report.html"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_demo_into_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "none", tmp_path / "file"):
        done = run_here("demo", "--output-dir", folder, cwd=tmp_path)
        assert done.returncode == 2
        assert "--output-dir" in done.stderr
        assert "placing" not in done.stderr
        assert "Traceback" not in done.stderr
