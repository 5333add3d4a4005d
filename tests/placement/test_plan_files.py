"""Plan files: what is written comes back, and says where it comes from."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_samples import GOOD, KEY, MODEL, PLAN, RANKS, ROWS, content, file_name

from moesim.errors import ConfigError
from moesim.layout import ExpertMap
from moesim.placement import FORMATS, Problem, check_plan, emit_faults, parse_emit, read_plan, solve, write
from moesim.placement.files import Launch, read_record, record_path
from moesim.placement.files.emit import emission_faults

NAMES = tuple(FORMATS)


@st.composite
def plans(draw):
    """A plan for a model of up to four layers, some dense, and the model."""
    experts, ranks = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    room = draw(st.integers(-(-experts // ranks), experts))
    is_moe = draw(st.lists(st.booleans(), min_size=1, max_size=4).filter(any))
    ids = tuple(i for i, moe in enumerate(is_moe) if moe)
    model = SimpleNamespace(name="m", num_layers=len(is_moe), moe_layer_ids=ids, num_experts=experts)
    loads = np.array(
        draw(st.lists(st.integers(1, 99), min_size=len(ids) * experts, max_size=len(ids) * experts))
    )
    problem = Problem(loads.reshape(len(ids), experts).astype(float), ranks, room * ranks - experts)
    return solve(problem, "greedy").expert_map, model


@pytest.mark.parametrize("name", NAMES)
@given(plans())
def test_what_is_written_comes_back_from_every_format(tmp_path_factory, name, drawn):
    plan, model = drawn
    path = tmp_path_factory.mktemp("plan") / file_name(name)
    emitted = write(plan, f"{name}:{path}", model)
    assert emitted.rows == (model.num_layers if name == "sglang" else len(model.moe_layer_ids))
    for format_name in (None, name):
        back = read_plan(path, model, plan.ranks, plan.slots, format=format_name)
        np.testing.assert_array_equal(back.physical_to_logical, plan.physical_to_logical)
    assert check_plan(path, model, plan.ranks).format == name


def test_the_bytes_of_each_format():
    text = {name: content(name) for name in NAMES if name != "eplb"}
    sglang = json.loads(text["sglang"])
    assert sglang == {KEY: [GOOD, GOOD, *ROWS]}  # dense rows in order
    assert text["tensorrt-llm"].decode().splitlines() == [
        "num_slots: 8",
        "initial_global_assignments:",
        *(f"  {layer}: {row}" for layer, row in zip((2, 3, 4), ROWS, strict=True)),
        "layer_updates_per_iter: 0",
    ]
    ascend = json.loads(text["vllm-ascend"])
    assert ascend["moe_layer_count"] == 3
    assert ascend["layer_list"][0] == {
        "layer_id": 0,
        "device_count": 2,
        "device_list": [
            {"device_id": 0, "device_expert": ROWS[0][:4]},
            {"device_id": 1, "device_expert": ROWS[0][4:]},
        ],
    }
    assert json.loads(text["vllm"]) == ROWS


def test_eplb_triple(tmp_path):
    path = tmp_path / "plan.npz"
    assert write(PLAN, f"eplb:{path}", MODEL).rows == 3
    with np.load(path, allow_pickle=False) as triple:
        assert sorted(triple) == ["logical_count", "logical_to_physical_map", KEY]
        back, slots_of, count = triple[KEY], triple["logical_to_physical_map"], triple["logical_count"]
    np.testing.assert_array_equal((slots_of >= 0).sum(axis=2), count)
    for layer, expert in np.ndindex(count.shape):
        assert (back[layer, slots_of[layer, expert, : count[layer, expert]]] == expert).all()


def test_one_vllm_row_stands_for_all_layers(tmp_path):
    path = tmp_path / "flat.json"
    path.write_text(json.dumps(GOOD))
    np.testing.assert_array_equal(read_plan(path, MODEL, RANKS).physical_to_logical, [GOOD] * 3)


TEXT = content("tensorrt-llm").decode()
FLOW = ", ".join(f"{layer}: {row}" for layer, row in zip((2, 3, 4), ROWS, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(", ", ",\n      "),
        TEXT.replace("]", ",\n  ]").replace("[", "[ # ids, as in [1, 2]\n      "),
        re.sub(r": \[(.*)\]", lambda m: ":\n    - " + m[1].replace(", ", "\n    - "), TEXT),
        f"{{num_slots: 8, initial_global_assignments: {{{FLOW}}}, layer_updates_per_iter: 0}}",
        f"%YAML 1.2\n---\n# [3]\n{TEXT}...\n",
        TEXT.replace("num_slots", '"num_slots"').replace("\n", "\r\n"),
        f"\ufeff{TEXT}",
    ],
)
def test_yaml_may_be_laid_out_in_any_way(text, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(read_plan(path, MODEL, RANKS).physical_to_logical, ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_same_plan_same_bytes(name, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(PLAN, f"{name}:{tmp_path / folder / file_name(name)}", MODEL)
    files = [sorted((tmp_path / folder).iterdir()) for folder in ("a", "b")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


@pytest.mark.parametrize(
    ("ids", "num_layers", "message"),
    [
        ((2, 3), 5, "are not the model's"),
        ((2, 3, 5), 5, "rising decoder indices"),
        ((3, 2, 4), 5, "rising decoder indices"),
        ((-1, 2, 3), 5, "rising decoder indices"),
        ((), 5, "no experts to place"),
    ],
)
def test_a_plan_for_another_model_is_not_written(tmp_path, ids, num_layers, message):
    model = SimpleNamespace(name="other", num_layers=num_layers, moe_layer_ids=ids, num_experts=6)
    for name in NAMES:
        with pytest.raises(ConfigError, match=message):
            write(PLAN, f"{name}:{tmp_path / file_name(name)}", model)
    assert not list(tmp_path.iterdir())


def test_the_record_beside_a_plan(tmp_path):
    path = tmp_path / "plan.json"
    emitted = write(
        PLAN, f"sglang:{path}", MODEL, dispatch="sglang-static", record={"seed": 3, "bound": np.nan}
    )
    assert emitted.provenance == record_path(path)
    record = read_record(path)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = {"model": "tiny", "ranks": 2, "slots": 8, "dispatch": "sglang-static", "seed": 3, "bound": None}
    assert wanted.items() <= record.items()
    checked = check_plan(path, MODEL, RANKS)
    assert "unchanged" in checked.record
    assert checked.made == {"moesim": record["moesim"], "model": "tiny", "dispatch": "sglang-static"}
    record_path(path).write_text(json.dumps(record | {"method": ["x"] * 9, "model": "y" * 999}))
    assert check_plan(path, MODEL, RANKS).made["model"] == "y" * 80


def test_a_plan_changed_since_fails_the_check_though_it_is_sound(tmp_path):
    path = tmp_path / "plan.json"
    write(PLAN, f"vllm:{path}", MODEL)
    path.write_bytes(content("vllm", ExpertMap(np.array([GOOD] * 3), 6, RANKS)))
    checked = check_plan(path, MODEL, RANKS)
    assert [fault.where for fault in checked.faults] == ["sha256"]
    assert "has been changed" in checked.record
    record_path(path).unlink()
    assert check_plan(path, MODEL, RANKS).ok
    for damage in (b"", b"{", b"[1]", b'{"sha256": 3}', b"\xff", b"[" * 9999, b"{" + b" " * (1 << 20) + b"}"):
        record_path(path).write_bytes(damage)
        checked = check_plan(path, MODEL, RANKS)
        assert checked.ok
        assert "cannot be read" in checked.record


def test_a_failure_leaves_both_files_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    write(PLAN, f"sglang:{path}", MODEL)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*_):
        raise ConfigError("no room")

    monkeypatch.setattr("moesim.placement.files.emit.record_of", fail)
    with pytest.raises(ConfigError, match="no room"):
        write(ExpertMap(np.array([GOOD] * 3), 6, RANKS), f"sglang:{path}", MODEL)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_emit_specifications(tmp_path):
    assert parse_emit(f"sglang:{tmp_path}/a:b.json") == ("sglang", tmp_path / "a:b.json")
    assert parse_emit(f"trtllm:{tmp_path}/p.yaml")[0] == "tensorrt-llm"
    assert not emit_faults(f"eplb:{tmp_path}/plan.npz")
    (tmp_path / "p.json.provenance.json").mkdir()
    for spec, message in (
        ("plan.json", "names no format and file"),
        ("sglang:", "names no format and file"),
        (f"sglan:{tmp_path}/p", "nearest: sglang"),
        (f"vllm:{tmp_path}", "is a folder"),
        (f"vllm:{tmp_path}/none/p", "does not exist"),
        (f"sglang:{tmp_path}/p.txt", "a name ending in .json"),
        (f"vllm:{tmp_path}/p.json", "provenance.json.*is a folder|is a folder.*provenance.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_emit(spec)
    assert len(emit_faults(f"cuda:{tmp_path}/none/p")) == 2
    specs = [
        f"sglang:{tmp_path}/q.json",
        f"vllm:{tmp_path}/./q.json",
        f"vllm:{tmp_path}/q.json.provenance.json",
    ]
    assert [f.message for f in emission_faults(specs)] == ["would be written twice"] * 2
    assert not emission_faults([f"sglang:{tmp_path}/q.json", f"vllm:{tmp_path}/r.json"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "eplb"])
def test_command_lines_survive_a_shell(name, tmp_path):
    path = tmp_path / "my 'own' plan.json"
    launch = Launch("some/moe", path, ranks=8, redundant=8, nodes=2)
    line = FORMATS[name].command(launch).splitlines()[-1]
    words = shlex.split(line)
    assert "some/moe" in words
    assert "8" in words
    held = {
        "sglang": lambda: words[words.index("--init-expert-location") + 1],
        "vllm-ascend": lambda: _config(words, "--additional-config")["eplb_config"]["expert_map_path"],
        "vllm": lambda: _config(words, "--eplb-config")["initial_expert_map_path"],
        "tensorrt-llm": lambda: _yaml_path(FORMATS[name].command(launch)),
    }
    assert held[name]() == str(path)


def _config(words, option):
    return json.loads(words[words.index(option) + 1])


def _yaml_path(command):
    from ruamel.yaml import YAML

    options = re.search(r"<<'EOF'\n(.*)\nEOF", command, re.DOTALL)[1]
    return YAML(typ="safe", pure=True).load(options)["moe_config"]["load_balancer"]


@pytest.mark.parametrize(
    ("dispatch", "algorithm", "said"),
    [
        ("even", "dynamic", True),
        ("sglang-static", "static", False),
        ("sglang-dynamic", "dynamic", False),
        ("vllm-ascend", "dynamic", True),
        ("lp", "lp", False),
    ],
)
def test_dispatch_rules_become_flags(dispatch, algorithm, said):
    launch = Launch("m", Path("plan.json"), 2, 2, 1, dispatch)
    words = shlex.split(FORMATS["sglang"].command(launch))
    assert words[words.index("--ep-dispatch-algorithm") + 1] == algorithm
    assert any("no dispatch rule" in note for note in FORMATS["sglang"].notes(launch)) == said
