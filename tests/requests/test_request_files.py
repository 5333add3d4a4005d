"""Round trips, and files that were tampered with."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_files import ARRIVAL_S, INPUT, OUTPUT, assert_same, small_trace, write_all

from moesim.errors import ConfigError, TraceError
from moesim.requests import load_requests, request_trace, write_requests

MUTATIONS, OF_PARQUET = 200, 80


@pytest.mark.parametrize(
    "trace",
    [
        small_trace(),
        small_trace(session=None, prefix_hashes=None, prefix_ptr=None, prefix_block_tokens=None),
        small_trace(concurrency=7),
    ],
)
def test_parquet_holds_everything(trace, tmp_path):
    assert write_requests(trace, tmp_path / "x.parquet") == ()
    assert_same(load_requests(tmp_path / "x.parquet"), trace)


def test_mooncake_says_what_it_loses(tmp_path):
    lost = write_requests(small_trace(prefix_block_tokens=16, concurrency=2), tmp_path / "x.jsonl")
    assert lost == (
        "prefix hashes of blocks that are not 512 tokens",
        "the closed loop",
        "source and licence",
    )
    line = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[1])
    assert line == {"timestamp": 250, "input_length": 40, "output_length": 20, "session_id": "5"}


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=40, deadline=None)
def test_mooncake_round_trip(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("trip") / "x.jsonl"
    milliseconds, read, written, blocks = (np.array(column) for column in zip(*rows, strict=True))
    blocks = np.minimum(blocks, -(-read // 512))
    ptr = np.r_[0, np.cumsum(blocks)]
    trace = request_trace(
        milliseconds / 1e3,
        read,
        written,
        prefix_hashes=np.arange(ptr[-1], dtype=np.int64) - 5,
        prefix_ptr=ptr,
        prefix_block_tokens=512,
    )
    write_requests(trace, path)
    again = load_requests(path)
    for name in ("arrival_s", "input_tokens", "output_tokens", "prefix_hashes", "prefix_ptr"):
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name))


@given(order=st.permutations(range(6)))
@settings(max_examples=30)
def test_sorting_moves_whole_requests(order):
    arrival = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 4.0])
    blocks = [list(range(10 * i, 10 * i + i)) for i in range(6)]
    given_blocks = [blocks[i] for i in order]
    trace = request_trace(
        arrival[order],
        np.array(order) + 1,
        np.array(order) + 11,
        session=np.array(order),
        prefix_hashes=np.array([h for block in given_blocks for h in block], np.int64),
        prefix_ptr=np.r_[0, np.cumsum([len(b) for b in given_blocks])],
        prefix_block_tokens=1,
    )
    assert (np.diff(trace.arrival_s) >= 0).all()
    for i, session in enumerate(trace.session.tolist()):
        assert trace.arrival_s[i] == arrival[session]
        assert trace.input_tokens[i] == session + 1
        assert trace.output_tokens[i] == session + 11
        assert trace.hashes_of(i).tolist() == blocks[session]


def test_all_faults_of_a_trace_at_once():
    with pytest.raises(ConfigError) as raised:
        request_trace([0.0, -1.0], [1, 0], [1.5, 2.0], session=[1], prefix_ptr=[0, 1, 2], concurrency=0)
    assert {fault.where for fault in raised.value.faults} >= {
        "arrival_s",
        "input_tokens",
        "output_tokens",
        "session",
        "concurrency",
    }


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ConfigError):
        write_requests(small_trace(), tmp_path / "absent" / "x.parquet")
    with pytest.raises(ConfigError, match="suffix of no format"):
        write_requests(small_trace(), tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["drop", "type", "unsorted", "zero", "json"])
def test_parquet_of_something_else(change, tmp_path):
    path = tmp_path / "x.parquet"
    write_requests(small_trace(), path)
    table = pq.read_table(path)
    if change == "drop":
        table = table.drop_columns(["input_tokens"])
    elif change == "type":
        table = table.set_column(1, "input_tokens", table["input_tokens"].cast("int64"))
    elif change == "zero":
        table = table.set_column(1, "input_tokens", [np.array([0, 1, 2], np.int32)])
    elif change == "json":
        table = table.replace_schema_metadata({"moesim.concurrency": '"many"', "moesim.source": "{"})
    elif change == "unsorted":
        table = table.take([2, 0, 1])
    pq.write_table(table, path)
    if change == "unsorted":  # sorted again
        assert load_requests(path).arrival_s.tolist() == ARRIVAL_S
        with pytest.raises(TraceError, match="order of arrival"):
            load_requests(path, ordered=True)
        return
    with pytest.raises(TraceError) as raised:
        load_requests(path)
    assert len(raised.value.faults) == (2 if change == "json" else 1)


def _mutate(data, rng):
    """One of: bits flipped, a piece cut out, doubled, or replaced with something wicked."""
    data = bytearray(data)
    wicked = [
        b"-1",
        b"1e999",
        b"NaN",
        b"\xff\xfe",
        b"{",
        b"]",
        b'"',
        b",",
        b"\n",
        b"null",
        b"9" * 30,
        b"\x00",
    ]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(data) + 1))
        end = min(len(data), at + int(rng.integers(0, 12)))
        kind = rng.integers(0, 5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:end] = wicked[rng.integers(0, len(wicked))]
        else:
            del data[at:]
    return bytes(data)


def test_mutated_files_are_requests_or_a_trace_error(tmp_path):
    names = write_all(tmp_path)
    target = tmp_path / "mutated"
    refused = dict.fromkeys(names, 0)
    for name in names:
        original = (tmp_path / name).read_bytes()
        rng = np.random.default_rng(7)
        for _ in range(OF_PARQUET if name.endswith("parquet") else MUTATIONS):
            target.write_bytes(_mutate(original, rng))
            try:
                trace = load_requests(target)
            except TraceError:
                refused[name] += 1
                continue
            assert len(trace) >= 1
            assert trace.input_tokens.min() >= 1
            assert (np.diff(trace.arrival_s) >= 0).all()
    assert min(refused.values()) > OF_PARQUET / 10, refused


def test_small_trace_is_what_it_says():
    trace = small_trace()
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == (INPUT, OUTPUT)
    assert len(trace.head(2)) == 2
    assert trace.head(2).prefix_ptr.tolist() == [0, 2, 3]
