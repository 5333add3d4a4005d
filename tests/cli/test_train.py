"""`moesim train`: what it prints, and how it ends."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.cli.app import main

MODEL = ["olmoe-1b-7b", "--hardware", "h100-sxm-8", "--global-batch", "64"]


def run(capsys, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["moesim", "train", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    out = capsys.readouterr()
    return stopped.value.code or 0, out.out, out.err


def test_one_document_with_everything(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *MODEL, "--ep", "8", "--json")
    done = json.loads(out)
    assert code == 0
    assert done["feasible"]
    assert done["schema_version"] == 1
    assert done["layout"]["dp"] == 8
    assert done["layout"]["etp"] == 1
    assert sum(done["memory"].values()) == pytest.approx(done["memory_bytes"])
    assert sum(line["seconds"] for line in done["breakdown"]) == pytest.approx(done["step_s"])
    assert done["tokens_per_s_per_device"] * 8 == pytest.approx(done["tokens_per_s"])
    assert 0 < done["mfu"] < 1
    assert done["provenance"]


def test_tables_for_people(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *MODEL, "--ep", "8", "--vpp", "1")
    assert code == 0
    assert "MFU" in out
    assert "the iteration is spent on" in out


def test_a_search_sorts_and_says_why_others_are_out(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *MODEL, "--search", "--top", "3", "--json")
    done = json.loads(out)
    assert code == 0
    assert done["fitting"] + sum(done["rejected"].values()) == done["tried"]
    steps = [layout["step_s"] for layout in done["layouts"]]
    assert steps == sorted(steps)
    assert len(steps) == 3
    assert done["layouts"][0]["efficient"]
    memory = [layout["memory_bytes"] for layout in done["efficient"]]
    assert memory == sorted(memory, reverse=True)


def test_what_does_not_fit_ends_with_one_and_says_by_how_much(capsys, monkeypatch):
    code, out, err = run(
        capsys, monkeypatch, "mixtral-8x22b", "--hardware", "h100-sxm-8", "--ep", "8", "--json"
    )
    done = json.loads(out)
    assert code == 1
    assert not done["feasible"]
    assert done["needed"] > done["available"]
    assert "infeasible" in err


def test_all_faults_at_once_end_with_two(capsys, monkeypatch):
    words = ["--tp", "3", "--zero", "7", "--recompute", "ful", "--padding", "capacity", "--imbalance", "0.5"]
    code, _, err = run(capsys, monkeypatch, *MODEL, *words)
    assert code == 2
    for part in ("--tp", "--zero", "--recompute", "nearest: full", "--capacity-factor", "--imbalance"):
        assert part in err
    code, _, err = run(capsys, monkeypatch, "olmo-1b", "--hardware", "h10")
    assert code == 2
    assert "olmoe" in err
    assert "h100" in err


def test_a_trace_gives_the_imbalance(capsys, monkeypatch, tmp_path):
    loads = np.ones((16, 64))
    # The first of 8 ranks has twice what the others have.
    loads[:, :8] = 2.0
    path = tmp_path / "loads.json"
    document = {"physical_count": loads.astype(int).tolist()}
    path.write_text(json.dumps(document), encoding="utf-8")
    np.savez(tmp_path / "loads.npz", counts=loads * 1000)
    code, out, err = run(
        capsys, monkeypatch, *MODEL, "--ep", "8", "--trace", str(tmp_path / "loads.npz"), "--json"
    )
    assert code == 0, err
    done = json.loads(out)
    assert done["imbalance"] == pytest.approx(2.0 / (9 / 8))
    _, even, _ = run(capsys, monkeypatch, *MODEL, "--ep", "8", "--json")
    assert json.loads(even)["step_s"] < done["step_s"]
