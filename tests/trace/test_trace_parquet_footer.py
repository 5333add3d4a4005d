"""The footer of a Parquet file, read without pyarrow, and values that Parquet must not smuggle in."""

from __future__ import annotations

import random
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trace_helpers import make_counts, make_trace

from moesim.errors import TraceError
from moesim.trace import LoadCounts, load_trace, write_trace
from moesim.trace.parquet_footer import column_values, page_fault

V2 = {"data_page_version": "2.0", "use_dictionary": False, "write_page_checksum": True}
SMALL = {"data_page_size": 1, "write_batch_size": 1, "compression": "none"}


def by_pyarrow(path):
    metadata = pq.ParquetFile(path).metadata
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return [
        (g.num_rows, [(g.column(j).path_in_schema, g.column(j).num_values) for j in range(g.num_columns)])
        for g in groups
    ]


def test_it_agrees_with_pyarrow(tmp_path):
    write_trace(make_trace(5000, weights=True, token_id=True), tmp_path / "t.parquet")
    write_trace(make_counts(7), tmp_path / "c.parquet")
    table = pa.table({"a": [[1], [], [2, 3]], "b": ["x", None, "y"], "c": [{"d": {"e": True}}] * 3})
    several = ({}, {"row_group_size": 1}, {"write_page_index": True, "compression": "zstd"}, V2, SMALL)
    for i, options in enumerate(several):
        pq.write_table(table, tmp_path / f"{i}.parquet", **options)
    for path in tmp_path.iterdir():
        assert column_values(path) == by_pyarrow(path)
        assert page_fault(path, pq.ParquetFile(path).schema_arrow.names) is None


def test_damaged_footers_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    write_trace(make_trace(100), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    start, rng, refused = len(data) - 8 - length, random.Random(0), 0
    for _ in range(400):
        footer = bytearray(data[start:-8])
        for _ in range(rng.choice((1, 4))):
            footer[rng.randrange(length)] = rng.choice((0, 0x1C, 0x7F, 0xFC, 0xFF, rng.randrange(256)))
        path.write_bytes(data[:start] + footer + data[-8:])
        try:
            column_values(path)
        except TraceError:
            refused += 1
    assert refused > 50
    for tail in (b"PAR1", struct.pack("<I", 2**31) + b"PAR1", struct.pack("<I", 3) + b"PAR2"):
        path.write_bytes(b"PAR1" + bytes(8) + tail)
        with pytest.raises(TraceError):
            column_values(path)


@pytest.mark.parametrize("field", [1, 2], ids=["unpacked", "packed"])
def test_a_page_that_claims_gigabytes_is_refused(tmp_path, field):
    """The first page's header: its type, its sizes unpacked and packed, each a field of one number."""
    path = tmp_path / "t.parquet"
    write_trace(make_trace(40), path)
    data = path.read_bytes()
    at, ends = 4, []
    for _ in range(3):
        assert data[at] == 0x15
        at += 1
        while data[at] >= 0x80:
            at += 1
        at += 1
        ends.append(at)
    huge = b"\x15\xf0\xff\xff\xff\x0e"
    start = ends[field - 1]
    # The longer number runs over what follows, which moves nothing else.
    path.write_bytes(data[:start] + huge + data[start + len(huge) :])
    with pytest.raises(TraceError, match=r"a page of request|larger than its column|damaged page"):
        load_trace(path)


@pytest.mark.parametrize(
    ("value", "match"), [(-1.0, "is negative"), (np.nan, "is not finite"), (1e308, "adds up")]
)
def test_loads_are_checked(tmp_path, value, match):
    counts = make_counts(3).counts
    counts[1, :, 2:4] = value
    write_trace(LoadCounts(counts, (1, 2), 2), tmp_path / "c.parquet")
    with pytest.raises(TraceError, match=match):
        load_trace(tmp_path / "c.parquet")


def test_columns_are_checked(tmp_path):
    write_trace(make_trace(20, weights=True), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    for name, match in (("position", r"position: holds -5"), ("request", r"request: holds -5")):
        wrong = table.set_column(
            table.schema.get_field_index(name),
            table.schema.field(name),
            pa.array(np.full(20, -5), pa.int32()),
        )
        pq.write_table(wrong, tmp_path / "w.parquet")
        with pytest.raises(TraceError, match=match):
            load_trace(tmp_path / "w.parquet")


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    trace = make_trace(20, weights=True)
    trace.topk_weights[3, 1, 0] = np.nan
    with pytest.raises(TraceError, match="topk_weights: holds NaN"):
        write_trace(trace, tmp_path / "t.parquet")
    np.savez(
        tmp_path / "t.npz", topk_ids=trace.topk_ids, topk_weights=trace.topk_weights.astype(np.float64) * 1e6
    )
    with pytest.raises(TraceError, match="holds NaN, or values beyond float16"):
        load_trace(tmp_path / "t.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]
