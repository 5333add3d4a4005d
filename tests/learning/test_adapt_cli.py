"""`moesim calibrate serving` with runs of one's own, as a user types it."""

from __future__ import annotations

import json

import pytest


def result(concurrency, tpot_ms, **changes):
    """What `vllm bench serve --save-result` writes, as far as it is read."""
    return {
        "backend": "vllm",
        "model_id": "Qwen/Qwen3-30B-A3B",
        "num_prompts": 200,
        "max_concurrency": concurrency,
        "request_rate": "inf",
        "duration": 100.0,
        "completed": 200,
        "total_input_tokens": 200 * 1000,
        "total_output_tokens": 200 * 500,
        "request_throughput": 2.0,
        "output_throughput": 1000.0,
        "mean_ttft_ms": 150.0,
        "median_ttft_ms": 140.0,
        "mean_tpot_ms": tpot_ms,
        "median_tpot_ms": tpot_ms,
        "mean_itl_ms": tpot_ms,
        "median_itl_ms": tpot_ms,
        **changes,
    }


@pytest.fixture
def folder(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for concurrency, tpot in ((8, 9.0), (32, 11.0), (128, 17.0)):
        (runs / f"c{concurrency}.json").write_text(json.dumps(result(concurrency, tpot)))
    return runs


SAID = ["--hardware", "h100-sxm-8", "--tp", "4"]
QUESTION = (
    "predict --model qwen3-30b-a3b --hardware h100-sxm-8 --tp 4 --input-len 1000 --output-len 500 "
    "--concurrency 32 --json"
).split()


def test_own_runs_change_predictions_towards_them(moesim, folder, tmp_path):
    mine = tmp_path / "mine.json"
    code, stdout, _ = moesim("calibrate", "serving", folder, *SAID, "-o", mine)
    assert code == 0
    assert "3 run(s) added" in stdout
    assert "collectives in a step" in stdout
    before, after = (json.loads(moesim(*QUESTION, *extra)[1]) for extra in ((), ("--calibration", mine)))
    assert abs(after["tpot_s"] - 0.011) < abs(before["tpot_s"] - 0.011) / 3
    assert after["calibration"]["novelty"] == "layout known"


def test_errors_before_and_from_the_others(moesim, folder, tmp_path):
    answer = json.loads(moesim("calibrate", "serving", folder, *SAID, "--json")[1])
    assert [line["path"] for line in answer["runs"]] == sorted(str(p) for p in folder.iterdir())
    assert answer["errors"]["tpot"]["before"]["n"] == 3
    assert answer["errors"]["tpot"]["after"]["median"] < answer["errors"]["tpot"]["before"]["median"]
    assert set(answer["traits"]) == {"vllm"}
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["no-such-folder"], ["no such file"]),
        (["{folder}"], ["which machine"]),
        (["{folder}", *SAID, "--backend", "tgi"], ["--backend", "sglang"]),
        (["{folder}", *SAID, "--onto", "no.json"], ["no.json"]),
        (["{folder}", *SAID, "--nested"], ["--nested"]),
        (["{folder}", "--hardware", "h100-sxm-8", "--tp", "3"], ["does not divide"]),
        (["{table}", "--tp", "3"], ["a table is learnt from by itself"]),
    ],
)
def test_wrong_arguments(moesim, words, parts, folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("id,model\n")
    said = [word.format(folder=folder, table=table) for word in words]
    code, stdout, stderr = moesim("calibrate", "serving", *said, "-o", tmp_path / "out.json")
    assert (code, stdout) == (2, "")
    for part in parts:
        assert part in stderr
    assert not (tmp_path / "out.json").exists()
