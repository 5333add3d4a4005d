"""The command: what it writes and prints, exit codes, and the words for a user's mistakes."""

from __future__ import annotations

import contextlib
import json

import pytest
from reference_laws import HELD, Law

from moesim.validate.reference import predict, write_runs


@pytest.fixture
def played(monkeypatch, machine, tmp_path):
    """`moesim validate reference` on a device that takes as long as predicted, times a factor."""
    from moesim.validate import reference as room
    from moesim.validate.reference import devices

    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    factor = [1.0]

    @contextlib.contextmanager
    def start(played):
        yield Law(played, lambda work, _run: factor[0] * predict(work, machine).seconds)

    monkeypatch.setattr(devices, "opener", lambda _device: start)
    monkeypatch.setattr(room, "frozen", lambda _device: HELD)
    monkeypatch.chdir(tmp_path)
    return factor


@pytest.mark.usefixtures("played")
def test_it_runs_scores_and_keeps_the_runs(moesim, machine_file, tmp_path):
    raw, page = tmp_path / "runs.json", tmp_path / "page.html"
    code, out, err = moesim(
        "validate", "reference", "--hardware", machine_file, "--rounds", 3, "--raw", raw, "--html", page
    )
    assert code == 0
    assert "10 held-out layers, 3 rounds" in out
    assert "verdict: passed (gate: median <= 10%, p95 <= 20%)" in out
    assert "noise floor" in out
    assert "plain roofline" in out
    assert "not the frozen cases" in out
    # The description is of another processor than the one that runs.
    assert "warning: the description is of" in err
    assert "running (30)" not in err
    code, out, _ = moesim("validate", "reference", "--from", raw, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["summary"]["n"] == len(document["rows"]) == 10
    for name in ("median_abs_error", "p95_abs_error", "median_signed_error", "coverage", "verdict"):
        assert document["summary"][name] is not None
    assert "NaN" not in out


def test_a_wrong_description_fails(played, moesim, machine_file, tmp_path):
    played[0] = 1.5
    raw = tmp_path / "runs.json"
    code, out, _ = moesim("validate", "reference", "--hardware", machine_file, "--rounds", 2, "--raw", raw)
    assert code == 1
    assert "verdict: failed" in out
    assert raw.exists()


@pytest.mark.usefixtures("played")
def test_publish(moesim, machine_file, tmp_path):
    command = ("validate", "reference", "--hardware", machine_file, "--rounds", 2, "--publish")
    code, out, _ = moesim(*command, "--machine", "my-box")
    assert code == 0
    folder = tmp_path / "reports" / "my-box"
    names = {"reference-cpu.json", "reference-cpu-runs.json", "reference-cpu.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert str(folder / "reference-cpu.html").removeprefix(str(tmp_path) + "/") in out
    result = json.loads((folder / "reference-cpu.json").read_text())
    assert result["summary"]["verdict"] == "passed"
    assert result["runs"] == "reference-cpu-runs.json"
    code, out, _ = moesim("validate", "reference", "--from", folder / result["runs"])
    assert code == 0


def test_noise_warns(runs_of, machine, moesim, tmp_path):
    # Every second run takes twice as long: odd and even rounds differ.
    runs = runs_of(lambda work, run: predict(work, machine).seconds * (1 + ((run - 1) // 13) % 2))
    path = tmp_path / "runs.json"
    write_runs(runs, path)
    code, out, err = moesim("validate", "reference", "--from", path)
    assert code == 0
    assert "verdict: inconclusive" in out
    assert "too noisy" in err


def test_mistakes(moesim, machine_file, tmp_path, monkeypatch):
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))
    code, _, err = moesim(
        "validate",
        "reference",
        "--device",
        "abacus",
        "--from",
        "x",
        "--raw",
        "no/such/folder/y",
        "--machine",
        "../..",
    )
    assert code == 2
    for words in ("--device: is no device", "--raw", "--machine: is no folder name"):
        assert words in err
    code, _, err = moesim("validate", "reference")
    assert code == 2
    assert "not calibrated" in err
    assert "moesim calibrate cpu" in err
    code, _, err = moesim("validate", "reference", "--device", "cuda", "--hardware", machine_file)
    assert code == 2
    assert "is not the description of a cuda device (got 'cpu'); allowed: that of a GPU" in err
    code, _, err = moesim("validate", "reference", "--from", tmp_path / "none.json")
    assert code == 2
    code, _, err = moesim("validate", "reference", "--hardware", machine_file, "--traces", tmp_path / "none")
    assert code == 2
    assert "--traces" in err
