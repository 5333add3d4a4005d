"""The trace that comes with moesim: whole, as its model card describes it, and alike to real routing."""

from __future__ import annotations

import csv
import hashlib
import json
import re

import numpy as np
import pytest

from moesim.analysis import statistics
from moesim.files import data_dir
from moesim.model import load_model, params
from moesim.trace import DECODE, PREFILL, load_trace

FOLDER = data_dir("traces") / "tiny-moe"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
PROMPT, DECODED, PER_KIND = 128, 96, 20


@pytest.fixture(scope="module")
def trace():
    return load_trace(FOLDER / "trace.parquet")


@pytest.fixture(scope="module")
def kinds(trace):
    names = json.loads(trace.metadata["kinds"])
    return {name: trace.request % len(names) == i for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def overall(trace):
    return statistics(trace).overall


def _numbers(row, cell=1):
    """The numbers in a cell of the card's table row of that name."""
    line = next(line for line in CARD.splitlines() if line.startswith(f"| {row} |"))
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\.?\d+", line.split("|")[1 + cell])]


def test_the_files_are_those_the_card_names():
    names = re.findall(r"^\| `([0-9a-f]{64})` \| `(\S+)` \|$", CARD, re.MULTILINE)
    assert {name for _, name in names} == {"trace.parquet", "loss.csv"}
    for digest, name in names:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) < 3.5e6


def test_requests_and_phases(trace, kinds):
    requests = PER_KIND * len(kinds)
    assert (trace.model, trace.num_experts, trace.top_k) == ("tiny-moe", 32, 4)
    assert trace.moe_layer_ids == tuple(range(8))
    assert "PSF-2.0" in trace.licence
    assert np.bincount(trace.request[trace.phase == PREFILL]).tolist() == [PROMPT] * requests
    decoded = np.bincount(trace.request[trace.phase == DECODE], minlength=requests)
    # A request may end early, by the end token.
    assert decoded.max() == DECODED
    assert np.median(decoded) > DECODED / 2
    assert _numbers("tokens, prefill / decode") == [PROMPT * requests, decoded.sum()]


def test_experts_are_distinct_and_weights_sum_to_one(trace):
    assert (np.diff(np.sort(trace.topk_ids, axis=2).astype(int), axis=2) > 0).all()
    assert trace.topk_weights is not None
    np.testing.assert_allclose(trace.topk_weights.astype(float).sum(axis=2), 1, atol=2e-3)
    assert (np.diff(trace.topk_weights.astype(float), axis=2) <= 0).all()
    # No expert is dead, and none takes all.
    loads = trace.load_counts().totals
    assert (loads > 0).all()
    assert loads.max() < 0.5 * trace.num_tokens


def test_statistics_of_the_card(overall):
    assert _numbers("largest over mean expert load") == [round(overall["max_over_mean"], 2)]
    assert _numbers("normalised entropy of the load") == [round(overall["entropy_normalised"], 3)]
    assert _numbers("experts kept from one token to the next") == [round(overall["consecutive_overlap"], 3)]
    lags = [round(overall["lag_overlap"][lag], 3) for lag in ("2", "4", "16", "64")]
    assert _numbers("the same at lag 2 / 4 / 16 / 64") == lags
    assert _numbers("the same for two tokens drawn at random") == [round(overall["random_pair_overlap"], 3)]
    distinct = [round(overall["distinct_fraction"][n], 3) for n in ("8", "32", "128")]
    assert _numbers("distinct experts in 8 / 32 / 128 consecutive tokens") == distinct
    information = overall["next_layer_information_bits"]
    assert _numbers("information about the next layer's expert, bits") == [round(information, 2)]


def test_it_behaves_as_real_routing_does(overall):
    """The order of things that holds in every public trace, and that no independent draw has."""
    uniform = 4 / 32
    assert (
        overall["consecutive_overlap"]
        > overall["lag_overlap"]["64"]
        > overall["random_pair_overlap"]
        > uniform
    )
    assert overall["distinct_fraction"]["32"] < overall["distinct_fraction_mixed"]["32"]
    assert overall["distinct_fraction_mixed"]["32"] < overall["distinct_fraction_uniform"]["32"]
    assert overall["recall_k"] > 2 * overall["popularity_recall_k"]
    assert overall["next_layer_information_bits"] > 0.1
    assert 1.2 < overall["max_over_mean"] < 8
    assert 0.75 < overall["entropy_normalised"] < 0.995


def test_kinds_of_text_use_different_experts(trace, kinds):
    """Two kinds differ by far more than two halves of one kind."""

    def share(rows):
        counts = np.stack([np.bincount(trace.topk_ids[rows, i].ravel(), minlength=32) for i in range(8)])
        return counts / counts.sum(axis=1, keepdims=True)

    def distance(a, b):
        return float(np.abs(share(a) - share(b)).sum(axis=1).mean() / 2)

    half = trace.request // len(kinds) % 2 == 0
    within = [distance(rows & half, rows & ~half) for rows in kinds.values()]
    names = list(kinds)
    pairs = {(a, b): distance(kinds[a], kinds[b]) for a in names for b in names if a < b}
    assert min(pairs.values()) > max(within)
    assert pairs["arithmetic", "python"] > 3 * np.mean(within)
    low, high = _numbers("between two kinds of text, smallest / largest")
    assert [round(min(pairs.values()), 2), round(max(pairs.values()), 2)] == [low, high]
    assert _numbers("between two halves of a kind, largest") == [round(max(within), 2)]


def test_the_config_is_of_the_model_the_card_describes(trace):
    model = load_model(FOLDER / "config.json")
    assert (model.num_experts, model.top_k, model.moe_layer_ids) == (32, 4, trace.moe_layer_ids)
    assert model.vocab > trace.token_id.max()
    assert model.max_context >= trace.position.max() + 1
    count = params(model)
    assert f"{count.total / 1e6:.1f} million parameters, {count.active / 1e6:.1f} million" in CARD


def test_losses_fell_and_are_those_of_the_card(kinds):
    with (FOLDER / "loss.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    scored = [row for row in rows if row["valid_python"]]
    for kind in kinds:
        first, last = float(scored[0][f"valid_{kind}"]), float(scored[-1][f"valid_{kind}"])
        assert last < 0.9 * first
        assert _numbers(kind, 2) == [round(last, 2)]
    assert f"{int(rows[-1]['tokens']):,} tokens" in CARD
