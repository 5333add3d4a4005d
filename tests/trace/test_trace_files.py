"""Files that are no traces, the registry of readers, and the traces that are shipped."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
import sys
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_helpers import TINY, FakeTorch, make_counts, make_trace, same

from moesim.errors import ConfigError, TraceError
from moesim.files import data_dir
from moesim.trace import LoadCounts, RoutingTrace, load_trace, write_trace
from moesim.trace.peek import Peek
from moesim.trace.readers import built_in, find_reader
from moesim.trace.readers.base import Reader

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(range(256)) * 4


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        b'{"hello": [1, 2]}',
        b"a,b\n1,2\n",
        b"PK\x05\x06" + b"\0" * 18,
        b"PK\x03\x04 not a zip",
        b"\x1f\x8b\x08",
    ],
)
def test_foreign_files(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(TraceError, match=r"is in no known trace format.*canonical Parquet"):
        load_trace(tmp_path / "foreign")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").touch()
    for name, match in [
        ("empty", "is empty"),
        (".", "is a folder"),
        ("none", "no such file"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(TraceError, match=match):
            load_trace(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="no regular file"):
        load_trace(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    write_trace(make_trace(), tmp_path / "t.npz")
    (tmp_path / "t.npz").chmod(0)
    with pytest.raises(TraceError, match="permission denied"):
        load_trace(tmp_path / "t.npz")


def test_permission_denied_for_anyone(tmp_path, monkeypatch):
    write_trace(make_trace(), tmp_path / "t.npz")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(TraceError, match="cannot be read: permission denied"):
        load_trace(tmp_path / "t.npz")


@pytest.mark.parametrize("name", ["t.npz", "t.parquet", "c.json", "c.npz", "c.parquet"])
def test_unwritable_outputs(tmp_path, name):
    trace = make_trace() if name[0] == "t" else make_counts()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_trace(trace, tmp_path / "no" / name)
    assert list(tmp_path.iterdir()) == []


def test_format_is_told_by_content_not_by_name(tmp_path):
    for trace, suffix in ((make_trace(), ".npz"), (make_trace(), ".parquet"), (make_counts(), ".json")):
        write_trace(trace, tmp_path / f"x{suffix}")
        renamed = (tmp_path / f"x{suffix}").rename(tmp_path / "file.bin")
        np.testing.assert_array_equal(
            load_trace(renamed, shape=TINY).load_counts().counts, trace.load_counts().counts
        )


def test_reader_names_are_unique_and_titles_plain():
    readers = built_in()
    assert len({r.name for r in readers}) == len(readers) >= 8
    assert all(r.title for r in readers)


TALLY = Reader(
    "tally",
    "a made-up format",
    lambda peek: float(peek.head.startswith(b"TALLY")),
    lambda peek, hints: make_counts(),  # noqa: ARG005
)


def offer(monkeypatch, value):
    entry = EntryPoint("tally", value, "moesim.trace_readers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: EntryPoints([entry]))


def test_plug_ins_add_formats(tmp_path, monkeypatch):
    (tmp_path / "t").write_bytes(b"TALLY 1")
    with pytest.raises(TraceError):
        find_reader(Peek(tmp_path / "t"))
    offer(monkeypatch, f"{__name__}:TALLY")
    assert find_reader(Peek(tmp_path / "t")).name == "tally"
    assert same(load_trace(tmp_path / "t"), make_counts())
    offer(monkeypatch, f"{__name__}:JPEG")
    with pytest.raises(TraceError, match=r"is no moesim\.trace\.readers\.Reader"):
        load_trace(tmp_path / "t")


@pytest.fixture(scope="module")
def maker():
    # The folder is shipped whole: leave no bytecode in it.
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec = importlib.util.spec_from_file_location("make_bundled", data_dir("traces") / "make_bundled.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = keep
    return module


def test_shipped_traces_are_what_their_recipe_makes(maker):
    folder = data_dir("traces")
    assert same(maker.token_trace(), load_trace(folder / maker.TOKENS_FILE))
    counts = load_trace(folder / maker.COUNTS_FILE, num_experts=256)
    np.testing.assert_array_equal(counts.counts, maker.load_counts().counts)
    assert counts.moe_layer_ids == tuple(range(3, 61))


def test_shipped_traces_are_small_and_described(maker):
    folder = data_dir("traces")
    readme = (folder / "README.md").read_text()
    for name, limit in ((maker.TOKENS_FILE, 700_000), (maker.COUNTS_FILE, 200_000)):
        content = (folder / name).read_bytes()
        assert len(content) < limit
        assert re.search(rf"`{hashlib.sha256(content).hexdigest()}` \| `{name}`", readme)
    assert "synthetic" in readme


def test_shipped_traces_are_about_as_skewed_as_real_ones(maker):
    tokens, loads = maker.token_trace(), maker.load_counts()
    assert isinstance(tokens, RoutingTrace)
    assert isinstance(loads, LoadCounts)
    total = tokens.load_counts().totals
    assert (total.sum(axis=1) == tokens.num_tokens * 4).all()
    assert (total.max(axis=1) / total.mean(axis=1)).mean() == pytest.approx(2.62, rel=0.15)
    follows = (tokens.request[1:] == tokens.request[:-1])[:, None, None, None]
    shared = (tokens.topk_ids[1:, :, :, None] == tokens.topk_ids[:-1, :, None, :]) & follows
    overlap = shared.sum() / follows.sum() / 24 / 4
    assert overlap == pytest.approx(0.438, rel=0.05)
    skew = loads.totals.max(axis=1) / loads.totals.mean(axis=1)
    assert skew.mean() == pytest.approx(5.6, rel=0.05)
    assert skew.max() <= 256 / 8


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory):
    folder = tmp_path_factory.mktemp("each")
    write_trace(make_trace(60, weights=True, token_id=True), folder / "a.npz")
    write_trace(make_trace(60), folder / "b.parquet")
    write_trace(make_counts(2), folder / "c.json")
    write_trace(make_counts(2), folder / "d.parquet")
    np.save(folder / "e.npy", make_trace(20).topk_ids)
    (folder / "f.pkl").write_bytes(pickle.dumps([{np.int64(3): 7, np.int64(1): 2}] * 3))
    with pytest.MonkeyPatch.context() as patch:
        torch = FakeTorch(patch)
        saved = {"rank": 0, "logical_count": torch.tensor(np.ones((2, 3, 8), np.int32))}
        torch.save(saved, folder / "g.pt")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 6), st.data())
def test_damaged_files_are_errors_of_ours_or_still_traces(one_of_each, tmp_path_factory, which, data):
    content = bytearray(one_of_each[which])
    for _ in range(data.draw(st.sampled_from([1, 1, 3]))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 4]))
        content[at : at + length] = data.draw(st.sampled_from([b"", b"\0", b"\xff\xff\xff\x7f", b"9", b"]"]))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content or b"x")
    try:
        smallest, message = load_trace(path).load_counts().counts.min(), str(path)
    except TraceError as error:
        smallest, message = 0, str(error)
    assert smallest >= 0
    assert str(path) in message
