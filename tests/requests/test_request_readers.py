"""Every format is told by its content and read in full; what is wrong is named with its line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from request_files import ARRIVAL_S, INPUT, OUTPUT, SHAREGPT, TEXTS, small_trace, write_all

from moesim.errors import TraceError
from moesim.requests import load_requests, summarise_requests, write_requests


@pytest.mark.parametrize("name", TEXTS)
def test_the_same_requests_from_every_format(name, tmp_path):
    format_name, text = TEXTS[name]
    path = tmp_path / "requests.dat"  # the name says nothing
    path.write_bytes(text.encode())
    trace = load_requests(path)
    assert trace.metadata["format"] == format_name
    assert trace.input_tokens.tolist() == INPUT
    assert trace.output_tokens.tolist() == OUTPUT
    times = [0.0] * 3 if name == "sglang.jsonl" else ARRIVAL_S
    # 64-bit seconds since 1970 resolve 0.24 microseconds.
    np.testing.assert_allclose(trace.arrival_s, times, atol=3e-7)
    if name == "azure-2023.csv":
        np.testing.assert_allclose(trace.arrival_s, times, atol=1e-9)


def test_what_only_some_formats_hold(tmp_path):
    write_all(tmp_path)
    mooncake = load_requests(tmp_path / "mooncake.jsonl")
    assert [mooncake.hashes_of(i).tolist() for i in range(3)] == [[1, 2], [9], [1, 2, 5]]
    assert mooncake.prefix_block_tokens == 512
    for name in ("burstgpt-3.csv", "aiperf.jsonl"):
        assert load_requests(tmp_path / name).session.tolist() == [0, 1, 0]
    assert load_requests(tmp_path / "burstgpt-1.csv").session is None
    assert load_requests(tmp_path / "azure-2023.csv").metadata["began"] == "2023-11-16 23:59:59.9799601"


def test_what_is_left_out_is_said(tmp_path):
    write_all(tmp_path)
    notes = {name: load_requests(tmp_path / name).warnings for name in TEXTS}
    assert notes["burstgpt-1.csv"] == ("1 failed requests (no tokens in or out) were left out",)
    assert notes["aiperf.jsonl"] == (
        "1 failed or cancelled requests were left out",
        "1 requests of the warm-up were left out",
    )
    assert notes["vllm.json"] == ("1 failed requests were left out",)
    assert notes["sglang.jsonl"] == (
        "the file holds 2 runs: the last was taken",
        "1 failed requests were left out",
        "the run does not say when requests arrived: all stand at 0",
    )


def test_conversations_become_one_request_per_answer(tmp_path):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps(SHAREGPT))
    trace = load_requests(path)
    # 4 bytes a token, rounded up: 40 -> 10 | 9 -> 3 | 20 -> 5 | 20 bytes of é -> 5
    assert trace.input_tokens.tolist() == [10, 18]
    assert trace.output_tokens.tolist() == [3, 5]
    assert trace.session.tolist() == [0, 0]
    assert trace.warnings == (
        "1 conversations without a question and an answer were left out",
        "token counts are estimates: one per 4 bytes of text, for want of a tokenizer",
        "conversations have no times: all requests stand at 0",
    )
    counted = load_requests(path, count_tokens=len)
    assert counted.input_tokens.tolist() == [40, 69]
    assert counted.output_tokens.tolist() == [9, 10]
    assert len(counted.warnings) == 2


def test_conversations_are_read_one_at_a_time(tmp_path):
    """Items longer than what is read at once, split anywhere, also inside a character."""
    path = tmp_path / "long.json"
    sizes = [10, 3_000_000, 1, 2_500_000, 700_000]
    turn = [{"from": "human", "value": "q"}]
    path.write_text(
        json.dumps(
            [{"conversations": [*turn, {"from": "gpt", "value": "é" * n}]} for n in sizes],
            ensure_ascii=False,
            indent=1,
        )
    )
    assert load_requests(path, count_tokens=len).output_tokens.tolist() == sizes
    whole = path.read_text()
    for cut in (2, 500_000, len(whole) - 2):
        path.write_text(whole[:cut])
        with pytest.raises(TraceError, match=r"truncated|no known format"):
            load_requests(path)


def test_azure_code(shared):
    summary = summarise_requests(load_requests(shared("arrivals/azure-2023/AzureLLMInferenceTrace_code.csv")))
    assert (summary.requests, summary.input_tokens.total, summary.output_tokens.total) == (
        8819,
        18059974,
        245896,
    )
    assert summary.duration_s == pytest.approx(3435.948056, abs=1e-6)
    assert (summary.input_tokens.max, summary.output_tokens.max) == (7437, 1899)


def test_azure_conversations(shared):
    summary = summarise_requests(load_requests(shared("arrivals/azure-2023/AzureLLMInferenceTrace_conv.csv")))
    assert (summary.requests, summary.input_tokens.total, summary.output_tokens.total) == (
        19366,
        22361870,
        4088665,
    )
    assert summary.duration_s == pytest.approx(3501.721937, abs=1e-6)


def test_mooncake_original(shared, tmp_path):
    original = shared("arrivals/mooncake/conversation_trace.jsonl")
    trace = load_requests(original)
    lines = [json.loads(line) for line in original.read_text().splitlines()]
    assert len(trace) == 12031
    assert trace.input_tokens.sum(dtype=np.int64) == 144793823
    assert trace.output_tokens.sum(dtype=np.int64) == 4122048
    assert len(trace.prefix_hashes) == 288500
    assert trace.hashes_of(12030).tolist() == lines[-1]["hash_ids"]
    write_requests(trace, tmp_path / "again.jsonl")
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == lines


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Qwen3-32B"])
def test_measured_vllm_runs(shared, model):
    trace = load_requests(shared(f"vllm-runs/RTXPRO6000/{model}/requests.jsonl"))
    assert len(trace) == 300
    assert trace.arrival_s[0] == 0.0
    # The run was driven with 10 requests per second.
    assert summarise_requests(trace).rate_per_s == pytest.approx(10, rel=0.1)


def test_faults_are_all_named_with_their_lines(tmp_path):
    path = tmp_path / "bad.csv"
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.97,10,5", "yesterday,10,5"]
    rows += ["2023-11-16 18:17:04.1,-3,5", "2023-11-16 18:17:05,1", "2023-11-16 18:17:05,1,1e99"]
    path.write_text("\n".join(rows))
    with pytest.raises(TraceError) as raised:
        load_requests(path)
    assert str(raised.value).splitlines()[1:] == [
        "  line 3, TIMESTAMP: is no date and time (got 'yesterday'); "
        "allowed: such as 2023-11-16 18:17:03.9799600",
        "  line 4, ContextTokens: is no such number (got '-3'); allowed: 0 to 2147483647",
        "  line 5: has 2 columns, the header has 3",
        "  line 6, GeneratedTokens: is no such number (got '1e99'); allowed: 0 to 2147483647",
    ]


def test_many_faults_are_counted(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(TEXTS["mooncake.jsonl"][1] + "nonsense\n" * 500)
    with pytest.raises(TraceError) as raised:
        load_requests(path)
    assert len(raised.value.faults) == 21
    assert raised.value.faults[-1].message == "and 480 more"
    assert "line 4" in raised.value.faults[0].where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("hello\n", "no known format"),
        ('{"input_length": 1}\n', "no known format"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        ('{"request_throughput": 2.0, "mean_ttft_ms": 3.0}', "save the run with --save-detailed"),
        ('{"request_throughput": 2, "input_lens": [1, 2], "output_lens": [1]}', "is no list as long"),
        ('[{"conversations": [{"from": "human"}]}]', "is no turn"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1, 2]}', "at most 1 blocks"),
        ('{"timestamp": 0, "input_length": true, "output_length": 1}', "is no such number"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 1}', "is no time"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1}\n' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_refusals(text, message, tmp_path):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        load_requests(path)


def test_no_file_and_folders(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        load_requests(tmp_path / "absent")
    with pytest.raises(TraceError, match="is a folder"):
        load_requests(tmp_path)


def test_a_prefix_is_reused_only_from_its_beginning():
    # Blocks 1, 2 of the third prompt were seen; of [9, 1] only... nothing, as 9 is new there.
    assert summarise_requests(small_trace()).prefix_reuse == pytest.approx(2 / 6)
    broken = small_trace(prefix_hashes=[1, 2, 9, 8, 2, 1])
    assert summarise_requests(broken).prefix_reuse == 0.0
