"""Tables of requests and of studies: what they say, joined with a document, hostile ones."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from kinds import document

from moesim.errors import ConfigError
from moesim.reporting import read_documents, requests_file, study_file
from moesim.reporting.sections import sections
from tests.program import run_here


def rows(n=200, **change):
    """A table of requests as a simulation writes it."""
    rng = np.random.default_rng(0)
    sent = np.sort(rng.uniform(0, 50, n))
    queue, first, each = rng.exponential(0.05, n), rng.gamma(4, 0.02, n), rng.gamma(20, 0.001, n)
    tokens = rng.integers(1, 60, n)
    columns = {
        "request": np.arange(n),
        "stage": np.full(n, "done"),
        "sent_s": sent,
        "scheduled_s": sent + queue,
        "last_s": sent + queue + first + each * (tokens - 1),
        "input_tokens": np.full(n, 100),
        "generated_tokens": tokens,
        "queue_s": queue,
        "ttft_s": queue + first,
        "tpot_s": np.where(tokens > 1, each, np.nan),
        "e2el_s": queue + first + each * (tokens - 1),
    }
    return columns | change


def write(path, columns):
    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pc.write_csv(table, path)
    else:
        lines = [json.dumps(row) for row in table.to_pylist()]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", requests_file.SUFFIXES)
def test_a_table_alone_is_a_simulation(tmp_path, suffix):
    columns = rows()
    (found,) = read_documents([write(tmp_path / f"run{suffix}", columns)]).results
    assert (found.kind, found.requests, found.completed, found.table) == (
        "simulation",
        200,
        200,
        f"run{suffix}",
    )
    for name in ("ttft_s", "tpot_s", "e2el_s", "queue_s"):
        known = columns[name][np.isfinite(columns[name])]
        assert found.latency[name].p99 == pytest.approx(np.percentile(known, 99), rel=1e-12)
        told = found.distributions[name]
        assert told.n == len(known)
        assert told.values_s[-1] == pytest.approx(known.max(), rel=1e-12)
        assert told.values_s == pytest.approx(np.quantile(known, told.levels), rel=1e-12)
    span = columns["last_s"].max() - columns["sent_s"].min()
    assert found.output_throughput == pytest.approx(columns["generated_tokens"].sum() / span)
    spans = np.diff(found.over_time.edges_s)
    # Little's law: the time of all requests is the mean number of them times the time.
    running = (columns["last_s"] - columns["scheduled_s"]).sum()
    assert float(np.dot(found.over_time.running, spans)) == pytest.approx(running, rel=1e-4)
    assert float(np.dot(found.over_time.waiting, spans)) == pytest.approx(columns["queue_s"].sum(), rel=1e-4)


def test_requests_without_an_answer_are_counted_and_in_no_percentile(tmp_path):
    columns = rows(100)
    stage = columns["stage"].astype(object)
    stage[:10], stage[10:15] = "lost", "waiting"
    for name in ("last_s", "ttft_s", "tpot_s", "e2el_s"):
        columns[name][10:15] = np.nan
    columns["scheduled_s"][10:15] = columns["queue_s"][10:15] = np.nan
    (found,) = read_documents([write(tmp_path / "run.parquet", columns | {"stage": stage})]).results
    assert (found.completed, found.lost, found.unfinished) == (85, 10, 5)
    assert found.distributions["ttft_s"].n == 85
    (section,) = sections(read_documents([tmp_path / "run.parquet"]))
    told = " ".join(text for _, texts in section.answer.points for text in texts)
    assert "15 requests have no answer" in told


def test_document_and_table_of_one_run_are_one_result(printed_kinds):
    path = printed_kinds["simulation"]
    alone = read_documents([path]).results[0]
    (both,) = read_documents([path.with_suffix(".parquet"), path]).results
    assert both.table == "simulation.parquet"
    assert both.latency == alone.latency
    # The same window: the same quantiles, and the same shares within the promise.
    assert both.met == pytest.approx(alone.met)
    for name, told in both.distributions.items():
        assert told.n == alone.distributions[name].n
        assert told.values_s == pytest.approx(alone.distributions[name].values_s, rel=1e-9)
        assert np.interp(0.99, told.levels, told.values_s) == pytest.approx(both.latency[name].p99, rel=1e-9)
    assert both.over_time.running == pytest.approx(alone.over_time.running, rel=1e-3, abs=1e-6)


def test_replications_keep_their_own_numbers_and_say_what_distributions_are_of(printed_kinds):
    path = printed_kinds["replications"]
    (both,) = read_documents([path, path.with_suffix(".csv")]).results
    assert both.latency["ttft_s"].p99 == document(path)["latency"]["ttft_s"]["p99"]
    assert both.distributions["ttft_s"].n == 200
    (section,) = sections(read_documents([path, path.with_suffix(".csv")]))
    told = dict(section.answer.points)["Uncertain"]
    assert "Distributions are of the first of 3 replications." in told
    assert any("Student's t over 3 independent replications" in text for text in told)


def test_a_table_of_another_run_is_refused(printed_kinds, tmp_path):
    (tmp_path / "run.json").write_bytes(printed_kinds["simulation"].read_bytes())
    write(tmp_path / "run.parquet", rows(50))
    with pytest.raises(ConfigError, match=r"is of another run: has 50 requests, and run.json is of 200"):
        read_documents([tmp_path / "run.json", tmp_path / "run.parquet"])


@pytest.mark.parametrize("suffix", requests_file.SUFFIXES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ttft_s": None}, "has no column ttft_s"),
        ({"stage": np.full(20, "gone")}, "stage is one of"),
        ({"ttft_s": np.full(20, -5.0)}, "ttft_s: holds what is no time"),
        ({"sent_s": np.full(20, 1e300)}, "sent_s: holds what is no time"),
        ({"ttft_s": np.full(20, "=1+1")}, "no table of requests"),
        ({"sent_s": np.full(20, np.nan)}, "no table of requests|says of no request when"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, suffix, change, expected):
    columns = {name: values for name, values in (rows(20) | change).items() if values is not None}
    path = write(tmp_path / f"x{suffix}", columns)
    with pytest.raises(ConfigError, match=expected):
        read_documents([path])


@pytest.mark.parametrize("suffix", requests_file.SUFFIXES)
def test_too_many_rows_and_what_is_no_table(tmp_path, suffix, monkeypatch):
    path = write(tmp_path / f"x{suffix}", rows(50))
    monkeypatch.setattr(requests_file, "MAX_ROWS", 49)
    with pytest.raises(ConfigError, match="too many rows"):
        read_documents([path])
    monkeypatch.setattr(requests_file, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="too big"):
        read_documents([path])
    empty, noise = tmp_path / f"empty{suffix}", tmp_path / f"noise{suffix}"
    empty.touch()
    noise.write_bytes(bytes(range(256)) * 4)
    for file in (empty, noise, tmp_path / f"gone{suffix}"):
        with pytest.raises(ConfigError):
            read_documents([file])


def test_a_line_without_end_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", rows(5))
    with path.open("ab") as stream:
        stream.write(b'{"stage": "' + b"x" * (requests_file._PIECE + 2 * requests_file._ROWS) + b'"}')
    with pytest.raises(ConfigError, match=f"line of more than {requests_file._ROWS:,} bytes"):
        read_documents([path])


def test_a_column_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    columns = {name: np.tile(values, 100) for name, values in rows(200).items()}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path, use_dictionary=False, compression="zstd")
    monkeypatch.setattr(requests_file, "MAX_BYTES", 2 * path.stat().st_size)
    with pytest.raises(ConfigError, match="too big once unpacked"):
        read_documents([path])


def test_a_study_says_what_its_table_says(printed_kinds):
    folder = printed_kinds["study"].parent
    path = folder / "small-results" / "tables" / "small.parquet"
    table = pq.read_table(path).to_pylist()
    (found,) = read_documents([path, printed_kinds["study"]]).results
    assert (found.name, found.configurations, found.statuses) == ("small", 6, {"ok": 4, "invalid": 2})
    assert found.fixed["hardware"] == "h100-sxm-8"
    best = max((row for row in table if row["status"] == "ok"), key=lambda row: row["output_throughput"])
    (section,) = sections(read_documents([path]))
    assert f"{best['output_throughput']:,.0f} tokens/s" in section.answer.lead
    assert f"concurrency {best['workload_concurrency']:g}" in section.answer.lead
    assert "tp: the median" in " ".join(dict(section.answer.points)["What decides"])
    (load,) = (one for one in found.varied if one.setting == "workload_concurrency")
    for value, median, count in zip(load.values, load.medians, load.counts, strict=True):
        own = [row["output_throughput"] for row in table if f"{row['workload_concurrency']:g}" == value]
        own = [v for v in own if v is not None]
        assert count == len(own)
        assert median == pytest.approx(np.median(own))
    # Its JSON alone names the table, and is not followed.
    with pytest.raises(ConfigError, match=r"table: names the table of a study.*small.parquet"):
        read_documents([printed_kinds["study"]])


def test_a_large_study_keeps_the_best_and_counts_all(tmp_path):
    n = 5000
    rng = np.random.default_rng(1)
    path = tmp_path / "large.parquet"
    tokens = rng.uniform(1, 1000, n)
    pq.write_table(
        pa.table(
            {
                "model": ["m"] * n,
                "layout_tp": rng.integers(1, 9, n),
                "status": np.where(np.arange(n) % 5 == 0, "invalid", "ok"),
                "reason": ["<script>"] * n,
                "output_throughput": pa.array(tokens, mask=np.arange(n) % 5 == 0),
                "tpot_s": rng.uniform(0.01, 0.1, n),
                "key": [str(i) for i in range(n)],
            }
        ),
        path,
    )
    (found,) = read_documents([path]).results
    assert found.statuses == {"invalid": 1000, "ok": 4000}
    assert found.reasons[0].count == 1000
    assert len(found.rows) <= 2000
    kept = {row.values["output_throughput"] for row in found.rows}
    best = np.sort(tokens[np.arange(n) % 5 != 0])[-100:]
    assert kept >= set(best.tolist())
    assert sum(sum(one.counts) for one in found.varied) == 4000


def test_wrong_studies_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"status": ["ok"], "reason": [""], "key": ["a"], "tpot_s": ["fast"]}), path)
    with pytest.raises(ConfigError, match="no table of a study"):
        read_documents([path])
    monkeypatch.setattr(study_file, "MAX_TABLE_ROWS", 0)
    with pytest.raises(ConfigError, match="too many rows"):
        read_documents([path])
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ConfigError, match="has no column stage"):
        read_documents([path])


def test_the_command_joins_them(printed_kinds, tmp_path):
    path = printed_kinds["simulation"]
    done = run_here("report", path, path.with_suffix(".parquet"), "-o", "x.html", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == ["simulation"]
