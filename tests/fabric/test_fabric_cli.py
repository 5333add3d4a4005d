"""`moesim hardware traffic`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moesim.fabric import contention_seconds, network_of
from moesim.hardware import load_hardware


def test_the_document_says_what_the_network_does(moesim, tmp_path):
    rng = np.random.default_rng(0)
    traffic = rng.random((16, 16)) * 1e9
    expected = float(contention_seconds(network_of(load_hardware("h100-sxm-8", nodes=2)), traffic))
    np.save(tmp_path / "t.npy", traffic)
    np.savetxt(tmp_path / "t.csv", traffic, delimiter=",")
    for name in ("t.npy", "t.csv"):
        code, out, _ = moesim(
            "hardware", "traffic", "h100", "--nodes", 2, "--matrix", tmp_path / name, "--json"
        )
        document = json.loads(out)
        assert code == 0
        assert document["seconds"] == pytest.approx(expected)
        assert document["latency_s"] + document["busiest_s"] == pytest.approx(expected)
        assert document["total_bytes"] == pytest.approx(traffic.sum() - np.trace(traffic))
        slowest = document["busiest_links"][0]
        assert slowest["seconds"] == pytest.approx(document["busiest_s"])
        assert {row["collective"] for row in document["algorithms"]} >= {"all_reduce", "all_to_all"}
        assert len(document["provenance"]["inputs"]) == 2


@pytest.mark.parametrize("pattern", ["all_to_all", "neighbour", "hotspot"])
def test_patterns_in_words(moesim, pattern):
    code, out, _ = moesim(
        "hardware", "traffic", "mi300x-8", "--pattern", pattern, "--bytes", "1 GB", "--top", 3
    )
    assert code == 0
    assert "1 hops per byte, at most 1" in out
    share = {"all_to_all": 1 / 8, "neighbour": 1, "hotspot": 1}[pattern]
    assert f"{share * 1000:.4g} MB" in out or share == 1
    assert out.count(" > device:") == 3


def test_all_faults_at_once(moesim, tmp_path):
    (tmp_path / "m.csv").write_text("1,2\n3,-4\n")
    options = ("--pattern", "hotpot", "--bytes", "3 GBB", "--matrix", tmp_path / "m.csv")
    code, out, err = moesim("hardware", "traffic", "h100", *options)
    assert (code, out) == (2, "")
    assert "4 faults" in err
    for part in ("excludes --matrix", "nearest: hotspot", "unknown unit 'GBB'", "row 1, column 1"):
        assert part in err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1,2,3\n4,5,6\n", "is not square"),
        ("a,b\n", "cannot be read"),
        ("0,nan\n1,0\n", "row 0, column 1"),
        ("", ""),
    ],
)
def test_a_matrix_that_is_none(moesim, tmp_path, text, part):
    path = tmp_path / "m.csv"
    path.write_text(text or "\n".join([",".join(["1"] * 9)] * 9))
    code, _, err = moesim("hardware", "traffic", "h100", "--matrix", path)
    assert code == 2
    assert (part or "more rows than the machine devices") in err
