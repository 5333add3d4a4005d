"""Recorded routing on Duplex and MoNDE: batches are recorded tokens, and skew helps both."""

import numpy as np
import pytest

from moesim.engine.routing import DECODE, uniform
from moesim.files import data_dir
from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.near import Box, decode_batches, duplex_gains, monde_gains, prefill_batches
from moesim.trace import load_trace

BUNDLED = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
MODEL, HARDWARE = load_model("gpt-oss-20b"), load_hardware("h100-duplex-4")


@pytest.mark.parametrize("batches", [decode_batches, prefill_batches])
def test_batches_hold_recorded_tokens(batches):
    counts = batches(BUNDLED, 40, 5, np.random.default_rng(0))
    assert counts.shape == (5, 24, 32)
    assert (counts.sum(axis=2) == 40 * 4).all()


def test_a_decode_batch_takes_one_token_of_each_request():
    requests = len(np.unique(BUNDLED.request))
    counts = decode_batches(BUNDLED, requests, 1, np.random.default_rng(1))[0]
    most = np.zeros(counts.shape)
    for request in np.unique(BUNDLED.request):
        ids = BUNDLED.topk_ids[BUNDLED.request == request]
        for layer in range(counts.shape[0]):
            most[layer, np.unique(ids[:, layer])] += 1
    assert (counts <= most).all()


def test_a_chunk_of_everything_is_the_trace():
    counts = prefill_batches(BUNDLED, BUNDLED.num_tokens, 1, np.random.default_rng(0))[0]
    assert (counts[3] == np.bincount(BUNDLED.topk_ids[:, 3].ravel(), minlength=32)).all()


def skew_helps(trace, model, batches, tokens, least):
    """Median gains with recorded over those with uniform routing of the same shape."""
    rng = np.random.default_rng(0)
    real = batches(trace, tokens, 8, rng)
    layers = trace.topk_ids.shape[1]
    source = uniform(trace.num_experts, trace.top_k, layers)
    even = np.stack([source.draw(tokens, DECODE, rng).counts for _ in range(8)])
    ours, theirs = (duplex_gains(c, model, HARDWARE, 4) for c in (real, even))
    assert np.median(ours.cut) > least * np.median(theirs.cut)
    assert np.median(ours.near_share) > np.median(theirs.near_share)
    box = Box.of(load_hardware("a100-monde"), 0.88)
    ours, theirs = (monde_gains(c[:, :4], model, box) for c in (real, even))
    assert np.median(ours.balanced) > least * np.median(theirs.balanced)
    assert np.median(ours.hot) < np.median(theirs.hot)
    assert (ours.balanced >= ours.alpha * (1 - 1e-12)).all()
    assert (ours.balanced >= ours.near * (1 - 1e-12)).all()


def test_skew_helps_on_the_bundled_trace():
    skew_helps(BUNDLED, MODEL, decode_batches, 256, 1.1)


@pytest.mark.parametrize(
    ("file", "name", "batches", "tokens"),
    [
        ("gpt-oss-20b/decode.npz", "gpt-oss-20b", decode_batches, 256),
        ("esft-deepseek-v2-lite/summary.npz", "deepseek-v2-lite", prefill_batches, 512),
    ],
)
def test_skew_helps_on_recorded_traces(shared, file, name, batches, tokens):
    model = load_model(name)
    skew_helps(load_trace(shared(f"traces/{file}"), shape=model), model, batches, tokens, 1.15)
