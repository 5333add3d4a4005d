"""The one list of weight matrices: parameter counts and GEMMs both follow from it.

Shapes are ``[inputs, outputs]`` as multiplied by a token's row vector. Sharding is what serving engines do:
column for what fans out to heads or intermediate features, row for what brings them back to the residual
stream, replicated for low-rank first steps, routers and indexers.
"""

from __future__ import annotations

from functools import lru_cache

from moesim.model.types import (
    Attention,
    Compressed,
    Dense,
    GroupedQuery,
    Indexer,
    Latent,
    Layer,
    LinearAttention,
    Matrix,
    Model,
    MoE,
    StateSpace,
)


@lru_cache(maxsize=4096)
def layer_matrices(layer: Layer, hidden: int) -> tuple[Matrix, ...]:
    """Weight matrices of one layer, in the order a token meets them.

    Parameters
    ----------
    layer
        The layer.
    hidden
        Width of the residual stream.

    Returns
    -------
    tuple of Matrix

    Examples
    --------
    >>> layer = Layer(GroupedQuery(8, 2, 16, 16), MoE(num_experts=4, top_k=2, intermediate=32))
    >>> [(m.name, m.inputs, m.outputs, m.copies, m.used) for m in layer_matrices(layer, 64)]
    [('q', 64, 128, 1, 1), ('k', 64, 32, 1, 1), ('v', 64, 32, 1, 1), ('o', 128, 64, 1, 1),
     ('router', 64, 4, 1, 1), ('gate', 64, 32, 4, 2), ('up', 64, 32, 4, 2), ('down', 32, 64, 4, 2)]
    """
    cross = _grouped(layer.cross, hidden, "cross_") if layer.cross else ()
    return (*_attention(layer.attention, hidden), *cross, *_ffn(layer.ffn, hidden))


def model_matrices(model: Model) -> tuple[Matrix, ...]:
    """Embedding table and output head; with tied embeddings the head is the embedding itself.

    The embedding is looked up, not multiplied: its `used` is 0. A tied head has `copies` 0: it adds a
    multiplication, not parameters.
    """
    embedding = Matrix("embedding", "embedding", model.vocab, model.hidden, "row", used=0)
    copies = 0 if model.tied_embeddings else 1
    return embedding, Matrix("head", "head", model.hidden, model.vocab, "column", copies=copies)


def mtp_matrices(hidden: int) -> tuple[Matrix, ...]:
    """The projection that joins hidden state and embedding in front of a prediction layer.

    DeepSeek-V3 report, arXiv:2412.19437, equation 21.
    """
    return (Matrix("mtp_join", "connection", 2 * hidden, hidden, "replicated"),)


def _attention(attention: Attention, hidden: int) -> tuple[Matrix, ...]:
    match attention:
        case GroupedQuery():
            return _grouped(attention, hidden)
        case Latent():
            return _latent(attention, hidden)
        case Compressed():
            return _compressed(attention, hidden)
        case LinearAttention():
            return _linear(attention, hidden)
        case StateSpace():
            return _state_space(attention, hidden)


def _grouped(a: GroupedQuery, hidden: int, prefix: str = "") -> tuple[Matrix, ...]:
    width = a.heads * a.qk_dim * (2 if a.gated else 1)
    query: tuple[Matrix, ...]
    if a.q_rank is None:
        query = (Matrix(prefix + "q", "attention", hidden, width, "column"),)
    else:
        query = (
            Matrix(prefix + "q_a", "attention", hidden, a.q_rank, "replicated"),
            Matrix(prefix + "q_b", "attention", a.q_rank, width, "column"),
        )
    return (
        *query,
        Matrix(prefix + "k", "attention", hidden, a.kv_heads * a.qk_dim, "column", max_shards=a.kv_heads),
        Matrix(prefix + "v", "attention", hidden, a.kv_heads * a.v_dim, "column", max_shards=a.kv_heads),
        Matrix(prefix + "o", "attention", a.heads * a.v_dim, hidden, "row"),
    )


def _latent(a: Latent, hidden: int) -> tuple[Matrix, ...]:
    """Multi-head latent attention: DeepSeek-V2 report, arXiv:2405.04434, section 2.1."""
    width = a.heads * (a.nope_dim + a.rope_dim)
    query: tuple[Matrix, ...]
    if a.q_rank is None:
        query = (Matrix("q", "attention", hidden, width, "column"),)
    else:
        query = (
            Matrix("q_a", "attention", hidden, a.q_rank, "replicated"),
            Matrix("q_b", "attention", a.q_rank, width, "column"),
        )
    return (
        *query,
        Matrix("kv_a", "attention", hidden, a.kv_rank + a.rope_dim, "replicated"),
        *_indexer(a.indexer, hidden, a.q_rank or hidden),
        Matrix("kv_b", "attention", a.kv_rank, a.heads * (a.nope_dim + a.v_dim), "column"),
        Matrix("o", "attention", a.heads * a.v_dim, hidden, "row"),
    )


def _indexer(indexer: Indexer | None, hidden: int, query_inputs: int) -> tuple[Matrix, ...]:
    """The lightning indexer of DeepSeek-V3.2: many small queries, one key, one weight per head."""
    if indexer is None or indexer.shared:
        return ()
    return (
        Matrix("index_q", "indexer", query_inputs, indexer.heads * indexer.dim, "replicated"),
        Matrix("index_k", "indexer", hidden, indexer.dim, "replicated"),
        Matrix("index_weights", "indexer", hidden, indexer.heads, "replicated"),
    )


def _compressed(a: Compressed, hidden: int) -> tuple[Matrix, ...]:
    """DeepSeek-V4: low-rank query and output, one key-value head, learned compression of history.

    The compressor projects to keys and to gates; with ratio 4 neighbouring windows overlap, which doubles
    both projections. The indexer compresses keys of its own.
    """
    width = a.heads * a.head_dim
    overlap = compressor_overlap(a.ratio)
    compressor: tuple[Matrix, ...] = ()
    if a.ratio:
        compressor = (
            Matrix("compress_kv", "attention", hidden, overlap * a.head_dim, "replicated"),
            Matrix("compress_gate", "attention", hidden, overlap * a.head_dim, "replicated"),
        )
    index: tuple[Matrix, ...] = ()
    if a.indexer and not a.indexer.shared:
        i = a.indexer
        index = (
            Matrix("index_q", "indexer", a.q_rank, i.heads * i.dim, "replicated"),
            Matrix("index_weights", "indexer", hidden, i.heads, "replicated"),
            Matrix("index_compress_kv", "indexer", hidden, overlap * i.dim, "replicated"),
            Matrix("index_compress_gate", "indexer", hidden, overlap * i.dim, "replicated"),
        )
    groups = a.o_groups
    return (
        Matrix("q_a", "attention", hidden, a.q_rank, "replicated"),
        Matrix("q_b", "attention", a.q_rank, width, "column"),
        Matrix("kv", "attention", hidden, a.head_dim, "replicated"),
        *compressor,
        *index,
        Matrix(
            "o_a",
            "attention",
            width // groups,
            a.o_rank,
            "column",
            copies=groups,
            used=groups,
            max_shards=groups,
        ),
        Matrix("o_b", "attention", groups * a.o_rank, hidden, "row"),
    )


def compressor_overlap(ratio: int) -> int:
    """Windows each entry of compressed history is made from: 2 at ratio 4, else 1 (DeepSeek-V4)."""
    return 2 if ratio == 4 else 1


def _linear(a: LinearAttention, hidden: int) -> tuple[Matrix, ...]:
    """Gated delta net (Qwen3-Next) or lightning attention (MiniMax-01, arXiv:2501.08313)."""
    keys, values = a.key_heads * a.key_dim, a.value_heads * a.value_dim
    projections = (
        Matrix("q", "attention", hidden, keys, "column"),
        Matrix("k", "attention", hidden, keys, "column"),
        Matrix("v", "attention", hidden, values, "column"),
        Matrix("gate_z", "attention", hidden, values, "column"),
    )
    rates: tuple[Matrix, ...] = ()
    if a.kind == "gated_delta":
        rates = (Matrix("beta_alpha", "attention", hidden, 2 * a.value_heads, "column"),)
    return (*projections, *rates, Matrix("o", "attention", values, hidden, "row"))


def _state_space(a: StateSpace, hidden: int) -> tuple[Matrix, ...]:
    """A Mamba block: arXiv:2312.00752, section 3.4."""
    return (
        Matrix("in", "attention", hidden, 2 * a.inner, "column"),
        Matrix("x", "attention", a.inner, a.dt_rank + 2 * a.state_dim, "row"),
        Matrix("dt", "attention", a.dt_rank, a.inner, "column"),
        Matrix("o", "attention", a.inner, hidden, "row"),
    )


def _ffn(ffn: Dense | MoE, hidden: int) -> tuple[Matrix, ...]:
    if isinstance(ffn, Dense):
        return _mlp("dense", hidden, ffn.intermediate, ffn.matrices)
    router = Matrix("router", "router", hidden, ffn.num_experts, "replicated")
    shared: tuple[Matrix, ...] = ()
    if ffn.shared_intermediate:
        gate = (Matrix("shared_gate", "shared", hidden, 1, "replicated"),) if ffn.shared_gate else ()
        shared = (*_mlp("shared", hidden, ffn.shared_intermediate, ffn.matrices), *gate)
    experts = _mlp("expert", hidden, ffn.intermediate, ffn.matrices, ffn.num_experts, ffn.top_k)
    return (router, *shared, *experts)


def _mlp(
    module: str, hidden: int, intermediate: int, matrices: int, copies: int = 1, used: int = 1
) -> tuple[Matrix, ...]:
    column, row = ("expert", "expert") if module == "expert" else ("column", "row")
    names = ("gate", "up") if matrices == 3 else ("up",)
    return (
        *(Matrix(name, module, hidden, intermediate, column, copies, used) for name in names),
        Matrix("down", module, intermediate, hidden, row, copies, used),
    )
