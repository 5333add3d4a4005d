"""A folder of requests streams into Parquet as it would be read whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_samples import SHAPE, expected, imatrix, selection_folder, sglang_routed, speculative, vllm_npz
from trace_helpers import KNOWN, same

from moesim.errors import TraceError
from moesim.trace import load_trace
from moesim.trace.shape import Hints, Shape
from moesim.trace.stream import stream_folder


def many(make, folder, copies=3):
    """A folder with a sample several times."""
    folder.mkdir()
    for i in range(copies):
        path = make(folder)
        path.rename(folder / f"{i}{path.suffix}")
    return folder


@pytest.mark.parametrize("make", [vllm_npz, sglang_routed, speculative], ids=lambda f: f.__name__)
def test_streamed_is_what_is_read(tmp_path, make):
    folder = many(make, tmp_path / "many")
    for hints in ({"shape": SHAPE}, {"candidates": (*KNOWN, SHAPE)}, {"num_experts": 8}):
        if make is sglang_routed and "num_experts" in hints:
            continue  # Responses do not say their layers.
        whole = load_trace(folder, **hints)
        written = stream_folder(folder, tmp_path / "t.parquet", Hints.of(**hints))
        back = load_trace(tmp_path / "t.parquet")
        assert same(whole, back, warnings=back.warnings)
        assert set(whole.warnings) == set(written.warnings)
        np.testing.assert_array_equal(
            np.bincount(back.request),
            np.full(back.request.max() + 1, back.num_tokens // (back.request.max() + 1)),
        )


def test_streamed_folder_of_selections(tmp_path):
    folder = selection_folder(tmp_path)
    stream_folder(folder, tmp_path / "t.parquet", Hints())
    back = load_trace(tmp_path / "t.parquet", shape=SHAPE)
    np.testing.assert_array_equal(back.topk_ids, expected().topk_ids)
    np.testing.assert_array_equal(back.request, expected().request)


def test_dropped_tokens_are_named_by_file(tmp_path):
    folder = many(speculative, tmp_path / "many")
    lines = (folder / "1.jsonl").read_text().splitlines()
    (folder / "1.jsonl").write_text("\n".join(lines[1:]))
    written = stream_folder(folder, tmp_path / "t.parquet", Hints(shape=SHAPE))
    assert any(w.startswith("1.jsonl: dropped 1 of 12") for w in written.warnings)
    assert load_trace(tmp_path / "t.parquet").num_tokens == 35


def test_nothing_is_written_when_a_file_is_wrong(tmp_path):
    folder = selection_folder(tmp_path)
    document = json.loads((folder / "1.json").read_text())
    (folder / "1.json").write_text(json.dumps([{"1": [[0, 1]]} for _ in document]))
    with pytest.raises(TraceError, match=r"1\.json: is \[tokens, layers, top_k\]"):
        stream_folder(folder, tmp_path / "t.parquet", Hints())
    (folder / "1.json").write_text(json.dumps(document)[:-9])
    with pytest.raises(TraceError, match="no JSON, or is truncated"):
        stream_folder(folder, tmp_path / "t.parquet", Hints())
    other = Shape("other", 3, (0, 1), 8, 2)
    with pytest.raises(TraceError, match="which other does not have"):
        stream_folder(selection_folder(tmp_path / "more"), tmp_path / "t.parquet", Hints(shape=other))
    assert not (tmp_path / "t.parquet").exists()


def test_folders_of_something_else_are_left_alone(tmp_path):
    assert stream_folder(imatrix(tmp_path), tmp_path / "t.parquet", Hints()) is None
    assert stream_folder(many(imatrix, tmp_path / "many"), tmp_path / "t.parquet", Hints()) is None
    assert not (tmp_path / "t.parquet").exists()
