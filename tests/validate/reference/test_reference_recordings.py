"""Which routing `trace:NAME` gets: the user's, else a profile's, and it is told."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.errors import ConfigError
from moesim.reference.layer import Case, LayerShape
from moesim.reference.routings import route
from moesim.trace import RoutingTrace, write_trace
from moesim.validate.reference import frozen, recordings

LITE = LayerShape("lite", 64, 6, 64, 64)
CASES = [Case(LITE, 20, "trace:deepseek-v2-lite"), Case(LITE, 20, "uniform")]


def write(path, experts=64, top_k=6, tokens=50, layers=3):
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((tokens, layers, experts)), axis=2)[:, :, :top_k].astype(np.uint8)
    numbers = np.arange(tokens, dtype=np.int32)
    made = RoutingTrace(ids, numbers * 0, experts, tuple(range(layers)), numbers, np.ones(tokens, np.int8))
    write_trace(made, path)
    return ids


def test_a_recording_is_used(tmp_path):
    ids = write(tmp_path / "a.parquet")
    found = recordings(CASES, [tmp_path / "a.parquet"])["deepseek-v2-lite"]
    assert found.real
    assert np.array_equal(found.ids, ids)
    rows = route(CASES[0], {"deepseek-v2-lite": found})
    windows = [ids[i : i + 20, layer] for i in range(31) for layer in range(3)]
    assert any(np.array_equal(rows, window) for window in windows)


def test_the_longest_of_a_folder(tmp_path):
    write(tmp_path / "a.parquet", tokens=20)
    write(tmp_path / "b.parquet", tokens=70)
    (tmp_path / "LICENSE").write_text("no trace")
    assert len(recordings(CASES, [tmp_path])["deepseek-v2-lite"].ids) == 70


def test_without_one_tokens_are_drawn():
    found = recordings(CASES)["deepseek-v2-lite"]
    assert not found.real
    assert "profile" in found.source
    assert found.ids.shape == (4096, 26, 6)
    assert recordings([CASES[1]]) == {}


def test_what_fits_no_case_is_refused(tmp_path):
    write(tmp_path / "other.parquet", experts=16, top_k=2)
    with pytest.raises(ConfigError) as caught:
        recordings(CASES, [tmp_path / "other.parquet", tmp_path / "none"])
    assert len(caught.value.faults) == 2
    assert "deepseek-v2-lite (top 6 of 64)" in str(caught.value)


def test_real_recordings(shared):
    paths = [shared("traces/gpt-oss-20b/decode.npz"), shared("traces/esft-deepseek-v2-lite")]
    cases = [c for c in frozen("cpu") if c.routing in ("trace:gpt-oss-20b", "trace:deepseek-v2-lite")]
    found = recordings(cases, paths)
    assert {name: one.real for name, one in found.items()} == {"gpt-oss-20b": True, "deepseek-v2-lite": True}
    for case in cases:
        ids = route(case, found)
        assert ids.shape == (case.tokens, case.shape.top_k)
        assert all(len(set(row)) == case.shape.top_k for row in ids.tolist())
