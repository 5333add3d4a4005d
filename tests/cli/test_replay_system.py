"""`moesim replay --system`: named systems, told in a table or as JSON; mistakes are no tracebacks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.trace import load_trace

TRACE = "traces/gpt-oss-20b-synthetic.npz"


def test_one_system_as_json(moesim):
    code, out, _ = moesim("replay", TRACE, "--system", "mixtral-offloading", "--tokens", 60, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["system"] == "mixtral-offloading"
    assert found["variant"] == "paper"
    assert found["tokens"] == 60
    assert 0 < found["hits"] < found["accesses"] == 60 * 24 * 4
    assert found["hit_ratio"] == pytest.approx(found["hits"] / found["accesses"])
    assert found["tpot_s"] >= found["bounds"]["tpot_s"]
    assert found["gap"] == pytest.approx(found["tpot_s"] / found["bounds"]["tpot_s"] - 1)
    (width, recall) = found["assumed"]
    assert width["name"] == "speculative_experts"
    assert recall["range"][0] <= recall["value"] <= recall["range"][1]
    assert len(found["rows"]) == 1


def test_systems_beside_each_other(moesim):
    code, out, err = moesim("replay", TRACE, "--system", "lru,expertflow,belady-oracle", "--tokens", 40)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[-3:]] == ["lru", "expertflow", "belady-oracle"]
    ratio = {line[0]: float(line[2]) for line in lines[-3:]}
    assert ratio["belady-oracle"] >= ratio["lru"]
    assert "expertflow: assumed wrong_paths" in err
    assert "learnt from" in err


def test_both_variants(moesim):
    arguments = ("--system", "mixtral-offloading", "--variant", "both", "--tokens", 20, "--json")
    code, out, _ = moesim("replay", TRACE, *arguments)
    assert code == 0
    assert [row["variant"] for row in json.loads(out)["rows"]] == ["paper", "code"]


def test_assumed_values_are_set(moesim):
    def hits(*more):
        arguments = ("--system", "adapmoe", "--tokens", 60, "--json", *more)
        return json.loads(moesim("replay", TRACE, *arguments)[1])["hits"]

    assert hits("--assume", "next_gate_recall=0.97") > hits("--assume", "next_gate_recall=0.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--system", "hybridmoe"), "nearest: hybrimoe"),
        (("--system", "lru", "--variant", "draft"), "--variant"),
        (("--system", "lru", "--cache-fraction", "0"), "--cache-fraction"),
        (("--system", "lru", "--tokens", "0"), "--tokens"),
        (("--system", "lru", "--assume", "recall"), "is no name=value"),
        (("--system", "lru", "--assume", "recall=0.5"), "is no assumption of lru"),
        (("--system", "lru", "--model", "mixtral-8x7b"), "mixtral-8x7b has 8"),
        (("--system", "fmoe", "--train", TRACE), "requests that are replayed"),
        (("--system", "lru", "--hardware", "rtx-4091-workstation"), "nearest: rtx-4090-workstation"),
    ],
)
def test_mistakes_are_told(arguments, message, moesim):
    code, out, err = moesim("replay", TRACE, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_what_a_box_lacks_for_one_of_several_is_told(moesim):
    code, out, _ = moesim("replay", TRACE, "--system", "lru,monde", "--tokens", 10, "--json")
    assert code == 0
    lru, monde = json.loads(out)["rows"]
    assert lru["refused"] is None
    assert "no near-data unit" in monde["refused"]
    code, _, err = moesim("replay", TRACE, "--system", "monde", "--tokens", 10)
    assert code == 2
    assert "no near-data unit" in err


def test_assumed_numbers_are_swept(moesim):
    arguments = ("--system", "lru,adapmoe", "--tokens", 40, "--assume", "next_gate_recall=0.9", "--sweep")
    code, out, _ = moesim("replay", TRACE, *arguments, "--json")
    assert code == 0
    lru, adapmoe = json.loads(out)["rows"]
    assert lru["assumed"] == []
    (recall,) = adapmoe["assumed"]
    low, high = recall["hit_ratio"]
    assert low < adapmoe["hit_ratio"] < high
    assert recall["tpot_s"][0] > recall["tpot_s"][1]
    _, _, err = moesim("replay", TRACE, *arguments)
    assert "gives hit ratio" in err
    code, _, err = moesim("replay", TRACE, "--system", "lru,adapmoe", "--assume", "recall=0.9")
    assert code == 2
    assert "is no assumption of lru, adapmoe" in err
    assert "next_gate_recall" in err


def test_what_learns_nothing_replays_all(moesim):
    whole, half = (
        json.loads(moesim("replay", TRACE, "--system", names, "--json")[1])["rows"][0]
        for names in ("lru", "lru,fiddler")
    )
    assert whole["accesses"] == 3320 * 24 * 4
    assert half["accesses"] < 0.6 * whole["accesses"]
    # The same hits as the replay without time, with the same conditions.
    code, out, _ = moesim("replay", TRACE, "--policy", "lru", "--lookup", "token_batch", "--json")
    assert code == 0
    assert json.loads(out)["hits"] == whole["hits"]


def test_a_single_request_is_replayed_where_nothing_is_learnt(moesim, tmp_path):
    trace = load_trace(TRACE)
    numbers = np.where(trace.request == trace.request[0])[0]
    np.savez(tmp_path / "one.npz", topk_ids=trace.topk_ids[numbers], request=trace.request[numbers])
    arguments = ("--model", "gpt-oss-20b", "--system")
    assert moesim("replay", tmp_path / "one.npz", *arguments, "lru")[0] == 0
    code, _, err = moesim("replay", tmp_path / "one.npz", *arguments, "fmoe")
    assert code == 2
    assert "single request" in err


def test_more_than_the_device_holds_is_infeasible(moesim):
    arguments = ("--system", "lru", "--cache-fraction", "1.0", "--hardware", "rtx-3060-desktop")
    code, _, err = moesim("replay", TRACE, *arguments)
    assert code == 1
    assert "--cache-fraction" in err


def test_slots_by_name_replace_a_systems_own(moesim):
    def row(*arguments):
        code, out, err = moesim("replay", TRACE, "--tokens", 40, "--json", *arguments)
        assert code == 0, err
        return json.loads(out)

    fetch = ("--slot", "transfer=fetch:width=4")
    plain, guessed = (
        row("--system", "lru,fiddler")["rows"][0],
        row("--slot", "predictor=oracle:window=1", *fetch),
    )
    assert guessed["system"] == "lru"
    assert guessed["slots_chosen"] == ["predictor=oracle:window=1", "transfer=fetch:width=4"]
    assert guessed["accesses"] == plain["accesses"]
    assert guessed["hits"] > plain["hits"]
    assert guessed["prefetched"] > 0
    pooled = row("--slot", "residency=lru:pool=global,lookup=token_batch")
    assert len(pooled["slots_per_pool"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predictor=markof:width=4",), "nearest: markov"),
        (("predictr=markov:width=4",), "nearest: predictor"),
        (("predictor",), "is no SLOT=NAME"),
        (("transfer=fetch:widht=4",), "widht: is unknown"),
        (("transfer=pull",), "it is fetch"),
        (("transfer=fetch:width=-1",), "width: is too small"),
        (("transfer=fetch:width=x",), "width: is no whole number"),
        (("gate=top-gap:gap=x",), "gap: is no number"),
        (("transfer=fetch:write_back=1",), "write_back: is neither true nor false"),
        (("precision=constant:bits=nan",), "bits: is no width"),
        (("gate=as-routed", "gate=as-routed"), "is given twice"),
        (("predictor=markov:width=4",), "transfer=fetch:width=4"),
        (("residency=lru:pool=worldwide",), "pool: is unknown"),
    ],
)
def test_mistaken_slots_are_told(arguments, message, moesim):
    options = [part for text in arguments for part in ("--slot", text)]
    code, out, err = moesim("replay", TRACE, "--tokens", 10, *options)
    assert code == 2
    assert out == ""
    assert message in err


def test_slots_have_no_part_in_the_search(moesim):
    code, _, err = moesim("replay", TRACE, "--optimise", "--slot", "gate=as-routed")
    assert code == 2
    assert "--slot" in err
