"""Bad input to `moesim place`: every fault at once, exit code 2, nothing written, no traceback."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

LAYERS, EXPERTS = 32, 8  # of Mixtral
MODEL = ("--model", "mixtral-8x7b", "--method", "greedy")
RNG = np.random.default_rng(0)
GOOD = RNG.integers(1, 1000, size=(LAYERS, EXPERTS)).tolist()


def changed(value, *places):
    table = [list(row) for row in GOOD]
    for layer, expert in places:
        table[layer][expert] = value
    return table


LOADS = {
    "good": GOOD,
    "nan": changed(float("nan"), (3, 2)),
    "infinite": changed(float("inf"), (3, 2)),
    "negative": changed(-5, (0, 0)),
    "text": changed("many", (0, 0)),
    "idle": changed(0, *((4, e) for e in range(EXPERTS)), *((9, e) for e in range(EXPERTS))),
    "all-idle": [[0] * EXPERTS] * LAYERS,
    "other": RNG.integers(1, 9, size=(16, 64)).tolist(),
    "short": GOOD[:20],
}


@pytest.fixture
def place(tmp_path, monkeypatch, moesim):
    """Run `moesim place` in a folder of loads; nothing there may change."""
    monkeypatch.chdir(tmp_path)
    for name, rows in LOADS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"logical_count": rows}))
    (tmp_path / "cut.json").write_text('{"logical_count": [[1, 2')
    (tmp_path / "empty.json").touch()
    (tmp_path / "folder").mkdir()

    def run(*words):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        code, out, err = moesim("place", *words)
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        if code != 0:
            assert after == before
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        # slots that cannot hold the experts, or not on so many ranks
        (("good.json", "--ep", 3), ["8 experts do not divide over 3 ranks", "1 would fit"]),
        (("good.json", "--ep", 16), ["8 experts do not divide over 16 ranks", "8 would fit"]),
        (("good.json", "--ep", 4, "--redundant", 3), ["8 experts and 3 redundant ones do not divide"]),
        (("good.json", "--ep", 4, "--redundant", -4), ["is too small (got -4)"]),
        (("good.json", "--ep", 4, "--redundant", 28), ["at most one replica per rank", "0 to 24"]),
        (("good.json", "--ep", 1, "--redundant", 1), ["at most one replica per rank"]),
        (("good.json", "--ep", 4, "--redundant", "1.5"), ["is no number (got '1.5')"]),
        (("good.json", "--ep", 4, "--redundant", "9" * 5000), ["is no number"]),
        (("good.json", "--ep", 4, "--redundant", "auto"), ["--hardware"]),
        (("good.json", "--ep", 0), ["ranks", "is too small (got 0)"]),
        (("good.json", "--ep", -4), ["ranks", "is too small (got -4)"]),
        # loads that are none, or of another model
        (("nan.json", "--ep", 4), ["nan.json", "[3][2]", "is no load (got nan)"]),
        (("infinite.json", "--ep", 4), ["infinite.json", "[3][2]", "is no load (got inf)"]),
        (("negative.json", "--ep", 4), ["negative.json", "[0][0]", "is no load (got -5)"]),
        (("text.json", "--ep", 4), ["text.json"]),
        (("all-idle.json", "--ep", 4), ["all-idle.json", "no load at all"]),
        (("other.json", "--ep", 4), ["16 MoE layers, mixtral-8x7b has 32", "64 experts"]),
        (("short.json", "--ep", 4), ["20 MoE layers, mixtral-8x7b has 32"]),
        (("cut.json", "--ep", 4), ["cut.json", "truncated"]),
        (("empty.json", "--ep", 4), ["empty.json", "is empty"]),
        (("none.json", "--ep", 4), ["none.json", "cannot be read"]),
        (("good.json", "--ep", 4, "--evaluate-on", "other.json"), ["other.json", "64 experts"]),
        (("good.json", "--ep", 4, "--robust", "short.json"), ["short.json", "20 MoE layers"]),
        (("good.json", "--ep", 4, "--robust", "nan.json"), ["nan.json", "is no load"]),
        # outputs
        (("good.json", "--ep", 4, "--emit", "cuda:x"), ["is no plan format (got 'cuda')"]),
        (("good.json", "--ep", 4, "--emit", "vlm:x"), ["nearest: vllm"]),
        (("good.json", "--ep", 4, "--emit", ""), ["names no format and file"]),
        (("good.json", "--ep", 4, "--emit", "vllm:no/x"), ["no/x", "does not exist"]),
        (("good.json", "--ep", 4, "--emit", "vllm:folder"), ["is a folder"]),
        (("good.json", "--ep", 4, "--emit", "sglang:plan.txt"), ["a name ending in .json"]),
        (("good.json", "--ep", 4, "--emit", "vllm:x", "--emit", "eplb:./x"), ["written twice"]),
        (("good.json", "--ep", 4, "--emit", "vllm:good.json"), ["over what is read"]),
        (("good.json", "--ep", 4, "--emit", "vllm:x", "--report", "x"), ["over a plan"]),
        (("good.json", "--ep", 4, "--report", "no/r.html"), ["--report", "does not exist"]),
        (("good.json", "--ep", 4, "--report", "good.json"), ["over what is read"]),
        # everything else
        (("good.json", "--ep", 4, "--dispatch", "evne"), ["dispatch", "nearest: even"]),
        (("good.json", "--ep", 4, "--rank-slots", "1,2,3,2"), ["--emit", "no engine loads a plan"]),
        (("good.json", "--ep", 4, "--rank-slots", "1,x"), ["--rank-slots", "'x'"]),
        (("good.json", "--ep", 4, "--rank-speeds", "1,nan,1,1", "--current", "none.json"), ["none.json"]),
        (("good.json", "--ep", 4, "--current", "good.json"), ["holds loads"]),
        (("good.json", "--ep", 4, "--objective", "beauty"), ["objective", "beauty"]),
        (("good.json", "--ep", 4, "--concurrency", "nan"), ["--concurrency"]),
        (("good.json", "--ep", 4, "--input-len", 0), ["--input-len"]),
        (("good.json", "--ep", 4, "--hardware", "nohw"), ["unknown hardware 'nohw'"]),
        (("good.json", "--ep", 16, "--redundant", 8, "--hardware", "h200-sxm-8"), ["--nodes 2"]),
        (("--ep", 4), ["TRACE"]),
    ],
)
def test_wrong_input(words, parts, place):
    emit = () if "--emit" in words else ("--emit", "vllm:out.json")
    code, out, err = place(*words, *MODEL, *emit)
    assert code == 2, out + err
    assert out == ""
    for part in parts:
        assert part in err


def test_layers_without_load_are_named(place):
    code, _, err = place("idle.json", *MODEL, "--ep", 4, "--emit", "vllm:out.json")
    assert code in (0, 2)
    assert "4" in err
    assert "9" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("none.json", "--model", "mixtrl", "--hardware", "nohw", "--emit", "cuda:x", "--report", "no/r"),
            ["mixtral-8x7b", "nohw", "none.json", "cuda", "no/r"],
        ),
        (
            "good.json --model mixtral-8x7b --ep 3 --method serch --dispatch evne --emit vllm:no/x "
            "--report no/r --concurrency -1 --overlap all".split(),
            ["3 ranks", "serch", "evne", "no/x", "no/r", "--concurrency", "--overlap"],
        ),
        (
            ("other.json", "--model", "mixtral-8x7b", "--evaluate-on", "short.json", "--robust", "nan.json"),
            ["16 MoE layers", "20 MoE layers", "nan.json"],
        ),
        (("good.json", "--model", "llama-3.1-8b", "--emit", "cuda:x"), ["no experts", "cuda"]),
    ],
)
def test_faults_come_together(words, parts, place):
    code, out, err = place(*words, *(() if "--ep" in words else ("--ep", 4)))
    assert code == 2, out + err
    for part in parts:
        assert part in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_what_may_not_be_written(place, tmp_path):
    (tmp_path / "folder").chmod(0o500)
    code, _, err = place("good.json", *MODEL, "--ep", 4, "--emit", "vllm:folder/x")
    assert code == 2
    assert "permission denied" in err


def test_a_file_system_without_room_keeps_the_old_plan(place, tmp_path):
    resource = pytest.importorskip("resource")
    words = ("good.json", *MODEL, "--ep", 4, "--emit", "sglang:p.json")
    assert place(*words)[0] == 0
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        code, _, err = place(*words, "--redundant", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert code == 2
    assert "p.json: cannot be written: file too large" in err
    assert not list(tmp_path.glob(".*"))
