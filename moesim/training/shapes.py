"""Models given by their sizes, as papers on training describe them."""

from __future__ import annotations

from moesim.model.types import Dense, GroupedQuery, Layer, Model, MoE


def gpt(
    layers: int,
    hidden: int,
    heads: int,
    vocab: int = 51200,
    *,
    ffn: int | None = None,
    kv_heads: int | None = None,
    matrices: int = 2,
    experts: int = 0,
    top_k: int = 1,
    every: int = 1,
    shared: int = 0,
    tied: bool = True,
    name: str = "gpt",
) -> Model:
    """A decoder of equal layers, dense or with experts in every n-th one.

    Parameters
    ----------
    ffn
        Width of the feed-forward block, and of each expert; 4 `hidden` by default.
    matrices
        2, or 3 for gated units.
    experts, top_k, every
        Routed experts of a MoE layer, those a token takes, and how many layers make one MoE layer.
    shared
        Width of an expert that every token takes.

    Examples
    --------
    >>> from moesim.model import params
    >>> round(params(gpt(96, 12288, 96)).total / 1e9, 1)
    174.6
    """
    width = 4 * hidden if ffn is None else ffn
    attention = GroupedQuery(heads, kv_heads or heads, hidden // heads, hidden // heads)
    dense = Layer(attention, Dense(width, matrices))
    sparse = Layer(attention, MoE(experts, top_k, width, matrices, shared)) if experts else dense
    # Of n layers the last one has experts.
    blocks = tuple(sparse if (i + 1) % every == 0 else dense for i in range(layers))
    return Model(name, "gpt", hidden, vocab, blocks, tied_embeddings=tied)
