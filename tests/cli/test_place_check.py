"""`moesim place --emit` and `--check` as a user runs them, for every format."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from moesim.files import data_dir
from moesim.placement import FORMATS

COUNTS = data_dir("traces") / "deepseek-v3-synthetic.json"
MODEL = ("--model", "deepseek-v3", "--ep", 32)


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """The bundled loads, placed and written in every format by the program: folder and JSON."""
    from test_predict_place import run

    folder = tmp_path_factory.mktemp("plans")
    emit = [word for f in FORMATS.values() for word in ("--emit", f"{f.name}:{f.name}-{f.file}")]
    words = ("place", COUNTS, "--model", "deepseek-ai/DeepSeek-V3", "--ep", 32, "--redundant", 32)
    done = run(*words, "--method", "greedy", *emit, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture
def plans(placed, tmp_path, monkeypatch):
    """A folder of the program's own plans to work in, one per format by name."""
    for file in placed[0].iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return {f.name: tmp_path / f"{f.name}-{f.file}" for f in FORMATS.values()}


def test_what_was_emitted_is_told(placed):
    folder, answer = placed
    by_format = {file["format"]: file for file in answer["emitted"]}
    assert list(by_format) == list(FORMATS)
    for name, file in by_format.items():
        assert file["rows"] == (61 if name == "sglang" else 58)
        record = json.loads((folder / file["provenance"]).read_text())
        assert record["sha256"] == hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest()
        assert record["model"] == "deepseek-v3"
        assert (record["ranks"], record["slots"], record["method"]) == (32, 288, "greedy")
        assert record["provenance"]["seed"] == 0
        (source,) = record["provenance"]["inputs"].values()
        assert source == hashlib.sha256(COUNTS.read_bytes()).hexdigest()
        assert record["load_imbalance"]["fitted"] == answer["load_imbalance"]["plan"]["fitted"]
        if name == "eplb":
            assert file["command"] is None
        else:
            assert "deepseek-ai/DeepSeek-V3" in file["command"]
            assert file["path"] in file["command"]
    assert any("pull/49572" in note for note in by_format["vllm"]["notes"])


@pytest.mark.parametrize("name", FORMATS)
def test_its_own_plans_pass(name, plans, moesim):
    code, out, _ = moesim("place", COUNTS, *MODEL, "--redundant", 32, "--check", plans[name])
    assert code == 0
    for part in (
        name,
        "58",
        "288 (32 redundant, 9 per rank)",
        "unchanged since it was written",
        "greedy, for even",
        COUNTS.name,
    ):
        assert part in out
    code, out, _ = moesim("place", *MODEL, "--check", plans[name], "--evaluate-on", COUNTS, "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["ok"], answer["format"], answer["faults"]) == (True, name, [])
    assert (answer["layers"], answer["slots"], answer["redundant"]) == (58, 288, 32)
    assert answer["most_replicas"] > 1
    assert (answer["made"]["method"], answer["made"]["dispatch"]) == ("greedy", "even")
    assert 1.0 < answer["load_imbalance"][str(COUNTS)]["mean"] < 1.05
    assert len(answer["provenance"]["inputs"]) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_plan_for_something_else_fails(name, plans, moesim):
    for words in (
        ("--model", "deepseek-v3", "--ep", 36, "--redundant", 68),
        ("--model", "deepseek-v3", "--ep", 32, "--redundant", 64),
        ("--model", "qwen3-30b-a3b", "--ep", 32),
        ("--model", "deepseek-v3", "--ep", 7),
    ):
        code, out, err = moesim("place", *words, "--check", plans[name], "--json")
        answer = json.loads(out)
        assert code == 1, (words, err)
        assert answer["ok"] is False
        assert {"where", "message", "value", "allowed"} == set(answer["faults"][0])
        assert answer["layers"] is None


def test_a_failed_check_for_people(plans, moesim):
    path = plans["sglang"]
    document = json.loads(path.read_text())
    document["physical_to_logical_map"][60][0] = 999
    document["seed"] = 0
    path.write_text(json.dumps(document))
    code, out, err = moesim("place", *MODEL, "--check", path)
    assert code == 1
    assert "error: the plan fails the check" in err
    for part in (
        "seed: is no name SGLang takes beside the map",
        "physical_to_logical_map[60][0]: is no expert of the model (got 999); allowed: whole numbers from 0",
        "has been changed",
    ):
        assert part in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--check", "none.json"), ["none.json", "cannot be read"]),
        (("--check", "."), ["is a folder"]),
        (("--check", "junk"), ["junk", "is no plan"]),
        (("--check", "plan.json", "--redundant", "auto"), ["--redundant", "auto"]),
        (("--check", "plan.json", "--redundant", 5), ["does not divide over 32 ranks"]),
        (("--check", "plan.json", "--redundant", -1), ["cannot hold 256 experts"]),
        (("--check", "plan.json", "--dispatch", "evne"), ["--dispatch", "even"]),
        (("--check", "plan.json", "--emit", "sglang:x.json"), ["writes nothing", "x.json"]),
        (
            ("--check", "plan.json", "--report", "r.html", "--check", "none.json"),
            ["writes nothing", "none.json"],
        ),
        (("--check", "plan.json", "--evaluate-on", "none"), ["none"]),
        ((), ["TRACE", "--check"]),
    ],
)
def test_questions_that_cannot_be_asked(words, parts, plans, tmp_path, moesim):
    plans["sglang"].rename("plan.json")
    (tmp_path / "junk").write_text("a: plan\n")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    code, out, err = moesim("place", *MODEL, *words)
    assert code == 2, out + err
    assert out == ""
    for part in parts:
        assert part in err
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_ranks_and_dense_models(plans, moesim):
    for model, ep in (("deepseek-v3", 0), ("deepseek-v3", -2), ("llama-3.1-8b", 8)):
        code, _, err = moesim("place", "--model", model, "--ep", ep, "--check", plans["vllm"])
        assert code == 2
        assert err


@pytest.mark.parametrize("name", FORMATS)
def test_predict_reads_every_format(name, plans, moesim):
    machine = ("--hardware", "h200-sxm-8", "--nodes", 4, "--dp", 32, "--ep", 32, "--concurrency", 2048)
    words = ("predict", "--model", "deepseek-v3", *machine, "--trace", COUNTS, "--json")
    code, out, err = moesim(*words, "--plan", plans[name])
    assert code == 0, err
    assert json.loads(out)["experts"]["slots_per_rank"] == 9
    code, _, err = moesim(*words, "--plan", plans[name], "--redundant", 32)
    assert code == 2
    assert "--redundant: comes with the plan" in err
