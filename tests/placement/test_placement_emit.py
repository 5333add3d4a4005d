"""Plan files: what is written is what engines load, and nothing malformed comes back in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement import Problem, emit_faults, parse_emit, read_sglang, solve, to_sglang, write

# A model of five decoder layers, the first two dense, with six experts; two ranks of four slots.
MODEL = {"moe_layer_ids": (2, 3, 4), "num_layers": 5}
KEY = "physical_to_logical_map"


@pytest.fixture
def plan():
    return solve(Problem(np.random.default_rng(0).lognormal(size=(3, 6)), ranks=2, redundant=2)).expert_map


def read(path):
    return read_sglang(path, ranks=2, num_experts=6, **MODEL)


def test_sglang_round_trip(plan, tmp_path):
    path = tmp_path / "plan.json"
    emitted = write(plan, f"sglang:{path}", **MODEL)
    assert (emitted.path, emitted.format, emitted.rows) == (path, "sglang", 5)
    document = json.loads(path.read_text())
    assert list(document) == [KEY]
    assert [len(row) for row in document[KEY]] == [8] * 5
    assert document[KEY][0] == [0, 1, 2, 3, 4, 5, 0, 1]
    np.testing.assert_array_equal(read(path).physical_to_logical, plan.physical_to_logical)


def test_eplb_triple(plan, tmp_path):
    path = tmp_path / "plan.npz"
    assert write(plan, f"eplb:{path}", **MODEL).rows == 3
    with np.load(path, allow_pickle=False) as triple:
        assert sorted(triple) == ["logical_count", "logical_to_physical_map", KEY]
        back, slots_of, count = triple[KEY], triple["logical_to_physical_map"], triple["logical_count"]
    np.testing.assert_array_equal(back, plan.physical_to_logical)
    np.testing.assert_array_equal((slots_of >= 0).sum(axis=2), count)
    for layer, expert in np.ndindex(count.shape):
        slots = slots_of[layer, expert, : count[layer, expert]]
        assert (back[layer, slots] == expert).all()


def test_same_plan_same_bytes(plan, tmp_path):
    for name in ("sglang", "eplb"):
        files = [tmp_path / f"{name}{i}" for i in (1, 2)]
        for path in files:
            write(plan, f"{name}:{path}", **MODEL)
        assert files[0].read_bytes() == files[1].read_bytes()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_dense_rows_are_valid_placements_too(experts, ranks, data):
    room = data.draw(st.integers(-(-experts // ranks), experts))
    redundant = room * ranks - experts
    plan = ExpertMap.contiguous(1, experts, ranks, redundant)
    document = to_sglang(plan, moe_layer_ids=[1], num_layers=3)
    assert ExpertMap(np.array(document[KEY]), experts, ranks).redundant == redundant


@pytest.mark.parametrize(
    ("ids", "num_layers", "message"),
    [
        ((2, 3), 5, "the plan has 3 layers, the model 2"),
        ((2, 3, 5), 5, "rising decoder indices"),
        ((3, 2, 4), 5, "rising decoder indices"),
        ((-1, 2, 3), 5, "rising decoder indices"),
    ],
)
def test_a_layer_axis_that_does_not_fit_writes_nothing(plan, tmp_path, ids, num_layers, message):
    for name in ("sglang", "eplb"):
        with pytest.raises(ConfigError, match=message):
            write(plan, f"{name}:{tmp_path / 'plan'}", ids, num_layers)
    assert not list(tmp_path.iterdir())


GOOD = [0, 1, 2, 3, 4, 5, 0, 1]


def rows(**changed):
    table = [list(GOOD) for _ in range(5)]
    for name, row in changed.items():
        table[int(name[1:])] = row
    return {KEY: table}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "is not JSON"),
        ("[" * 5000, "is not JSON"),
        (f'{{"{KEY}": [[' + "9" * 5000 + "]]}", "is not JSON"),
        ("\xff", "is not JSON"),
        ([1], "one key"),
        ({}, "one key"),
        (rows() | {"logical_count": []}, "one key"),
        ({KEY: {"0": GOOD}}, "list of rows"),
        ({KEY: [GOOD, [], GOOD, GOOD, GOOD]}, "list of rows"),
        ({KEY: [GOOD] * 3}, "row per decoder layer"),
        ({KEY: [GOOD] * 6}, "row per decoder layer"),
        (rows(r3=GOOD + GOOD[:2]), "different lengths"),
        (rows(r1=[0, 1, 2, 3, 4, 5.0, 0, 1]), "no expert id"),
        (rows(r1=[0, True, 2, 3, 4, 5, 0, 1]), "no expert id"),
        (rows(r1=[0, None, 2, 3, 4, 5, 0, 1]), "no expert id"),
        (rows(r1=[0, 2**63, 2, 3, 4, 5, 0, 1]), "no expert id"),
        (rows(r2=[0, 1, 2, 3, 4, 6, 0, 1]), "no expert of the model"),
        (rows(r2=[0, 1, 2, 3, 4, -1, 0, 1]), "no expert of the model"),
        (rows(r0=[0, 1, 2, 3, 4, 0, 2, 1]), "expert 5 is in no slot of layer 0"),
        (rows(r4=[0, 0, 1, 2, 3, 4, 5, 1]), "expert 0 is twice on rank 0 of layer 4"),
        ({KEY: [[0, 1, 2, 3, 4, 5, 0]] * 5}, "7 slots do not divide over 2 ranks"),
    ],
)
def test_malformed_plans_are_refused(document, message, tmp_path):
    path = tmp_path / "plan.json"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert "plan.json" in str(caught.value)


def test_several_faults_of_a_plan_file_come_together(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({KEY: [GOOD, [*GOOD, "x"], GOOD]}))
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert len(caught.value.faults) == 3


def test_a_huge_or_missing_file_is_refused_unread(tmp_path):
    path = tmp_path / "plan.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(ConfigError, match="too large"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent.json")


def test_emit_specifications(tmp_path):
    assert parse_emit(f"sglang:{tmp_path}/a:b.json") == ("sglang", tmp_path / "a:b.json")
    assert not emit_faults(f"eplb:{tmp_path}/plan.npz")
    for spec, message in (
        ("plan.json", "names no format and file"),
        ("sglang:", "names no format and file"),
        (f"sglan:{tmp_path}/p", "nearest: sglang"),
        (f"sglang:{tmp_path}", "is a folder"),
        (f"sglang:{tmp_path}/none/p", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_emit(spec)
    assert len(emit_faults(f"vllm:{tmp_path}/none/p")) == 2
