"""`moesim replay --curve` and `--consistency`."""

from __future__ import annotations

import json

import pytest

from moesim import load_trace
from moesim.files import data_dir
from moesim.policy import Residency, token_steps
from moesim.residency import curve, replay

TRACE = data_dir("traces") / "gpt-oss-20b-synthetic.npz"


@pytest.mark.parametrize("pool", ["layer", "global"])
def test_every_capacity_is_in_the_document(moesim, pool):
    code, out, _ = moesim("replay", TRACE, "--curve", "--pool", pool, "--cold", "free", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["provenance"]["inputs"]
    trace = load_trace(TRACE)
    for rule, given in document["curves"].items():
        expected = curve(token_steps(trace), Residency(rule, pool, cold="free"))
        assert given["hits"] == expected.hits.sum(axis=0).tolist()
        assert len(given["layers"]) == 24
        assert len(given["hit_ratio"]) == len(given["layers"][0]) == (24 if pool == "global" else 1) * 32 + 1
        some = replay(trace, Residency(rule, pool, cold="free"), 10)
        assert given["hits"][10] == some.hits.sum()
        assert given["hit_ratio"][10] == some.hit_ratio
        assert given["conditions"]["cold"] == "free"


def test_the_table_shows_what_is_left_to_gain(moesim):
    code, out, err = moesim("replay", TRACE, "--curve")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["2", "4", "8", "12", "16", "24", "32"]
    for row in rows:
        lru, belady, gain = map(float, row[2:])
        assert belady - lru == pytest.approx(gain, abs=2e-4)
    assert "318,720 accesses" in err


def test_steps_of_several_requests(moesim, tmp_path):
    """What decodes together is loaded once; the file holds what is printed."""
    path = tmp_path / "curve.json"
    options = ("--curve", "--concurrency", 8, "--lookup", "token_batch", "--json", "-o", path)
    code, out, _ = moesim("replay", TRACE, *options)
    assert code == 0
    printed = json.loads(out)
    assert json.loads(path.read_text())["curves"] == printed["curves"]
    assert printed["curves"]["lru"]["accesses"] < 318720


def test_consistency(moesim):
    code, out, _ = moesim("replay", TRACE, "--consistency", "--json", "--seed", 3)
    assert code == 0
    document = json.loads(out)
    assert document["provenance"]["seed"] == 3
    given = document["consistency"]
    assert given["srp"]["model"]["256"] is None  # no sample is as long
    low, high = (end["4"] for end in given["srp"]["model_interval"])
    assert low < given["srp"]["model"]["4"] < high
    assert len(given["hit_rates"]["sch-16"]["pool"]) == 24 * 32 + 1
    code, out, _ = moesim("replay", TRACE, "--consistency")
    assert code == 0
    assert f"{given['srp']['model']['16']:.4f}" in out
    assert f"{given['hit_rates']['belady']['layer_mean'][8]:.4f}" in out
    assert f"{given['hit_rates']['sch-4']['pool'][8 * 24]:.4f}" in out


def test_what_has_no_part_is_told_at_once(moesim):
    code, _, err = moesim(
        "replay", TRACE, "--curve", "--policy", "lfu", "--cache-slots", 3, "--start", "first"
    )
    assert code == 2
    assert all(option in err for option in ("3 faults", "--policy", "--cache-slots", "--start"))
    code, _, err = moesim("replay", TRACE, "--consistency", "--pool", "global", "--cache-fraction", 0.5)
    assert code == 2
    assert all(option in err for option in ("2 faults", "--pool", "--cache-fraction"))
    code, _, err = moesim("replay", TRACE, "--consistency", "--curve")
    assert code == 2
    assert "beside" in err
    code, _, err = moesim("replay", TRACE, "--curve", "--pool", "device", "--ep", 4)
    assert code == 2
    assert all(option in err for option in ("has no curve", "--pool", "--ep"))
