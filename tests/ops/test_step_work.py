"""A step's ops add up: to the model's own counts, over ranks, over chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.layout import Parallelism
from moesim.model import GroupedQuery, attention_flops, load_model, params
from moesim.ops import Batch, Precision, step_work
from moesim.ops.primitives import causal_pairs

MODELS = [
    "mixtral-8x7b",
    "deepseek-v3",
    "deepseek-v3.2",
    "gpt-oss-20b",
    "qwen3-30b-a3b",
    "qwen3-next-80b-a3b",
]


def _work(name, layout, batch, **kwargs):
    model = load_model(name)
    return model, step_work(model, layout, batch, Precision.of(model), **kwargs)


def _gemm_flops(work):
    table = work.table
    rows = [i for i, (op, _) in enumerate(table.ops) if op.kind == "gemm"]
    return float((table.counts * table.column("flops"))[rows].sum())


def _expert_flops(work):
    return sum(
        2.0
        * g.moe.matrices
        * g.hidden
        * g.moe.intermediate
        * g.moe.top_k
        * len(g.layers)
        * float(g.tokens[0])
        for g in work.experts
    )


@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt-oss-20b", "qwen3-30b-a3b", "llama-3.1-8b"])
def test_decode_gemms_are_twice_the_active_parameters(name):
    model, work = _work(name, Parallelism(), Batch.decode(1.0, 100.0))
    count = params(model)
    # Norms and biases are no GEMMs, and the embedding is looked up; a tied head still multiplies.
    multiplied = count.active_without_embedding - count.other * count.active / count.total
    head = model.vocab * model.hidden
    assert _gemm_flops(work) + _expert_flops(work) == pytest.approx(
        2.0 * multiplied, rel=0.004, abs=2.0 * head * 0.01
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("context", [64.0, 5000.0])
def test_decode_attention_matches_the_models_own_count(name, context):
    model, work = _work(name, Parallelism(), Batch.decode(1.0, context))
    table = work.table
    rows = [i for i, (op, _) in enumerate(table.ops) if op.kind == "attention_decode" or op.name == "conv"]
    mine = float((table.counts * table.column("flops"))[rows].sum())
    theirs = sum(float(attention_flops(layer.attention, context, "decode")) for layer in model.layers)
    assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt-oss-20b", "llama-3.1-8b"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_share_the_work(name, tp):
    batch = Batch.decode(4.0, 300.0)
    model, one = _work(name, Parallelism(), batch)
    _, many = _work(name, Parallelism(tp=tp), batch)
    kv_heads = min(
        layer.attention.kv_heads for layer in model.layers if isinstance(layer.attention, GroupedQuery)
    )
    if kv_heads % tp:
        pytest.skip(f"{kv_heads} key-value heads are replicated over {tp} ranks")
    split = [
        ("qkv_proj", "weight_bytes"),
        ("o_proj", "weight_bytes"),
        ("attention", "flops"),
        ("lm_head", "flops"),
    ]
    for op_name, column in split:
        a = [getattr(op, column) for op, _ in one.table.ops if op.name == op_name]
        b = [getattr(op, column) for op, _ in many.table.ops if op.name == op_name]
        assert np.sum(b) * tp == pytest.approx(np.sum(a)), op_name


@given(new=st.integers(1, 300), past=st.integers(0, 300), window=st.one_of(st.none(), st.integers(1, 400)))
def test_causal_pairs_by_counting(new, past, window):
    counted = sum(min(past + i + 1, window or past + i + 1) for i in range(new))
    assert causal_pairs(float(new), float(past), window) == pytest.approx(counted)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(MODELS), cut=st.integers(1, 999))
def test_prefill_in_two_chunks_does_the_same_attention(name, cut):
    """Scores of a prompt do not depend on where it is cut."""

    def attention(*batches):
        total = 0.0
        for batch in batches:
            _, work = _work(name, Parallelism(), batch)
            table = work.table
            rows = [i for i, (op, _) in enumerate(table.ops) if op.kind == "attention_prefill"]
            total += float((table.counts * table.column("flops"))[rows].sum())
        return total

    whole = attention(Batch.prefill(1.0, 1000.0))
    halves = attention(Batch.prefill(1.0, float(cut)), Batch.prefill(1.0, 1000.0 - cut, float(cut)))
    assert halves == pytest.approx(whole, rel=1e-9)


def test_columns_are_independent():
    sizes = np.array([1.0, 7.0, 64.0])
    _, together = _work("deepseek-v3", Parallelism(tp=2, dp=4, ep=8), Batch.decode(sizes, 1000.0))
    for i, size in enumerate(sizes):
        _, alone = _work("deepseek-v3", Parallelism(tp=2, dp=4, ep=8), Batch.decode(size, 1000.0))
        for column in ("flops", "weight_bytes", "activation_bytes", "cache_bytes"):
            assert together.table.total(column)[i] == pytest.approx(alone.table.total(column)[0])


def test_fusion_changes_launches_not_flops():
    model = load_model("llama-3.1-8b")
    batch = Batch.decode(3.0, 500.0)
    fused = step_work(model, Parallelism(), batch, Precision.of(model))
    plain = step_work(model, Parallelism(), batch, Precision.of(model), fused=False)
    assert _gemm_flops(fused) == pytest.approx(_gemm_flops(plain))
    launches = [sum(op.launches * n for op, n in work.table.ops) for work in (fused, plain)]
    assert launches[0] < launches[1]


def test_messages_follow_the_layout():
    _, alone = _work("mixtral-8x7b", Parallelism(), Batch.decode(8.0, 100.0))
    assert not alone.table.messages
    model, tp = _work("mixtral-8x7b", Parallelism(tp=4), Batch.decode(8.0, 100.0))
    ((message, count),) = tp.table.messages
    # One reduction behind attention; the one behind the experts is theirs.
    assert (message.collective, count) == ("all_reduce", model.num_layers)
    assert message.bytes == pytest.approx(8.0 * model.hidden * 2.0)
    _, pp = _work("mixtral-8x7b", Parallelism(pp=4), Batch.decode(8.0, 100.0))
    assert [(m.collective, n) for m, n in pp.table.messages] == [("send", 3)]


@pytest.mark.parametrize(
    ("name", "whole"), [("minimax-m2.5", True), ("qwen3-30b-a3b", False), ("olmoe-1b-7b", True)]
)
def test_norms_over_all_heads_are_agreed_on_by_ranks(name, whole):
    """MiniMax-M2 and OLMoE norm queries and keys over all heads; Qwen3 each head on its own."""
    for tp in (1, 4):
        _, work = _work(name, Parallelism(tp=tp), Batch.decode(2.0, 100.0))
        names = [message.name for message, _ in work.table.messages]
        assert ("qk_norm_reduce" in names) == (whole and tp > 1)
        assert any(op.name == "qk_norm" for op, _ in work.table.ops) == whole


def test_shared_experts_are_launched_beside_the_routed_ones():
    _, fused = _work("deepseek-v3", Parallelism(), Batch.decode(2.0, 100.0))
    _, apart = _work("deepseek-v3", Parallelism(), Batch.decode(2.0, 100.0), fused=False)
    for work, launches in ((fused, {0}), (apart, {1})):
        assert {op.launches for op, _ in work.table.ops if op.name.startswith("shared_")} == launches


def test_encoder_decoders_are_refused():
    model = load_model("switch-base-128")
    with pytest.raises(ConfigError, match="encoder-decoder"):
        step_work(model, Parallelism(), Batch.decode(1.0, 10.0), Precision.of(model))


def test_unknown_data_types_are_all_named():
    with pytest.raises(ConfigError) as error:
        Precision.of(load_model("mixtral-8x7b"), "fp9", "int3")
    assert len(error.value.faults) == 2
