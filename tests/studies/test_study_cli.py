"""What people see of a study: progress, summary, questions, exit codes."""

from __future__ import annotations

import functools
import io
import json
import shutil

import pyarrow.parquet as pq
import pytest
import typer

from moesim.cli.plan_grid import run_grid
from moesim.errors import ConfigError
from moesim.studies import query, run_study
from moesim.studies.progress import Progress, duration

GRID = """grid:
  layout: [{dp: 8, ep: 8}, {tp: 8}, {tp: 3}]
  workload.concurrency: [16, 64]
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study that ran once: its file, and its results."""
    folder = tmp_path_factory.mktemp("ran")
    path = folder / "h100.yaml"
    path.write_text(
        "schema_version: 1\nname: h100\nbase:\n  model: gpt-oss-20b\n  hardware: h100-sxm-8\n"
        "  workload: {input_len: 1024, output_len: 128}\n" + GRID
    )
    return path, run_study(path)


def test_results_lie_beside_the_study(ran):
    path, done = ran
    assert done.folder == path.parent / "h100-results"
    assert done.path == done.folder / "tables" / "h100.parquet"
    assert pq.read_table(done.path).equals(done.table)


def test_the_summary_says_what_there_is(ran, capsys):
    run_grid(str(ran[0]))
    captured = capsys.readouterr()
    assert "6: 2 invalid, 4 ok" in captured.out
    assert "6, 0" in captured.out
    assert "invalid (2): " in captured.err
    assert "--tp" in captured.err


def test_json_is_one_document(ran, capsys):
    run_grid(str(ran[0]), json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["evaluates"]) == ("study", "predict")
    assert document["configurations"] == document["found"] == 6
    assert document["computed"] == 0
    assert document["statuses"] == {"ok": 4, "invalid": 2}
    assert document["reasons"][0]["count"] == 2
    assert document["provenance"]["inputs"]


def test_questions_about_a_study(ran, capsys):
    path, done = ran
    sql = "select layout_tp, max(output_throughput) from study where status = 'ok' group by 1 order by 1"
    run_grid(str(path), json=True, query=sql)
    rows = json.loads(capsys.readouterr().out)["rows"]
    best: dict[int, float] = {}
    for row in done.table.to_pylist():
        if row["status"] == "ok":
            best[row["layout_tp"]] = max(best.get(row["layout_tp"], 0.0), row["output_throughput"])
    assert {row["layout_tp"]: row["max(output_throughput)"] for row in rows} == best
    run_grid(str(path), query=sql)
    assert "layout_tp" in capsys.readouterr().out


def test_questions_about_a_folder(ran):
    folder = ran[1].folder
    assert query(folder, 'select count(*) n from "h100"').to_pylist() == [{"n": 6}]
    assert query(folder, "select count(*) n from results").to_pylist() == [{"n": 6}]
    one = query(folder, "select identity ->> '$.model.name' model from results limit 1").to_pylist()
    assert one == [{"model": "gpt-oss-20b"}]


def test_a_damaged_table_is_named_and_written_anew(ran, tmp_path):
    path, done = ran
    shutil.copytree(done.folder, tmp_path / "out")
    table = tmp_path / "out" / "tables" / "h100.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:100] + whole[101:])
    with pytest.warns(UserWarning, match="h100.parquet: its checksum is wrong"):
        assert query(tmp_path / "out", "select count(*) n from results").to_pylist() == [{"n": 6}]
    assert run_study(path, tmp_path / "out").computed == 0
    assert table.read_bytes() == whole


@pytest.mark.parametrize(
    "sql",
    [
        "selec 1",
        "select nothing from study",
        "select * from read_csv('/etc/passwd')",
        "copy study to '/tmp/study.csv'",
        "attach '/tmp/x.db'",
        "set enable_external_access = true",
    ],
    ids=["syntax", "column", "read", "write", "attach", "settings"],
)
def test_questions_that_are_not_taken(ran, sql):
    with pytest.raises(ConfigError, match="--query"):
        run_grid(str(ran[0]), query=sql)


def test_a_question_before_there_are_results(study, tmp_path, capsys):
    run_grid(str(study("grid: {workload.concurrency: [1, 2]}\n")), query="select count(*) from study")
    captured = capsys.readouterr()
    assert "2 configurations have no result yet" in captured.err
    assert not (tmp_path / "study-results").exists()
    with pytest.raises(ConfigError, match="holds no results"):
        query(tmp_path / "study-results", "select 1")


def test_exit_codes(study, tmp_path, log):
    impossible = study("  nodes: 1\ngrid: {layout: [{tp: 1}]}\n", "big", base=BIG)
    with pytest.raises(typer.Exit) as stopped:
        run_grid(str(impossible), str(tmp_path / "out"))
    assert stopped.value.exit_code == 1
    assert log() == []


def _instead(monkeypatch, run):
    monkeypatch.setattr("moesim.studies.run.run_study", run)


@pytest.mark.usefixtures("log")
def test_failed_rows_are_an_exit_code_and_said(study, tmp_path, monkeypatch, capsys):
    _instead(monkeypatch, functools.partial(run_study, evaluator="study_evaluators:buggy"))
    path = str(study("grid: {workload.concurrency: [1, 2, 3, 4]}\n"))
    with pytest.raises(typer.Exit) as stopped:
        run_grid(path, str(tmp_path / "out"), 2)
    captured = capsys.readouterr()
    assert stopped.value.exit_code == 1
    assert "1 error" in captured.out
    assert "error (1): TypeError: a bug" in captured.err
    assert "run it again" in captured.err
    _instead(monkeypatch, functools.partial(run_study, evaluator="study_evaluators:logged"))
    run_grid(path, str(tmp_path / "out"), json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["found"], document["computed"]) == (3, 1)


def test_stopping_by_hand_is_said(study, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    _instead(monkeypatch, interrupted)
    with pytest.raises(typer.Exit) as stopped:
        run_grid(str(study("grid: {workload.concurrency: [1]}\n")), str(tmp_path / "out"))
    assert stopped.value.exit_code == 130
    assert "goes on from there" in capsys.readouterr().err


BIG = """schema_version: 1
name: {name}
base:
  model: deepseek-v3
  hardware: h100-sxm-8
  workload: {{input_len: 1024, output_len: 128, concurrency: 1}}
"""


def test_progress_goes_by_the_last_minute():
    clock = [0.0]
    stream = io.StringIO()
    progress = Progress(1000, stream, lambda: clock[0])
    for second in range(1, 101):
        clock[0] = float(second)
        progress.add(1 if second <= 40 else 5)
    # 40 in the first 40 s; since then 5 a second.
    assert progress.rate_per_s == pytest.approx(5.0, rel=0.02)
    assert progress.line() == "340 of 1,000 (34 %), 5.0 per second, 2 min 12 s to go"
    # One line in ten seconds where it is no terminal, and no control characters.
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_progress_of_slow_things():
    clock = [0.0]
    progress = Progress(4, io.StringIO(), lambda: clock[0])
    assert progress.line() == "0 of 4 (0 %), no rate yet"
    clock[0] = 30.0
    progress.add(1)
    assert progress.line() == "1 of 4 (25 %), 30.0 s each, 1 min 30 s to go"


def test_durations():
    assert [duration(s) for s in (0, 59.4, 61, 7320)] == ["0 s", "59 s", "1 min 1 s", "2 h 2 min"]
