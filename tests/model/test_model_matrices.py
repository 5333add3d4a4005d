"""The list of matrices against shapes worked by hand and published."""

from __future__ import annotations

from moesim.model import (
    Compressed,
    Dense,
    GroupedQuery,
    Indexer,
    Latent,
    Layer,
    LinearAttention,
    MoE,
    StateSpace,
    layer_matrices,
    load_model,
    model_matrices,
    mtp_matrices,
)


def shapes(layer, hidden):
    return {m.name: (m.inputs, m.outputs) for m in layer_matrices(layer, hidden)}


def test_deepseek_v3_layer_has_the_shapes_of_its_report():
    model = load_model("deepseek-v3")
    found = shapes(model.layers[3], model.hidden)
    assert found == {
        "q_a": (7168, 1536),
        "q_b": (1536, 128 * 192),
        "kv_a": (7168, 512 + 64),
        "kv_b": (512, 128 * (128 + 128)),
        "o": (128 * 128, 7168),
        "router": (7168, 256),
        # The shared expert and the routed ones are as wide as each other.
        "gate": (7168, 2048),
        "up": (7168, 2048),
        "down": (2048, 7168),
    }


def test_modules_and_copies_of_a_mixture():
    layer = Layer(
        GroupedQuery(8, 2, 16, 16),
        MoE(num_experts=6, top_k=2, intermediate=32, shared_intermediate=48, shared_gate=True),
    )
    matrices = layer_matrices(layer, 64)
    experts = [m for m in matrices if m.module == "expert"]
    assert {(m.copies, m.used, m.shard) for m in experts} == {(6, 2, "expert")}
    assert sum(m.params for m in experts) == 6 * 3 * 64 * 32
    shared = [m for m in matrices if m.module == "shared"]
    assert sum(m.params for m in shared) == 3 * 64 * 48 + 64
    assert all(m.used == m.copies for m in matrices if m.module != "expert")


def test_sharding_follows_the_heads():
    by_name = {m.name: m for m in layer_matrices(Layer(GroupedQuery(32, 4, 128, 128), Dense(99)), 256)}
    assert [by_name[n].shard for n in ("q", "k", "v", "o", "gate", "up", "down")] == [
        "column",
        "column",
        "column",
        "row",
        "column",
        "column",
        "row",
    ]
    assert by_name["k"].max_shards == by_name["v"].max_shards == 4
    latent = {m.name: m.shard for m in layer_matrices(Layer(Latent(8, 32, 16, 8, 4, 8), Dense(9)), 64)}
    assert latent["q_a"] == latent["kv_a"] == "replicated"
    assert latent["q_b"] == latent["kv_b"] == "column"
    assert latent["o"] == "row"


def test_gated_attention_doubles_the_query_alone():
    plain = shapes(Layer(GroupedQuery(8, 2, 16, 16), Dense(9)), 64)
    gated = shapes(Layer(GroupedQuery(8, 2, 16, 16, gated=True), Dense(9)), 64)
    assert gated.pop("q") == (64, 2 * plain.pop("q")[1])
    assert gated == plain


def test_two_step_query():
    found = shapes(Layer(GroupedQuery(64, 1, 256, 256, q_rank=2048), Dense(9)), 7168)
    assert found["q_a"] == (7168, 2048)
    assert found["q_b"] == (2048, 64 * 256)
    assert "q" not in found


def test_ungated_blocks_have_two_matrices():
    assert list(shapes(Layer(GroupedQuery(8, 8, 8, 8), Dense(32, matrices=2)), 64))[-2:] == ["up", "down"]


def test_indexer_is_counted_once_where_it_is_shared():
    own = Latent(8, 32, 16, 8, 4, 8, Indexer(heads=4, dim=8, top_k=64))
    reused = Latent(8, 32, 16, 8, 4, 8, Indexer(heads=4, dim=8, top_k=64, shared=True))
    index = [m for m in layer_matrices(Layer(own, Dense(9)), 64) if m.module == "indexer"]
    assert [(m.inputs, m.outputs) for m in index] == [(32, 32), (64, 8), (64, 4)]
    assert not [m for m in layer_matrices(Layer(reused, Dense(9)), 64) if m.module == "indexer"]


def test_compressed_attention():
    attention = Compressed(8, 16, 4, 32, 24, 2, 128, 4, Indexer(4, 8, 64))
    found = {m.name: m for m in layer_matrices(Layer(attention, Dense(9)), 64)}
    assert (found["kv"].inputs, found["kv"].outputs) == (64, 16)
    # At ratio 4 neighbouring windows overlap: twice the projections.
    assert found["compress_kv"].outputs == 2 * 16
    assert found["index_compress_kv"].outputs == 2 * 8
    assert (found["o_a"].inputs, found["o_a"].outputs, found["o_a"].copies) == (8 * 16 // 2, 24, 2)
    assert (found["o_b"].inputs, found["o_b"].outputs) == (2 * 24, 64)
    coarse = {
        m.name: m for m in layer_matrices(Layer(Compressed(8, 16, 4, 32, 24, 2, 128, 128), Dense(9)), 64)
    }
    assert coarse["compress_kv"].outputs == 16
    local = shapes(Layer(Compressed(8, 16, 4, 32, 24, 2, 128, 0), Dense(9)), 64)
    assert not [name for name in local if "compress" in name or "index" in name]


def test_recurrent_layers():
    delta = shapes(Layer(LinearAttention(2, 4, 8, 16, 4), Dense(9)), 64)
    assert sum(outputs for name, (_, outputs) in delta.items() if name in "qkv" or name == "gate_z") == (
        2 * 16 + 2 * 64
    )
    assert delta["beta_alpha"] == (64, 8)
    lightning = shapes(Layer(LinearAttention(4, 4, 8, 8, 0, "lightning"), Dense(9)), 64)
    assert "beta_alpha" not in lightning
    mamba = shapes(Layer(StateSpace(128, 16, 4, 4), Dense(9)), 64)
    assert mamba["in"] == (64, 256)
    assert mamba["x"] == (128, 4 + 32)
    assert mamba["dt"] == (4, 128)


def test_embedding_is_looked_up_and_a_tied_head_is_no_second_table():
    embedding, head = model_matrices(load_model("deepseek-v3"))
    assert (embedding.used, head.used, head.copies) == (0, 1, 1)
    tied_embedding, tied_head = model_matrices(load_model("qwen3-0.6b"))
    assert tied_embedding.params == 151936 * 1024
    assert (tied_head.params, tied_head.used) == (0, 1)
    assert [(m.inputs, m.outputs) for m in mtp_matrices(64)] == [(128, 64)]


def test_cross_attention_has_its_own_matrices():
    model = load_model("switch-base-128")
    names = [m.name for m in layer_matrices(model.layers[0], model.hidden)]
    assert names[4:8] == ["cross_q", "cross_k", "cross_v", "cross_o"]
    encoder = [m.name for m in layer_matrices(model.encoder_layers[0], model.hidden)]
    assert not [name for name in encoder if name.startswith("cross")]
