"""`moesim validate serving`, as it is typed."""

from __future__ import annotations

import csv
import json
import os
import threading
from pathlib import Path

import pytest
from bench_files import folder_rows, run_folder, vllm_result
from serving_rows import POOLS, write_csv

SIGNED = {f"{name}_error" for name in ("mean", "median", "p90", "p99")}
WHOLE = {"wasserstein", "ks", "request_error", "correlation"}


@pytest.fixture
def table(tmp_path):
    return write_csv(
        tmp_path / "rows.csv",
        {},
        {"id": "wide", "tp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8", "silicon_tpot_ms": "9"},
        {"id": "blank", "silicon_ttft_ms": "", "silicon_tpot_ms": ""},
        {"id": "apart", **POOLS},
        {"id": "who", "model_path": "someone/nobody-7b"},
        {"id": "big", "model_path": "deepseek-ai/DeepSeek-V3", "tp_size": "1", "moe_tp_size": "1"},
    )


def test_predictions_are_written_in_order(moesim, table, tmp_path):
    out = tmp_path / "out.csv"
    code, stdout, stderr = moesim("validate", "serving", table, "--out", out)
    assert code == 0
    assert "6 lines" in stderr
    assert "TPOT, predicted / measured - 1" in stdout
    assert "TP 64 with EP 8 read as TP 8" in stdout
    assert "unknown model 'someone/nobody-7b'" in stdout
    with out.open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["id"] for line in lines] == ["r1", "wide", "blank", "apart", "who", "big"]
    assert list(lines[0]) == [
        "id",
        "pred_ttft_ms",
        "pred_tpot_ms",
        "ttft_lo_ms",
        "ttft_hi_ms",
        "tpot_lo_ms",
        "tpot_hi_ms",
        "status",
        "reason",
        "layout",
        "repaired",
        "doubtful",
    ]
    assert lines[1]["repaired"] == "TP 64 with EP 8 read as TP 8"
    assert lines[1]["layout"] == "tp=8 pp=1 dp=1 ep=8"
    for line in lines[:3]:
        assert line["status"] == "predicted"
        assert float(line["tpot_lo_ms"]) < float(line["pred_tpot_ms"]) < float(line["tpot_hi_ms"])
        assert float(line["ttft_lo_ms"]) < float(line["pred_ttft_ms"]) < float(line["ttft_hi_ms"])
    assert lines[4]["pred_ttft_ms"] == ""
    assert (lines[4]["status"], lines[5]["status"]) == ("unsupported", "infeasible")
    assert "GB" in lines[5]["reason"]


def test_measurements_do_not_move_predictions(moesim, table, tmp_path):
    def predictions(path):
        out = tmp_path / "out.csv"
        moesim("validate", "serving", path, "--out", out)
        return out.read_text()

    blanked = tmp_path / "blanked.csv"
    with table.open() as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        line["silicon_ttft_ms"] = line["silicon_tpot_ms"] = ""
    with blanked.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert predictions(table) == predictions(blanked)


def test_json(moesim, table):
    code, stdout, _ = moesim("validate", "serving", table, "--json")
    document = json.loads(stdout)
    assert code == 0
    assert document["schema_version"] == 1
    assert len(document["rows"]) == 6
    assert document["rows"][1]["repairs"] == ["TP 64 with EP 8 read as TP 8"]
    assert document["rows"][2]["ttft_ms"] is None
    summary = document["summary"]
    assert summary["counts"]["rows"] == 6
    assert summary["tpot"]["all"]["n"] >= 2
    assert set(summary["tpot"]["by"]) == {"mode", "system", "backend", "model"}
    assert set(summary["tpot"]["roofline"]) == {"roofline", "predicted"}
    assert summary["accepted"] is None


def test_rows_of_the_calibration_are_warned_of(moesim):
    path = Path(__file__).with_name("serving_sample.csv")
    code, stdout, stderr = moesim("validate", "serving", path)
    assert code == 0
    assert "the calibration was fitted to 48 of these 48 rows" in stderr
    assert "Held-out runs of the calibration" in stdout
    assert "judged seen" in stdout
    assert "judged new" not in stdout
    document = json.loads(moesim("validate", "serving", path, "--json")[1])
    known = document["summary"]["calibration"]
    assert (known["name"], known["seen"]) == ("shipped", 48)
    assert known["held_out"]["moe"]["model"]["tpot"]["median"] > document["summary"]["tpot"]["all"]["median"]
    assert all(row["seen"] for row in document["rows"])


def test_physics_alone_has_seen_nothing(moesim, table, tmp_path):
    path = Path(__file__).with_name("serving_sample.csv")
    code, stdout, stderr = moesim("validate", "serving", path, "--calibration", "none")
    assert code == 0
    assert "0 seen" in stdout
    assert "judged new" in stdout
    assert "warning" not in stderr
    assert "Held-out" not in stdout
    code, _, stderr = moesim("validate", "serving", path, "--calibration", tmp_path / "absent.json")
    assert (code, "cannot be read" in stderr) == (2, True)
    code, _, stderr = moesim("validate", "serving", path, "--calibration", table)
    assert (code, "is not a calibration" in stderr) == (2, True)
    folder = run_folder(tmp_path / "H100" / "run", folder_rows())
    errors = [
        json.loads(moesim("validate", "serving", folder, *words, "--json")[1])["summary"]["tpot"][
            "mean_error"
        ]
        for words in ((), ("--calibration", "none"))
    ]
    # Constants of the engine make steps longer than kernels alone do.
    assert errors[0] > errors[1]


def test_a_pipe(moesim, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = write_csv(tmp_path / "rows.csv", {}).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    code, stdout, _ = moesim("validate", "serving", pipe)
    writer.join()
    assert code == 0
    assert "1 rows, 1 supported, 1 predicted" in stdout


def test_all_blank(moesim, tmp_path):
    path = write_csv(tmp_path / "rows.csv", {"silicon_ttft_ms": "", "silicon_tpot_ms": ""})
    code, stdout, _ = moesim("validate", "serving", path)
    assert code == 0
    assert "no row has both a measurement and a prediction" in stdout


def test_faults_exit_2_before_anything_is_written(moesim, tmp_path):
    out = tmp_path / "out.csv"
    bad = write_csv(tmp_path / "bad.csv", {"isl": "x"}, {"mode": "both"})
    code, stdout, stderr = moesim("validate", "serving", bad, "--out", out)
    assert (code, stdout) == (2, "")
    assert "2 faults" in stderr
    assert not out.exists()
    code, _, stderr = moesim("validate", "serving", bad, "--out", tmp_path / "absent" / "out.csv")
    assert (code, "its folder does not exist" in stderr) == (2, True)
    code, _, stderr = moesim("validate", "serving", tmp_path / "absent.csv")
    assert (code, "cannot be read" in stderr) == (2, True)
    code, _, stderr = moesim("validate", "serving", bad, "--tp", 2)
    assert (code, "describes a run" in stderr) == (2, True)


def test_a_run_folder(moesim, tmp_path):
    folder = run_folder(tmp_path / "H100" / "run", folder_rows())
    code, stdout, _ = moesim("validate", "serving", folder)
    assert code == 0
    assert "TTFT mean, ms" in stdout
    assert "h100-sxm-8" in stdout
    code, stdout, _ = moesim("validate", "serving", folder, "--json", "--hardware", "b200")
    document = json.loads(stdout)
    assert document["rows"][0]["hardware"] == "b200-sxm-8"
    assert set(document["summary"]) == {"ttft", "tpot", "itl", "e2el"}
    assert all(set(errors) == SIGNED | WHOLE for errors in document["summary"].values())
    assert all(isinstance(errors[n], float) for errors in document["summary"].values() for n in SIGNED)
    assert all(errors["wasserstein"] >= 0 for errors in document["summary"].values())
    assert document["provenance"]["inputs"]


def test_several_runs_and_an_output(moesim, tmp_path):
    run_folder(tmp_path / "H100" / "a", folder_rows())
    run_folder(tmp_path / "H100" / "b", folder_rows())
    out = tmp_path / "out.csv"
    code, stdout, _ = moesim("validate", "serving", tmp_path, "--out", out)
    assert code == 0
    assert "Median over runs" in stdout
    assert len(out.read_text().splitlines()) == 3


def test_a_result_that_does_not_say_enough(moesim, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(vllm_result()))
    code, _, stderr = moesim("validate", "serving", path)
    assert (code, "--hardware" in stderr) == (2, True)
    code, _, stderr = moesim("validate", "serving", path, "--hardware", "h100", "--tp", 2)
    assert code == 0
    assert "assumed: --max-num-seqs" in stderr
    code, _, stderr = moesim("validate", "serving", path, "--hardware", "h101")
    assert (code, "nearest" in stderr) == (2, True)
    code, _, stderr = moesim("validate", "serving", path, "--backend", "mii", "--hardware", "h100")
    assert (code, "unknown backend" in stderr) == (2, True)
