"""The public measurements: how many rows are understood, and what is known of them."""

from __future__ import annotations

from collections import Counter

import pytest

from moesim.validate import dedupe, group_of, inconsistent, read_serving
from moesim.validate.names import is_moe


@pytest.fixture(scope="module")
def rows(shared):
    return read_serving(shared("silicon/e2e_serving.csv"))


def test_counts(rows):
    assert len(rows) == 3477
    assert sum(row.supported for row in rows) >= 0.97 * len(rows)
    moe = [row for row in rows if is_moe(row.model)]
    assert len(moe) == 2675
    assert len(dedupe(moe)) < 1976
    assert Counter(row.mode for row in rows) == {"agg": 2642, "disagg": 835}
    assert sum(row.mode == "disagg" and row.devices is None for row in rows) / 835 == pytest.approx(
        0.84, abs=0.01
    )


def test_layouts_as_they_were_run(rows):
    agg = [row for row in rows if row.mode == "agg" and not row.doubtful]
    assert max(row.layout.world for row in agg) == 8
    assert all(row.layout.world % row.layout.ep == 0 for row in rows if row.layout)
    assert sum(row.system == "gb200" and bool(row.doubtful) for row in rows if row.mode == "agg") == 52
    repaired = Counter(row.repairs[0] for row in rows if row.repairs)
    assert repaired["TP 64 with EP 8 read as TP 8"] == 141
    assert repaired["TP 4 x DP 4 with EP 16 read as DP 4 with EP 4"] == 23


def test_batch_is_concurrency_per_attention_rank(rows):
    assert all(row.concurrency >= 1 for row in rows)
    assert sum("silicon_concurrency" not in row.source for row in rows) == 13


def test_groups_and_contradictions(rows):
    distinct = dedupe(rows)
    assert len({group_of(row, "system") for row in rows}) == 5
    assert len({group_of(row, "model") for row in rows}) == 9
    flags = inconsistent(distinct)
    assert 0 < sum(map(bool, flags)) < 0.05 * len(distinct)
    cold = [r for r, found in zip(distinct, flags, strict=True) if any(f.metric == "ttft" for f in found)]
    assert sum(r.model == "deepseek-r1" and r.measured == "2025-11-10" for r in cold) >= 20
