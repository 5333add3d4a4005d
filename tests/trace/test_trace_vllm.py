"""vLLM's routed experts, and counts by model and domain."""

from __future__ import annotations

import numpy as np
import pytest
from trace_helpers import MIXTRAL, OLMOE, TINY, make_trace

from moesim.errors import TraceError
from moesim.trace import load_trace


@pytest.fixture
def routed():
    """Thirty tokens, a row for every decoder layer, the dense one zero."""
    ids = make_trace(30).topk_ids.astype(np.int32)
    return np.concatenate([np.zeros_like(ids[:, :1]), ids], axis=1)


def test_prompt_and_output(tmp_path, routed):
    np.savez(
        tmp_path / "r.npz",
        routed_experts=routed,
        prompt_token_ids=np.arange(100, 110),
        output_token_ids=np.arange(200, 221),
        request_id=np.array(["a"], dtype=object),
    )
    trace = load_trace(tmp_path / "r.npz", shape=TINY)
    assert trace.moe_layer_ids == (1, 2)
    assert trace.phase.tolist() == [0] * 10 + [1] * 20
    assert trace.token_id.tolist() == [*range(100, 110), *range(200, 220)]
    assert trace.request.tolist() == [0] * 30
    assert any("last generated token" in w for w in trace.warnings)
    np.testing.assert_array_equal(trace.topk_ids, routed[:, 1:])


def test_all_tokens_there(tmp_path, routed):
    tokens = {"prompt_token_ids": np.arange(10), "output_token_ids": np.arange(20)}
    np.savez(tmp_path / "r.npz", routed_experts=routed, **tokens)
    trace = load_trace(tmp_path / "r.npz", shape=TINY)
    assert trace.warnings == ()
    tokens["output_token_ids"] = np.arange(25)
    np.savez(tmp_path / "r.npz", routed_experts=routed, **tokens)
    with pytest.raises(TraceError, match="has 30 tokens, prompt and output together have 35"):
        load_trace(tmp_path / "r.npz")


def test_dense_layers_without_a_model(tmp_path, routed):
    np.savez(tmp_path / "r.npz", routed_experts=routed.astype(np.uint8))
    trace = load_trace(tmp_path / "r.npz")
    assert trace.moe_layer_ids == (1, 2)
    assert any("layers [0] hold no routing" in w for w in trace.warnings)


def test_routing_in_a_dense_layer_is_another_model(tmp_path, routed):
    routed[3, 0, 0] = 2
    np.save(tmp_path / "r.npy", routed)
    with pytest.raises(TraceError, match=r"tiny has no experts in layers \[0\]"):
        load_trace(tmp_path / "r.npy", shape=TINY)


def test_objects_are_refused(tmp_path, routed):
    wrapped = np.empty((), dtype=object)
    wrapped[()] = routed
    np.savez(tmp_path / "r.npz", routed_experts=wrapped)
    with pytest.raises(TraceError, match=r"routed_experts\.npy: holds Python objects"):
        load_trace(tmp_path / "r.npz")


def test_strange_token_ids_are_all_named(tmp_path, routed):
    np.savez(
        tmp_path / "r.npz",
        routed_experts=routed,
        prompt_token_ids=np.zeros((2, 2), int),
        output_token_ids=np.zeros(3),
    )
    with pytest.raises(TraceError) as caught:
        load_trace(tmp_path / "r.npz")
    assert {f.where for f in caught.value.faults} == {"prompt_token_ids", "output_token_ids"}


def counts_file(path, **more):
    rng = np.random.default_rng(0)
    arrays = {f"olmoe__{d}__counts": rng.integers(1, 9, (3, 64)) for d in ("arxiv", "c4")}
    arrays |= {f"mistral__{d}__counts": rng.integers(1, 9, (3, 8)) for d in ("arxiv", "c4")}
    arrays["olmoe__c4__crosslayer"] = np.ones((2, 64, 64), int)
    np.savez(path, **arrays | more)
    return arrays


def test_counts_by_model_and_domain(tmp_path):
    arrays = counts_file(tmp_path / "c.npz")
    loads = load_trace(tmp_path / "c.npz", shape=OLMOE)
    assert loads.metadata == {"steps": "arxiv, c4"}
    assert loads.moe_layer_ids == (0, 7, 15)
    np.testing.assert_array_equal(loads.counts[1], arrays["olmoe__c4__counts"])
    named = load_trace(tmp_path / "c.npz", num_experts=8, candidates=[OLMOE, MIXTRAL])
    assert (named.model, named.top_k) == ("mixtral-8x7b", 2)


def test_which_model_must_be_said(tmp_path):
    counts_file(tmp_path / "c.npz")
    with pytest.raises(TraceError, match=r"holds several models.*mistral with 8 experts; olmoe with 64"):
        load_trace(tmp_path / "c.npz")
    with pytest.raises(TraceError, match="holds no model with 7 experts"):
        load_trace(tmp_path / "c.npz", num_experts=7)


def test_domains_must_agree(tmp_path):
    counts_file(tmp_path / "c.npz", olmoe__c4__counts=np.ones((2, 64), int))
    with pytest.raises(TraceError, match="domains differ"):
        load_trace(tmp_path / "c.npz", shape=OLMOE)
    counts_file(tmp_path / "c.npz", olmoe__c4__counts=np.ones(64, int))
    with pytest.raises(TraceError, match="olmoe__c4__counts: is int64"):
        load_trace(tmp_path / "c.npz", shape=OLMOE)
