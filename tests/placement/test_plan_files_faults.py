"""What engines take without a word is an error here, and every fault of a file comes at once."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from plan_samples import (
    GOOD,
    KEY,
    MODEL,
    PLAN,
    RANKS,
    ROWS,
    ascend,
    content,
    eplb,
    file_name,
    npz,
    sglang,
    trtllm,
)

from moesim.errors import ConfigError
from moesim.placement import FORMATS, NotAPlanError, check_plan, read_plan

DENSE = [GOOD, GOOD]


def check(tmp_path, name, data, **options):
    path = tmp_path / file_name(name)
    path.write_bytes(data)
    return check_plan(path, MODEL, RANKS, **options)


def put(*path, value):
    """A change of one place of a document."""

    def change(document):
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def drop(*path):
    def change(document):
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


def swap_devices(document):
    document["layer_list"][1]["device_list"].reverse()


def uneven(document):
    devices = document["layer_list"][2]["device_list"]
    devices[1]["device_expert"].append(devices[0]["device_expert"].pop())


LIST = "layer_list"
DEVICES = (LIST, 0, "device_list")
TABLE = PLAN.physical_to_logical

#: format, content, and what is said of which place
FAULTS = [
    # SGLang takes all of these but the first two without a word.
    ("sglang", json.dumps({KEY: DENSE + ROWS, "ep_size": 2}).encode(), "ep_size: is no name SGLang takes"),
    (
        "sglang",
        sglang([GOOD, [0, 1, 2, 3, 4, 6, 0, 1], *ROWS]),
        f"{KEY}[1][5]: is no expert of the model (got 6)",
    ),
    ("sglang", sglang(ROWS), "must have a row per decoder layer, dense ones too (got 3); allowed: 5"),
    ("sglang", sglang([*DENSE, *ROWS, GOOD]), "must have a row per decoder layer, dense ones too (got 6)"),
    (
        "sglang",
        sglang([*DENSE, [*GOOD, 0, 1], *ROWS[1:]]),
        f"{KEY}[2]: has another length (got 10); allowed: 8",
    ),
    ("sglang", sglang([GOOD[:7]] * 5), "does not divide over 2 ranks (got 7)"),
    ("sglang", sglang([GOOD[:4]] * 5), "cannot hold 6 experts (got 4)"),
    ("sglang", sglang([GOOD * 2] * 5), "holds more than one replica of each expert per rank (got 16)"),
    (
        "sglang",
        sglang([*DENSE, *ROWS[:2], [0, 0, 1, 2, 3, 4, 5, 1]]),
        f"{KEY}[4][1]: rank 0 holds expert 0 twice",
    ),
    ("sglang", sglang([[0, 1, 2, 3, 4, 0, 2, 1], GOOD, *ROWS]), f"{KEY}[0]: holds no replica of expert 5"),
    ("sglang", sglang([GOOD, [0, 1, 2, 3, 4, 5.0, 0, 1], *ROWS]), f"{KEY}[1][5]: is no expert of the model"),
    ("sglang", sglang([GOOD, [0, True, 2, 3, 4, 5, 0, 1], *ROWS]), f"{KEY}[1][1]: is no expert of the model"),
    ("sglang", sglang([GOOD, [0, None, 2, 3, 4, 5, 0, 1], *ROWS]), f"{KEY}[1][1]: is no expert of the model"),
    ("sglang", sglang([GOOD, [0, -1, 2, 3, 4, 5, 0, 1], *ROWS]), f"{KEY}[1][1]: is no expert of the model"),
    (
        "sglang",
        sglang([GOOD, [0, 2**70, 2, 3, 4, 5, 0, 1], *ROWS]),
        f"{KEY}[1][1]: is no expert of the model",
    ),
    ("sglang", sglang({"0": GOOD}), f"{KEY}: must be a list of rows"),
    ("sglang", sglang([GOOD, 3, *ROWS]), f"{KEY}: must be a list of rows"),
    ("sglang", sglang([]), "must have a row per decoder layer, dense ones too (got 0)"),
    ("sglang", sglang([GOOD, [], *ROWS]), f"{KEY}[1]: has another length (got 0)"),
    # TensorRT-LLM looks for no expert that is missing or twice, and for no layer too many.
    ("tensorrt-llm", trtllm(ep_size=2), "ep_size: is no name TensorRT-LLM takes"),
    ("tensorrt-llm", trtllm(num_slots=None), "num_slots: is missing"),
    ("tensorrt-llm", trtllm(num_slots="'8'"), "num_slots: is no number of slots (got '8')"),
    ("tensorrt-llm", trtllm(num_slots=7), "num_slots: does not divide over 2 ranks (got 7)"),
    (
        "tensorrt-llm",
        trtllm(num_slots=10),
        "initial_global_assignments.2: has another length (got 8); allowed: 10",
    ),
    ("tensorrt-llm", trtllm(layer_updates_per_iter=2), "layer_updates_per_iter: moves experts while serving"),
    ("tensorrt-llm", trtllm({2: ROWS[0], 3: GOOD}), "initial_global_assignments.4: is missing"),
    (
        "tensorrt-llm",
        trtllm({0: GOOD, 2: GOOD, 3: GOOD, 4: GOOD}),
        "assignments.0: is no MoE layer of the model",
    ),
    ("tensorrt-llm", trtllm({"'2'": GOOD, 3: GOOD, 4: GOOD}), "initial_global_assignments.2: is missing"),
    (
        "tensorrt-llm",
        trtllm({2: GOOD, 3: GOOD, 4: [0, 1, 2, 3, 4, 0, 1, 2]}),
        "assignments.4: holds no replica of expert 5",
    ),
    (
        "tensorrt-llm",
        trtllm({2: GOOD, 3: GOOD, 4: [0, 1, 0, 3, 4, 5, 2, 1]}),
        "assignments.4[2]: rank 0 holds expert 0 twice",
    ),
    (
        "tensorrt-llm",
        trtllm({2: GOOD, 3: GOOD, 4: "[0, 1, 010, 3, 4, 5, 2, 1]"}),
        "assignments.4[2]: is no expert",
    ),
    ("tensorrt-llm", trtllm({2: GOOD, 3: 7, 4: GOOD}), "assignments.3: must be a list of expert ids (got 7)"),
    ("tensorrt-llm", b"num_slots: 8\n", "initial_global_assignments: is missing"),
    ("tensorrt-llm", b"num_slots: 8\ninitial_global_assignments: [1]\n", "assignments: must be a mapping"),
    # vllm-ascend goes by position and looks at neither ids nor counts.
    (
        "vllm-ascend",
        ascend(swap_devices),
        "layer_list[1].device_list[0].device_id: is not its position (got 1)",
    ),
    (
        "vllm-ascend",
        ascend(put(LIST, 1, "layer_id", value=4)),
        "layer_list[1].layer_id: is not its position (got 4)",
    ),
    (
        "vllm-ascend",
        ascend(put("moe_layer_count", value=4)),
        "moe_layer_count: is not the model's or the ranks' (got 4)",
    ),
    ("vllm-ascend", ascend(put(LIST, 0, "device_count", value=3)), "layer_list[0].device_count: is not"),
    ("vllm-ascend", ascend(put("pool_mode", value=True)), "pool_mode: is a foreign name"),
    ("vllm-ascend", ascend(put(LIST, 0, "pool_size", value=1)), "layer_list[0].pool_size: is a foreign name"),
    (
        "vllm-ascend",
        ascend(put(*DEVICES, 0, "x", value=1)),
        "layer_list[0].device_list[0].x: is a foreign name",
    ),
    ("vllm-ascend", ascend(drop("moe_layer_count")), "moe_layer_count: is missing"),
    ("vllm-ascend", ascend(drop(LIST)), "layer_list: is missing"),
    (
        "vllm-ascend",
        ascend(drop(LIST, 2)),
        "layer_list: must have an entry per MoE layer (got 2); allowed: 3",
    ),
    (
        "vllm-ascend",
        ascend(drop(*DEVICES, 1)),
        "layer_list[0].device_list: must have an entry per rank (got 1)",
    ),
    ("vllm-ascend", ascend(drop(*DEVICES, 1, "device_expert")), "device_list[1].device_expert: is missing"),
    ("vllm-ascend", ascend(put(*DEVICES, value={})), "layer_list[0].device_list: must be a list of devices"),
    ("vllm-ascend", ascend(put(*DEVICES, 0, value=3)), "layer_list[0].device_list[0]: must be an object"),
    ("vllm-ascend", ascend(put(LIST, 0, value=[])), "layer_list[0]: must be an object"),
    ("vllm-ascend", ascend(put(LIST, value=3)), "layer_list: must be a list of layers"),
    ("vllm-ascend", ascend(uneven), "layer_list[2].device_list[1].device_expert: has another length (got 5)"),
    (
        "vllm-ascend",
        ascend(put(*DEVICES, 1, "device_expert", 2, value=9)),
        "layer_list[0].device_list[1].device_expert[2]: is no expert",
    ),
    (
        "vllm-ascend",
        ascend(put(*DEVICES, 1, "device_expert", value=[0, 1, 1, 5])),
        "layer_list[0].device_list[1].device_expert[2]: rank 1 holds expert 1 twice",
    ),
    # vLLM's pull request checks coverage, but not ranks.
    ("vllm", json.dumps(ROWS[:2]).encode(), "must have a row per MoE layer (got 2); allowed: 3"),
    (
        "vllm",
        json.dumps([*ROWS[:2], [0, 0, 1, 2, 3, 4, 5, 1]]).encode(),
        "[2][1]: rank 0 holds expert 0 twice",
    ),
    ("vllm", json.dumps([*ROWS[:2], 7]).encode(), "[2]: must be a list of expert ids (got 7)"),
    ("vllm", json.dumps(GOOD[:7]).encode(), "the row (its length): does not divide over 2 ranks"),
    ("vllm", b"[]", "must be a list"),
    # EPLB's arrays must agree with each other.
    ("eplb", eplb(extra=TABLE), "extra.npy: is a foreign array"),
    ("eplb", eplb(logical_count=None), "logical_count: is missing"),
    ("eplb", eplb(logical_to_physical_map=None), "logical_to_physical_map: is missing"),
    (
        "eplb",
        eplb(logical_count=PLAN.replica_counts + np.eye(3, 6, dtype=int)),
        "logical_count[0, 0]: contradicts the map",
    ),
    ("eplb", eplb(logical_to_physical_map=PLAN.logical_to_physical[:, ::-1]), "logical_to_physical_map[0, "),
    (
        "eplb",
        eplb(**{KEY: TABLE.astype(float)}),
        f"{KEY}: is no table of whole numbers (got 'float64 (3, 8)')",
    ),
    ("eplb", eplb(**{KEY: TABLE[0]}), f"{KEY}: is no table of whole numbers"),
    ("eplb", eplb(**{KEY: TABLE[:2]}), f"{KEY}: must have a row per MoE layer (got 2)"),
    (
        "eplb",
        eplb(**{KEY: np.where(TABLE == 5, 6, TABLE)}),
        f"{KEY}[0, 0]: is no expert of the model (got 6)",
    ),
    ("eplb", eplb(**{KEY: np.full((3, 8), 2**64 - 1, np.uint64)}), f"{KEY}: holds numbers beyond any id"),
]


@pytest.mark.parametrize(("name", "data", "said"), FAULTS)
def test_what_breaks_a_rule_fails_the_check(tmp_path, name, data, said):
    checked = check(tmp_path, name, data)
    assert checked.format == name
    assert checked.expert_map is None
    told = [str(fault) for fault in checked.faults]
    assert any(said in line for line in told), told
    json.dumps(checked.to_dict(), allow_nan=False)
    with pytest.raises(ConfigError, match=file_name(name)):
        read_plan(tmp_path / file_name(name), MODEL, RANKS)


def test_several_faults_come_together(tmp_path):
    data = sglang(
        [[0, "x", 2, 3, 4, 5, 0, 1], [*GOOD, 1], [0, 0, 1, 2, 3, 4, 5, 1], [0, 1, 2, 3, 4, 0, 1, 2]]
    )
    told = [str(fault) for fault in check(tmp_path, "sglang", data).faults]
    for said in (
        "row per decoder layer",
        "is no expert",
        "another length",
        "twice",
        "no replica of expert 5",
    ):
        assert any(said in line for line in told), (said, told)


def test_many_faults_of_a_kind_are_counted(tmp_path):
    told = [str(f) for f in check(tmp_path, "sglang", sglang([[9] * 8] * 5)).faults]
    assert len(told) == 5
    assert told[-1].startswith("36 more: is no expert of the model")


@pytest.mark.parametrize("name", FORMATS)
def test_slots_that_were_asked_for(tmp_path, name):
    assert check(tmp_path, name, content(name), slots=8).ok
    told = " ".join(map(str, check(tmp_path, name, content(name), slots=10).faults))
    assert "8" in told
    assert "10" in told


def test_a_question_no_plan_answers(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content("sglang"))
    for ranks, slots, said in (
        (0, None, "ranks"),
        (2, 7, "does not divide"),
        (2, 4, "cannot hold"),
        (2, 14, "more than one"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_plan(path, MODEL, ranks, slots)
    with pytest.raises(ConfigError, match="nearest: sglang"):
        check_plan(path, MODEL, 2, format="sglan")


@pytest.mark.parametrize("name", ["sglang", "vllm-ascend"])
def test_engines_that_take_only_json_names(name, tmp_path):
    path = tmp_path / "plan.txt"
    path.write_bytes(content(name))
    assert "a name ending in .json" in str(check_plan(path, MODEL, RANKS).faults[0])


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"\n".join(
    b"%c: &%c [%s]" % (97 + i, 97 + i, b",".join([b"*%c" % (96 + i)] * 9)) for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"[" * 5000, "is not JSON"),
        (b'{"physical_to_logical_map": [[', "is not JSON.*line 1, column|line 1, column.*is not JSON"),
        (b'{"%s": [[' % KEY.encode() + b"9" * 5000 + b"]]}", "is not JSON"),
        (b'{"%s": [], "%s": []}' % ((KEY.encode(),) * 2), "is there twice"),
        (b"{\xff}", "is not JSON"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
        (b"{}", "is no plan of any known format"),
        (b'{"a": 1}', "is no plan of any known format"),
        (b'{"logical_count": [[1]]}', "holds loads"),
        (b'"text"', "is no plan"),
        (b"3", "is no plan"),
        (b"no: plan\n", "is no plan"),
        (b"num_slots: 8\nnum_slots: 8\n", "twice"),
        (b"num_slots: &a 8\nx: *a\n", "has anchors"),
        (b"num_slots: !!python/object:os.system 8\n", "has tags"),
        (b"num_slots: 8\n---\nnum_slots: 8\n", "several documents"),
        (b"num_slots: 8\n<<: {a: 1}\n", "merges keys"),
        (b"? [1, 2]\n: 3\n", "key that is no scalar"),
        (b"num_slots: " + b"[" * 99, "nested too deeply"),
        (b"num_slots: [1, 2\n", "is not YAML"),
        (b"\tnum_slots: 8", "is not YAML"),
        (b"num_slots: [1,\x0b2]", "is not YAML"),
        (BOMB, "has anchors"),
        (b"PK\x03\x04", "no readable zip archive"),
        (npz(a=np.arange(3)), "of no plan"),
        (npz(**{KEY: np.array([None])}), "Python objects"),
        (npz(np.savez_compressed, **{KEY: np.zeros(1 << 22)}), "unpacks to more than a plan"),
    ],
)
def test_what_is_no_plan_is_refused_with_a_reason(tmp_path, data, said):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=said) as caught:
        read_plan(path, MODEL, RANKS)
    assert str(path) in str(caught.value)


def test_another_format_than_was_named_is_refused(tmp_path):
    for name in FORMATS:
        for other in FORMATS:
            path = tmp_path / file_name(name)
            path.write_bytes(content(name))
            if other != name:
                with pytest.raises(NotAPlanError):
                    check_plan(path, MODEL, RANKS, format=other)


def test_what_cannot_be_read_is_refused_unread(tmp_path):
    path = tmp_path / "plan.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    os.mkfifo(tmp_path / "fifo")
    for file, said in (
        (path, "too large for a plan of this model"),
        (tmp_path / "absent.json", "cannot be read"),
        (tmp_path, "is a folder"),
        (tmp_path / "fifo", "no regular file"),
        ("/dev/zero", "no regular file"),
        ("nul\0l", "no path"),
    ):
        with pytest.raises(NotAPlanError, match=said):
            read_plan(file, MODEL, RANKS)


def test_more_values_than_a_plan_has_are_not_parsed(tmp_path):
    path = tmp_path / "plan.json"
    for data in (b"[" + b"[]," * 300_000 + b"[]]", b"- 1\n" * 260_000):
        path.write_bytes(data)
        with pytest.raises(NotAPlanError, match="more values"):
            read_plan(path, MODEL, RANKS)
