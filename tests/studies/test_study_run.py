"""Studies run: the same table however they are run, killed, damaged or continued, and nothing done twice."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from moesim.errors import ConfigError, MoesimError
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.prediction import Workload, predict
from moesim.studies import load_study, run_study
from moesim.studies.contents import forget
from moesim.studies.evaluate import evaluate
from moesim.studies.key import task_of
from moesim.studies.rows import VALUES
from moesim.studies.store import results_in

LOGGED = "study_evaluators:logged"
#: 96 configurations.
MANY = """grid:
  layout.tp: [1, 2, 4]
  engine.max_num_seqs: [64, 128]
  workload.concurrency: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
"""
FEW = "grid: {workload.concurrency: [1, 2, 3, 4, 5, 6]}\n"


def _done(log) -> collections.Counter:
    return collections.Counter(word for _, word in log() if len(word) == 64)


def test_rows_are_predictions(study, tmp_path):
    rest = """grid:
  layout: [{dp: 8, ep: 8}, {tp: 3}]
  workload.concurrency: [16, 64]
  workload.output_len: [128, 1.0e+9]
"""
    done = run_study(study(rest), tmp_path / "out", processes=2)
    rows = done.table.to_pylist()
    assert [row["status"] for row in rows] == ["ok", "infeasible", "ok", "infeasible"] + 4 * ["invalid"]
    assert "--tp" in rows[-1]["reason"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = predict(
            load_model("gpt-oss-20b"),
            load_hardware("h100-sxm-8"),
            Parallelism(dp=8, ep=8),
            Workload(1024, 128, 64),
        )
    row = rows[2]
    assert row["workload_concurrency"] == 64
    for name in ("ttft_s", "tpot_s", "e2el_s", "output_throughput", "memory_bytes", "load_imbalance"):
        assert row[name] == getattr(answer, name)
    assert row["tpot_s_bound"] == answer.bounds["tpot_s"]
    assert (row["ttft_s_lo"], row["ttft_s_hi"]) == tuple(answer.interval["ttft_s"])
    assert rows[1]["ttft_s"] is None


def test_processes_do_not_matter_and_what_is_there_is_not_done_again(study, log, tmp_path, monkeypatch):
    path = study(MANY)
    one = run_study(path, tmp_path / "one", processes=1, evaluator=LOGGED)
    assert (one.found, one.computed) == (0, 96)
    assert set(_done(log).values()) == {1}
    monkeypatch.setenv("STUDY_SECONDS", "0.02")
    four = run_study(path, tmp_path / "four", processes=4, evaluator=LOGGED)
    assert one.path.read_bytes() == four.path.read_bytes()
    assert set(_done(log).values()) == {2}
    assert len({pid for pid, _ in log()[96:]}) > 1
    again = run_study(path, tmp_path / "one", processes=2, evaluator=LOGGED)
    assert (again.found, again.computed) == (96, 0)
    assert set(_done(log).values()) == {2}
    assert again.path.read_bytes() == one.path.read_bytes()


_RUN = (
    "import sys; from moesim.studies import run_study\n"
    "run_study(*sys.argv[1:3], processes=2, evaluator=sys.argv[3], flush_s=0.1, flush_rows=7)"
)


def _killed_after(path, out, log, count: int) -> set[str]:
    """Run a study, kill it after so many more evaluations, and see what is on the disk then."""
    before = len(log())
    with subprocess.Popen([sys.executable, "-c", _RUN, path, out, LOGGED]) as run:
        deadline = time.monotonic() + 60
        while len(log()) < before + count and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    return set(results_in(out)["key"].to_pylist())


def test_killed_anywhere_and_continued(study, log, tmp_path, monkeypatch):
    path = study(MANY)
    whole = run_study(path, tmp_path / "whole", processes=2, evaluator=LOGGED)
    first = len(log())
    monkeypatch.setenv("STUDY_SECONDS", "0.02")
    out = tmp_path / "out"
    kept: set[str] = set()
    lost = 0
    for moment in (1, 30, 19):
        before = len(log())
        now = _killed_after(path, out, log, moment)
        # What was on the disk stays there.
        assert now >= kept
        _gone({pid for pid, _ in log()[before:]})
        again = {word for _, word in log()[before:]} & kept
        assert not again, "on the disk, and evaluated again"
        # Two processes had twelve each, and seven results wait for the disk at most.
        assert 0 <= len(log()) - before - len(now - kept) <= 2 * 12 + 7
        lost += len(log()) - before - len(now - kept)
        kept = now
    assert 10 < len(kept) < 96
    before = len(log())
    done = run_study(path, out, processes=2, evaluator=LOGGED)
    assert "the last run was killed" in done.warnings[0]
    assert len(log()) - before == 96 - len(kept)
    assert not {word for _, word in log()[before:]} & kept
    # Nothing but what was on its way when the run was killed was done twice.
    assert len(log()) - first == 96 + lost
    assert done.path.read_bytes() == whole.path.read_bytes()


def test_interrupted_by_hand_keeps_what_was_done(study, log, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_SECONDS", "0.05")
    path, out = study(MANY), tmp_path / "out"
    quiet = _RUN.replace("flush_s=0.1, flush_rows=7", "flush_s=1e9, flush_rows=10**9")
    # Shells let what they run in the background ignore it.
    quiet = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + quiet
    with subprocess.Popen(
        [sys.executable, "-c", quiet, path, out, LOGGED], stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        while len(log()) < 50 and run.poll() is None:
            time.sleep(0.005)
        # As a terminal does: to everybody.
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait() != 0
    kept = len(results_in(out))
    _gone({pid for pid, _ in log()})
    # All but what the two processes were given last: twelve each.
    assert 26 <= len(log()) - 24 <= kept <= len(log())
    done = run_study(path, out, evaluator=LOGGED)
    assert done.warnings == ()
    assert done.found == kept


def _gone(pids: set[str]) -> None:
    """Wait until processes that were left alone have ended by themselves."""
    deadline = time.monotonic() + 10
    while any(_alive(int(pid)) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_damaged_files_are_named_and_only_what_they_held_is_computed_again(study, log, tmp_path):
    path, out = study(MANY), tmp_path / "out"
    whole = run_study(path, out, evaluator=LOGGED, flush_rows=10)
    table = whole.path.read_bytes()
    files = sorted((out / "batches").iterdir())
    assert len(files) >= 9
    flipped, cut = files[0], files[-1]
    held = [len(results_in(out))]
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 4
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.warns(UserWarning, match="left out"):
        held.append(len(results_in(out)))
    before = len(log())
    again = run_study(path, out, evaluator=LOGGED)
    assert len(log()) - before == held[0] - held[1] == again.computed > 0
    assert flipped.name in again.warnings[0]
    assert cut.name in again.warnings[1]
    assert again.path.read_bytes() == table


def test_studies_that_share_a_folder_share_results(study, log, tmp_path):
    first = run_study(study(FEW, "first"), tmp_path / "out", evaluator=LOGGED)
    rest = "grid:\n  engine.max_num_seqs: [1024, 512]\n  workload.concurrency: [6, 7, 1]\n"
    second = run_study(study(rest, "second"), tmp_path / "out", evaluator=LOGGED)
    assert (first.computed, second.found, second.computed) == (6, 2, 4)
    assert set(_done(log).values()) == {1}
    both = {p.name for p in (tmp_path / "out" / "tables").iterdir()}
    assert both == {"first.parquet", "second.parquet"}
    # What is shared is the same, whoever computed it.
    alone = run_study(study(rest, "second"), tmp_path / "alone", evaluator=LOGGED)
    assert alone.path.read_bytes() == second.path.read_bytes()


def test_a_bug_in_one_leaves_the_others_and_is_tried_again(study, log, tmp_path):
    path = study(FEW)
    done = run_study(path, tmp_path / "out", processes=2, evaluator="study_evaluators:buggy")
    assert done.statuses["error"] == done.failed == 1
    row = done.table.to_pylist()[2]
    assert (row["status"], row["reason"], row["ttft_s"]) == ("error", "TypeError: a bug", None)
    again = run_study(path, tmp_path / "out", processes=2, evaluator=LOGGED)
    assert (again.found, again.computed, again.failed) == (5, 1, 0)
    assert set(_done(log).values()) == {1}
    clean = run_study(path, tmp_path / "clean", evaluator=LOGGED)
    assert again.path.read_bytes() == clean.path.read_bytes()


def test_a_bug_is_a_result(study):
    grid = load_study(study(FEW))
    task = task_of(grid.kind, grid.configuration(0))
    task["identity"]["workload"]["concurrency"] = "one"
    found = evaluate(task)
    assert found["status"] == "error"
    assert found["reason"].startswith("TypeError: ")


def test_a_configuration_that_kills_its_process_is_named_and_the_others_are_done(study, log, tmp_path):
    done = run_study(study(FEW), tmp_path / "out", processes=2, evaluator="study_evaluators:deadly")
    rows = done.table.to_pylist()
    assert [row["status"] == "killed" for row in rows] == [False, False, True, False, False, False]
    assert "killed 3 times" in rows[2]["reason"]
    words = [word for _, word in log()]
    assert words.count("deadly") == 3
    # Killed once, done at the second try.
    assert words.count("once") == 1
    assert set(_done(log).values()) == {1}
    assert len(_done(log)) == 5


def test_an_evaluator_that_cannot_be_started(study, log, tmp_path):
    with pytest.raises(MoesimError, match="end before they begin"):
        run_study(study(FEW), tmp_path / "out", evaluator="study_evaluators:nothing")
    assert log() == []


def test_what_leaves_nothing_or_makes_no_sense_is_refused(study, tmp_path):
    with pytest.raises(ConfigError, match="leave no configuration"):
        run_study(study(FEW + "exclude: [{layout.dp: 8}]\n"), tmp_path)
    with pytest.raises(ConfigError, match="--processes"):
        run_study(study(FEW), tmp_path, processes=0)
    with pytest.raises(ConfigError, match="is no scheduler"):
        run_study(study(FEW), tmp_path, scheduler="nowhere")


def test_a_file_that_is_another_where_it_is_evaluated(study, tmp_path):
    own = tmp_path / "mine.json"
    own.write_text("{}")
    grid = load_study(study("  trace: mine.json\n" + FEW))
    task = task_of(grid.kind, grid.configuration(0))
    own.write_text("{ }")
    forget()
    found = evaluate(task)
    assert found["status"] == "error"
    assert "trace" in found["reason"]
    assert str(own) in found["reason"]


def test_another_version_of_moesim_is_refused(study):
    grid = load_study(study(FEW))
    task = task_of(grid.kind, grid.configuration(0))
    task["identity"]["moesim"] = "0.0.1"
    assert "0.0.1" in evaluate(task)["reason"]


def test_every_value_has_a_column_and_every_column_a_value(study):
    grid = load_study(study(FEW))
    found = evaluate(task_of(grid.kind, grid.configuration(0)))
    assert set(found["values"]) == set(VALUES["predict"])
