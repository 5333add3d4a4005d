"""Readers of benchmark outputs: every format, what they leave out, what they refuse."""

from __future__ import annotations

import json

import pytest
from bench_files import (
    aiperf_request,
    aiperf_statistics,
    folder_rows,
    run_folder,
    sglang_result,
    vllm_result,
    without_details,
    write_lines,
)
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.validate.find_runs import hardware_in, read_runs
from moesim.validate.runs import REQUEST_MEAN, Spread


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def only(path):
    (run,) = read_runs(path)
    return run


def test_vllm_with_every_request(tmp_path):
    run = only(written(tmp_path / "h200_sxm-result.json", vllm_result()))
    assert (run.format, run.model, run.backend) == ("vllm-bench", "openai/gpt-oss-20b", "vllm")
    assert (run.completed, run.concurrency, run.request_rate) == (2, None, 2.0)
    assert run.hardware == "h200-sxm-8"
    assert run.requests.input_tokens.tolist() == [100, 200]
    assert run.requests.arrival_s.tolist() == [0.0, 0.5]
    assert run.measured["ttft"].mean == pytest.approx(0.3)
    # Gaps 60 ms over 3 tokens, and 100 ms over 2.
    assert run.measured["tpot"].mean == pytest.approx(0.035)
    assert run.measured["itl"].mean == pytest.approx(0.16 / 5)
    assert run.measured["e2el"].mean == pytest.approx((0.26 + 0.5) / 2)
    assert run.notes == ("1 failed requests were left out",)


def test_vllm_with_latencies_of_its_own(tmp_path):
    run = only(written(tmp_path / "r.json", vllm_result(latencies=[0.5, 0.8, 0.0])))
    assert run.measured["e2el"].mean == pytest.approx(0.65)


def test_vllm_statistics_alone(tmp_path):
    document = without_details(vllm_result(request_rate="inf", max_concurrency=2, tensor_parallel_size="4"))
    run = only(written(tmp_path / "r.json", document))
    assert run.requests is None
    assert (run.concurrency, run.request_rate, run.engine.tp) == (2, None, 4)
    assert (run.input_tokens.mean, run.output_tokens.mean) == (150.0, 3.5)
    assert run.measured["ttft"] == Spread(0.3, 0.3, None, 0.398)
    assert run.measured["e2el"] == Spread()


def test_sglang_one_run_per_line(tmp_path):
    path = write_lines(tmp_path / "online.jsonl", [sglang_result(), sglang_result(max_concurrency=32)])
    first, second = read_runs(path)
    assert (first.format, first.backend, first.model) == ("sglang-bench", "sglang", "openai/gpt-oss-20b")
    assert (first.concurrency, second.concurrency, first.request_rate) == (16, 32, None)
    assert (first.engine.tp, first.engine.chunk_tokens, first.engine.max_sequences) == (2, 4096, 128)
    assert first.measured["e2el"].p99 == pytest.approx(6.0)
    assert first.measured["tpot"].p90 == pytest.approx(0.02)


def test_sglang_with_every_request(tmp_path):
    details = {k: vllm_result()[k] for k in ("input_lens", "output_lens", "ttfts", "itls", "errors")}
    run = only(write_lines(tmp_path / "r.jsonl", [sglang_result(**details)]))
    assert run.requests.output_tokens.tolist() == [4, 3]
    assert "arrivals are not recorded" in run.notes


def test_aiperf_statistics(tmp_path):
    run = only(written(tmp_path / "profile_export_aiperf.json", aiperf_statistics()))
    assert (run.format, run.model, run.concurrency, run.completed) == ("aiperf", "openai/gpt-oss-20b", 20, 80)
    assert run.measured["ttft"].mean == pytest.approx(0.12)
    assert run.measured["tpot"].p90 == pytest.approx(0.027)
    assert run.measured["e2el"].median == pytest.approx(2.25)
    assert run.input_tokens.mean == 550
    assert run.itl_of == REQUEST_MEAN


def test_aiperf_requests_and_statistics_together(tmp_path):
    written(tmp_path / "profile_export_aiperf.json", aiperf_statistics())
    failed = aiperf_request(9) | {"error": {"code": 500}}
    warm = aiperf_request(8)
    warm["metadata"] |= {"benchmark_phase": "warmup"}
    write_lines(tmp_path / "profile_export.jsonl", [aiperf_request(0), failed, aiperf_request(1), warm])
    run = only(tmp_path)
    assert (run.completed, run.concurrency, run.model) == (2, 20, "openai/gpt-oss-20b")
    assert run.requests.arrival_s.tolist() == pytest.approx([0.0, 0.25], abs=1e-6)
    assert run.measured["ttft"].mean == pytest.approx(0.1005)
    assert run.measured["itl"] == run.measured["tpot"]
    assert run.notes == ("2 requests of the warm-up, failed or cancelled were left out",)
    alone = only(tmp_path / "profile_export.jsonl")
    assert (alone.model, alone.concurrency) == ("", None)


def test_run_folder_counts_from_the_engines_clock(tmp_path):
    run = only(run_folder(tmp_path / "H100_SXM" / "a", folder_rows()))
    assert run.hardware == "h100-sxm-8"
    assert (run.engine.tp, run.engine.ep, run.engine.max_sequences) == (2, 2, 64)
    assert run.measured["ttft"].mean == pytest.approx(0.5)
    assert run.measured["e2el"].p99 == pytest.approx(1.5)
    assert run.measured["tpot"].median == pytest.approx(0.1)
    assert run.request_rate == pytest.approx(1.0)
    assert run.requests.arrival_s.tolist() == [0, 1, 2, 3]


def test_run_folder_of_one_clock_counts_from_arrival(tmp_path):
    rows = [row | {"arrival_time": row["queued_ts"] - 0.25} for row in folder_rows()]
    assert only(run_folder(tmp_path / "a", rows)).measured["ttft"].mean == pytest.approx(0.75)


def test_a_folder_of_runs(tmp_path):
    run_folder(tmp_path / "H100" / "a", folder_rows())
    run_folder(tmp_path / "H200" / "b", folder_rows())
    written(tmp_path / "notes.json", {"hello": 1})
    written(tmp_path / "result.json", vllm_result())
    assert [run.hardware for run in read_runs(tmp_path)] == ["h100-sxm-8", "h200-sxm-8", ""]


def faults(path):
    with pytest.raises(ConfigError) as caught:
        read_runs(path)
    return str(caught.value)


def test_what_is_no_run(tmp_path):
    assert "no such file" in faults(tmp_path / "absent")
    assert "holds no benchmark run" in faults(tmp_path)
    assert "is no benchmark result" in faults(written(tmp_path / "a.json", {"x": 1}))
    assert "is no benchmark result" in faults(written(tmp_path / "a.json", [1]))
    (tmp_path / "b.json").write_text('{"mean_ttft_ms": ')
    assert "is no JSON, or is cut off" in faults(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe{")
    assert "is no JSON" in faults(tmp_path / "c.json")
    (tmp_path / "d.json").write_text("[" * 100_000)
    assert "nested too deeply" in faults(tmp_path / "d.json")


def test_damaged_results_name_every_fault(tmp_path):
    bad = vllm_result(completed="many", input_lens=[1, -2, 3], duration=float("nan"), ttfts=[1.0])
    text = faults(written(tmp_path / "a.json", bad))
    for name in ("completed", "input_lens", "duration"):
        assert name in text
    text = faults(written(tmp_path / "a.json", vllm_result(ttfts=[1.0])))
    assert "ttfts: is no such list; allowed: numbers of at least 0, 3 of them" in text
    empty = without_details(vllm_result(completed=0, total_input_tokens=None))
    text = faults(written(tmp_path / "a.json", empty))
    assert "no request was served" in text
    assert "total_input_tokens" in text


def test_damaged_aiperf_and_folders(tmp_path):
    unit = aiperf_statistics(time_to_first_token={"unit": "days", "avg": 1})
    assert "time_to_first_token.unit" in faults(written(tmp_path / "a.json", unit))
    line = aiperf_request(0, input_sequence_length={"value": 0, "unit": "tokens"})
    line["metadata"]["request_start_ns"] = "soon"
    text = faults(write_lines(tmp_path / "a.jsonl", [line]))
    assert "line 1, request_start_ns" in text
    assert "line 1, input_sequence_length" in text
    rows = folder_rows(3)
    rows[1] |= {"first_token_ts": 1.0}
    del rows[2]["output_toks"]
    text = faults(run_folder(tmp_path / "run", rows))
    assert "line 2: first and last token do not follow" in text
    assert "line 3, output_toks: is missing" in text
    assert "holds no requests" in faults(run_folder(tmp_path / "run", []))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/RTXPRO6000/Qwen3-32B", "rtx-pro-6000-8"),
        ("h100/b200_sxm/x.json", "b200-sxm-8"),
        ("results-gb200-nvl72-r1.json", "gb200-nvl72"),
        ("nothing/here", ""),
    ],
)
def test_machine_in_a_path(tmp_path, path, name):
    assert hardware_in(tmp_path / path) == name


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(vllm_result())), value=json_values)
def test_a_result_with_anything_in_it_is_read_or_refused(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(vllm_result(**{key: value})))
    try:
        runs = read_runs(path)
    except ConfigError:
        return
    assert all(run.completed > 0 for run in runs)


@given(
    name=st.sampled_from(["metadata", "metrics", "error"]),
    value=json_values,
)
def test_a_request_with_anything_in_it_is_read_or_refused(tmp_path_factory, name, value):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write_lines(path, [aiperf_request(0), aiperf_request(1) | {name: value}])
    try:
        (run,) = read_runs(path)
    except ConfigError:
        return
    assert run.completed in (1, 2)


@given(values=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_statistics_are_ordered_and_over_themselves_nothing(values):
    found = Spread.of(values)
    assert found.median <= found.p90 <= found.p99
    assert found.over(found).mean == pytest.approx(0.0)
    assert Spread().over(found) == Spread()
    assert Spread.of([]) == Spread()
