"""Results on the disk: every damage is noticed, and one run at a time writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.studies.batch import CorruptFileError, read_batch, sealed, table_of, write_batch
from moesim.studies.store import HOLDER, MANY_FILES, Store, results_in


def _task(i: int) -> dict:
    return {"identity": {"kind": "predict", "i": i}, "names": {}}


def _result(i: int, status: str = "ok") -> dict:
    return {"status": status, "reason": "", "values": {"ttft_s": i / 7, "notes": f"n{i}"}, "seconds": 0.1}


def _rows(n: int) -> list[dict]:
    fixed = {"kind": "predict", "identity": "{}", "finished_s": 1.0}
    return [{"key": f"{i:064d}", **fixed, **_result(i)} for i in range(n)]


@pytest.fixture(scope="module")
def good() -> bytes:
    return sealed(table_of(_rows(20)))


def test_a_file_says_what_was_written(tmp_path):
    path = write_batch(table_of(_rows(20)), tmp_path)
    table = read_batch(path)
    assert table["ttft_s"].to_pylist() == [i / 7 for i in range(20)]
    assert table["notes"].to_pylist() == [f"n{i}" for i in range(20)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_bit_can_be_flipped_unnoticed(good, tmp_path):
    path = tmp_path / "x.parquet"
    noticed = 0
    # Every other byte, and all of the footer.
    places = sorted({*range(0, len(good), 2), *range(len(good) - 600, len(good))})
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            read_batch(path)
        noticed += 1
    assert noticed == len(places) > 1000


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_can_be_cut_or_lengthened_unnoticed(good, tmp_path, data):
    path = tmp_path / "x.parquet"
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    path.write_bytes(cut if data.draw(st.booleans()) else good + cut[:9] + b"x")
    with pytest.raises(CorruptFileError):
        read_batch(path)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else_is_no_result_file(tmp_path, junk):
    path = tmp_path / "x.parquet"
    path.write_bytes(junk + b"moesim.sha256" + junk)
    with pytest.raises(CorruptFileError):
        read_batch(path)


def test_damaged_files_are_named_and_set_aside(tmp_path):
    with Store(tmp_path) as store:
        for i in range(3):
            store.add(_task(i), str(i), _result(i))
            store.flush()
    victim = sorted((tmp_path / "batches").iterdir())[1]
    lost = read_batch(victim)["key"][0].as_py()
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=victim.name):
        assert len(results_in(tmp_path)) == 2
    with Store(tmp_path) as store:
        assert set(store.statuses()) == {"0", "1", "2"} - {lost}
        assert victim.name in store.warnings[0]
    assert not victim.exists()
    assert victim.with_suffix(".parquet.corrupt").exists()
    assert len(results_in(tmp_path)) == 2


def test_an_answer_wins_over_a_failure_and_the_latest_of_equals(tmp_path):
    with Store(tmp_path) as store:
        for status in ("error", "ok", "killed"):
            store.add(_task(0), "0", _result(0, status))
            store.flush()
        store.add(_task(1), "1", _result(1, "error"))
        store.flush()
        store.add(_task(1), "1", _result(1, "killed"))
    table = results_in(tmp_path)
    assert dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)) == {
        "0": "ok",
        "1": "killed",
    }
    with Store(tmp_path) as store:
        assert store.statuses()["0"] == "ok"


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["ok", "infeasible", "error"])), max_size=12
    ),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
@settings(max_examples=30)
def test_how_results_were_cut_into_files_does_not_matter(tmp_path_factory, rows, cuts):
    tables = []
    for places in ({0, *cuts}, set(range(13))):
        folder = tmp_path_factory.mktemp("cut")
        with Store(folder) as store:
            for i, (key, status) in enumerate(rows):
                if i in places:
                    store.flush()
                # As it is: the same configuration has the same answer, whenever it is evaluated.
                store.add(_task(0), key, _result(ord(key), "ok" if status == "infeasible" else status))
        tables.append(results_in(folder).drop_columns(["finished_s"]))
    assert tables[0].equals(tables[1])
    said = {key for key, _ in rows}
    assert tables[0]["key"].to_pylist() == sorted(said)
    # An answer wins over any failure, before it or after.
    answered = {key for key, status in rows if status != "error"}
    found = zip(tables[0]["key"].to_pylist(), tables[0]["status"].to_pylist(), strict=True)
    assert {key for key, status in found if status == "ok"} == answered


def test_many_files_are_put_together_and_say_the_same(tmp_path):
    with Store(tmp_path) as store:
        for i in range(MANY_FILES + 1):
            store.add(_task(i), f"{i:03d}", _result(i, "infeasible" if i % 3 else "ok"))
            store.flush()
    before = results_in(tmp_path)
    with Store(tmp_path) as store:
        statuses = store.statuses()
    assert len(list((tmp_path / "batches").iterdir())) == 1
    assert results_in(tmp_path).equals(before)
    assert list(statuses.values()).count("ok") == -(-(MANY_FILES + 1) // 3)


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_is_taken_over(tmp_path):
    code = (
        "import sys; from pathlib import Path; from moesim.studies.store import Store\n"
        "store = Store(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"another run writes there: process {other.pid} on"):
            Store(tmp_path)
        (tmp_path / "batches" / ".half.parquet.abc.tmp").write_text("half of a file")
        other.kill()
        other.wait()
    with Store(tmp_path) as store:
        assert "was killed" in store.warnings[0]
        assert str(other.pid) in store.warnings[0]
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
        assert not list((tmp_path / "batches").iterdir())
    with Store(tmp_path) as store:
        assert store.warnings == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(tmp_path / "file" / "results")
