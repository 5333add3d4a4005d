"""Pickles and torch files are read as data: nothing they name is ever looked up or called."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_helpers import OLMOE, FakeTorch

from moesim.errors import TraceError
from moesim.trace import limits as limits_module
from moesim.trace import load_trace
from moesim.trace.pickle_data import read_pickle
from moesim.trace.torch_zip import read_torch

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(max_size=3) | st.integers() | st.tuples(st.integers(), st.integers()), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(PLAIN, st.integers(2, 5))
def test_plain_data_reads_as_pickle_reads_it(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol), "x.pkl") == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_numbers_and_counters(protocol):
    value = [Counter({np.int64(3): 7, np.int64(0): 9}), OrderedDict(a=np.float32(0.5)), {np.uint8(200): None}]
    got = read_pickle(pickle.dumps(value, protocol), "x.pkl")
    assert got == [{3: 7, 0: 9}, {"a": 0.5}, {200: None}]


def test_shared_and_recursive_values():
    shared: list[object] = [1]
    shared.append(shared)
    got = read_pickle(pickle.dumps((shared, shared)), "x.pkl")
    assert got[0] is got[1]
    assert got[0][1] is got[0]


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch pwned",), "posix.system"),
        (eval, ("1 + 1",), "builtins.eval"),
        (getattr, ((), "__class__"), "builtins.getattr"),
        (np.load, ("x",), "numpy.load"),
        (defaultdict, (list,), "collections.defaultdict"),
        (np.frombuffer, (b"12345678",), "numpy.frombuffer"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_else_is_refused_by_name(tmp_path, monkeypatch, function, arguments, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Evil(function, *arguments), protocol)
    (tmp_path / "evil.pkl").write_bytes(content)
    builtin = name.replace("builtins", "__builtin__") if protocol == 2 else name
    with pytest.raises(
        TraceError, match=f"asks for {builtin}.*which is not allowed".replace("numpy.f", "numpy.*f")
    ):
        load_trace(tmp_path / "evil.pkl")
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(TraceError, match="which is not allowed"):
        load_trace(tmp_path / "evil.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pkl", "evil.pt"]


def program(*lines: bytes) -> bytes:
    return b"\x80\x04" + b"".join(lines) + b"."


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (program(b"cos\nsystem\n"), "asks for os.system"),
        (program(b"c__main__\nx\n"), "asks for __main__.x"),
        (program(b"ccollections\nOrderedDict\n", b"}", b"b"), "changes a _Function"),
        (program(b"cnumpy\ndtype\n", b"\x8c\x02i8\x85R", b"}\x8c\x01aK\x01sb"), "strange state"),
        (program(b"cnumpy\ndtype\n", b"\x8c\x01O\x85R"), "data type 'O' is not allowed"),
        (program(b"ccollections\nOrderedDict\n", b")", b"\x81"), "instruction NEWOBJ"),
        (program(b"(icollections\nOrderedDict\n"), "instruction INST"),
        (program(b"\x82\x01"), "instruction EXT1"),
        (program(b"K\x01", b")", b"R"), "calls something that is no trusted function"),
        (program(b"]", b"}", b"s"), "no pickle of plain data"),
        (program(b"R"), "stack is empty"),
        (program(b"h\x07"), "no pickle of plain data"),
        (program(b"K\x01", b"K\x02"), "no pickle of plain data"),
        (program(b"(", b"\x85"), "out of place"),
        (b"\x80\x04K\x01", "truncated"),
        (b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x.", "truncated"),
        (b"\x80\x02X\xff\xff\xff\x7fx.", "truncated"),
        (b"", "truncated"),
    ],
)
def test_strange_programs(data, match):
    with pytest.raises(TraceError, match=match):
        read_pickle(data, "x.pkl")


def test_a_memo_index_costs_nothing():
    # Python's own machine would allocate a table of two billion entries.
    assert read_pickle(program(b"K\x01", b"r\xff\xff\xff\x7f"), "x.pkl") == 1


def test_keys_that_take_for_ever_to_hash_are_refused():
    tower = b")" + b"".join(b"2\x86" for _ in range(60))
    data = program(b"}", tower, b"K\x01", b"s")
    with pytest.raises(TraceError):
        read_pickle(data, "x.pkl")
    doubled = b"K\x01" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
    with pytest.raises(TraceError, match="has a key that is no number"):
        read_pickle(program(b"}", doubled, b"K\x01", b"s"), "x.pkl")


def test_too_large_a_pickle(monkeypatch):
    monkeypatch.setattr("moesim.trace.pickle_data.MAX_PICKLE_BYTES", 10)
    with pytest.raises(TraceError, match="needs"):
        read_pickle(pickle.dumps(list(range(100))), "x.pkl")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 59))
def test_noise_is_an_error_of_ours_or_plain_data(noise, at):
    base = pickle.dumps([Counter({np.int64(3): 7}), {"a": (1, 2.5)}])
    at = min(at, len(base))
    for data in (noise, base[:at] + noise + base[at:]):
        try:
            read_pickle(data, "x.pkl")
        except TraceError:
            continue


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "u1"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_tensors(tmp_path, monkeypatch, dtype, order):
    torch = FakeTorch(monkeypatch)
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    stored = array.astype(array.dtype.newbyteorder(">")) if order == "big" else array
    path = torch.save({"a": torch.tensor(stored, STORAGE[dtype])}, tmp_path / "t.pt", order.encode())
    monkeypatch.undo()
    got = read_torch(path)["a"]
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype


STORAGE = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "u1": "Byte",
}


def test_bfloat16_views_and_empty_tensors(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    values = np.array([1.0, -2.5, 3.140625, 65280.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    base = np.arange(12, dtype=np.int32)
    saved = {
        "bf16": torch.tensor(upper, "BFloat16"),
        "transposed": torch.tensor(base, size=(4, 3), stride=(1, 4)),
        "slice": torch.tensor(base, size=(2, 2), stride=(4, 1), offset=5),
        "empty": torch.tensor(base[:0], "Int"),
    }
    got = read_torch(torch.save(saved, tmp_path / "t.pt", compress=zipfile.ZIP_DEFLATED))
    np.testing.assert_array_equal(got["bf16"], values)
    np.testing.assert_array_equal(got["transposed"], base.reshape(3, 4).T)
    np.testing.assert_array_equal(got["slice"], [[5, 6], [9, 10]])
    assert got["empty"].shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (13,), "stride": (1,)},
        {"size": (4,), "stride": (1,), "offset": 9},
        {"size": (2**40,), "stride": (0,)},
        {"size": (4, 4), "stride": (1,)},
        {"size": (-1,), "stride": (1,)},
        {"size": (4,), "stride": (-1,), "offset": 4},
        {"size": (4,), "stride": (1,), "offset": -1},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"size": (4,), "stride": (1,), "numel": 2**40},
        {"size": ("a",), "stride": (1,)},
    ],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, monkeypatch, wrong):
    torch = FakeTorch(monkeypatch)
    saved = {"logical_count": torch.tensor(np.arange(12, dtype=np.int32), **wrong)}
    with pytest.raises(TraceError, match="is no pickle of plain data"):
        load_trace(torch.save(saved, tmp_path / "t.pt"))


def test_one_storage_asked_for_very_often(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    saved = {str(i): torch.tensor(np.arange(4000, dtype=np.int64)) for i in range(4)}
    path = torch.save(saved, tmp_path / "t.pt")
    assert len(read_torch(path)) == 4
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("archive/data.pkl")
        storage = archive.read("archive/data/0")
    for key in (b"1", b"2", b"3"):
        pickled = pickled.replace(b"X\x01\x00\x00\x00" + key + b"q", b"X\x01\x00\x00\x000q", 2)
    pickletools.dis(pickled, io.StringIO())
    with zipfile.ZipFile(tmp_path / "often.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    with pytest.raises(TraceError, match="larger than the storages"):
        read_torch(tmp_path / "often.pt")


def test_torch_archives_that_are_damaged(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    path = torch.save({"logical_count": torch.tensor(np.ones((2, 3, 8), np.int32))}, tmp_path / "t.pt")
    content = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError):
        load_trace(tmp_path / "cut.pt")
    (tmp_path / "bad.pt").write_bytes(content.replace(b"\x01\x00\x00\x00" * 8, b"\x02\x00\x00\x00" * 8))
    with pytest.raises(TraceError, match="bad crc"):
        load_trace(tmp_path / "bad.pt")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "lost.pt", "w") as lost:
        lost.writestr("archive/data.pkl", archive.read("archive/data.pkl"))
    with pytest.raises(TraceError, match="archive/data/0"):
        load_trace(tmp_path / "lost.pt")


def test_a_torch_bomb(tmp_path, monkeypatch):
    torch = FakeTorch(monkeypatch)
    zeros = torch.tensor(np.zeros((512, 16, 256), np.int32))
    path = torch.save({"logical_count": zeros}, tmp_path / "t.pt", compress=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(limits_module, "FREE_BYTES", 2**20)
    with pytest.raises(TraceError, match="as no real trace does"):
        load_trace(path)


def test_olmoe_counters(tmp_path):
    counters = [Counter({np.int64(e): 10 + e + layer for e in range(60)}) for layer in range(3)]
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(counters))
    loads = load_trace(tmp_path / "c.pkl", shape=OLMOE)
    assert (loads.moe_layer_ids, loads.counts.shape, loads.top_k) == ((0, 7, 15), (1, 3, 64), 8)
    assert loads.totals[1, 5] == 16
    assert loads.totals[:, 60:].sum() == 0
    alone = load_trace(tmp_path / "c.pkl")
    assert alone.num_experts == 60
    assert any("largest id plus one" in w for w in alone.warnings)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([Counter({(0, 1): 5})], "pairs of experts"),
        ([{0: -5}], "no count of an expert"),
        ([{-1: 5}], "no count of an expert"),
        ([{10**9: 5}], "no count of an expert"),
        ([{0: 1.5}], "no count of an expert"),
        ([], "no list of expert counts"),
        ({"a": 1}, "no list of expert counts"),
        ([{}], "no list of expert counts"),
    ],
)
def test_pickles_that_are_no_expert_counts(tmp_path, value, match):
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(TraceError, match=match):
        load_trace(tmp_path / "c.pkl")


def test_real_olmoe_counts(shared):
    loads = load_trace(shared("traces/olmoe-counts/raw/olmoe_expert_counts_c4.pkl"), shape=OLMOE)
    assert loads.totals.sum(axis=1).tolist() == [208_896 * 8] * 3
    with pytest.raises(TraceError, match="pairs of experts"):
        load_trace(shared("traces/olmoe-counts/raw/olmoe_expert_counts_crosslayer_c4.pkl"))
    every = load_trace(shared("traces/olmoe-counts/olmoe_mixtral_counts.npz"), shape=OLMOE)
    assert every.metadata["steps"].split(", ")[2] == "c4"
    np.testing.assert_array_equal(every.counts[2], loads.counts[0])
