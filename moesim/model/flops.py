"""Work of one token: matrix multiplications, attention over its context, recurrent states."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.model.matrices import layer_matrices, model_matrices
from moesim.model.types import (
    Attention,
    Compressed,
    GroupedQuery,
    Indexer,
    Latent,
    LinearAttention,
    Model,
    StateSpace,
)

Floats = npt.NDArray[np.float64]

#: Operations per element of a recurrent state and token. Delta rule: decay, read by key, rank-one update,
#: read by query. Lightning: decay, update, read. Mamba: discretise, decay, update, read (arXiv:2312.00752).
STATE_FLOPS = {"gated_delta": 7.0, "lightning": 5.0}
MAMBA_FLOPS = 9.0


def flops_per_token(model: Model, context: npt.ArrayLike, phase: str = "decode") -> Floats:
    """FLOPs to process one token.

    Twice the parameters of every matrix the token meets, plus attention over `context`. A lookup in the
    embedding is no work. Multi-head latent attention is counted as engines run it: in `decode`, and wherever
    an indexer selects tokens, in the absorbed form, where ``kv_b`` is applied to queries and outputs and
    scores are taken against the latents; else in the expanded form. Both apply ``kv_b`` once per token. In
    `prefill` the output head is left out: only a prompt's last token needs it. For an encoder-decoder,
    `prefill` is a source token through the encoder, `decode` a target token through the decoder, without the
    scores of cross-attention.

    Parameters
    ----------
    model
        The model.
    context
        Tokens attended to, the token itself included; a number or an array.
    phase
        ``prefill`` or ``decode``.

    Returns
    -------
    ndarray
        FLOPs, of the shape of `context`.

    Examples
    --------
    >>> from moesim.model import load_model
    >>> flops = flops_per_token(load_model("llama-2-7b"), [1, 4096])
    >>> [round(f / 1e9, 1) for f in flops.tolist()]
    [13.2, 15.4]
    """
    if phase not in ("prefill", "decode"):
        raise ConfigError(Fault("unknown phase", "phase", phase, "prefill, decode"))
    tokens = np.asarray(context, dtype=np.float64)
    matrices = 0
    if phase == "decode":
        matrices += sum(m.inputs * m.outputs * m.used for m in model_matrices(model))
    source = phase == "prefill" and bool(model.encoder_layers)
    total = np.zeros(tokens.shape)
    for layer in model.encoder_layers if source else model.layers:
        for m in layer_matrices(layer, model.hidden):
            # Keys and values of cross-attention come from the source, once per sequence.
            if m.name not in ("cross_k", "cross_v"):
                matrices += m.inputs * m.outputs * m.used
        total = total + attention_flops(layer.attention, tokens, phase)
    return np.asarray(total + 2.0 * matrices, dtype=np.float64)


def attention_flops(attention: Attention, context: npt.ArrayLike, phase: str = "decode") -> Floats:
    """FLOPs of one token's attention beyond its matrices: scores, values, selection, recurrent states.

    Parameters
    ----------
    attention
        The attention of one layer.
    context
        Tokens attended to, the token itself included; a number or an array.
    phase
        ``prefill`` or ``decode``; it matters for latent attention alone.
    """
    tokens = np.asarray(context, dtype=np.float64)
    match attention:
        case GroupedQuery() as a:
            seen = tokens if a.window is None else np.minimum(tokens, a.window)
            return np.asarray(2.0 * a.heads * (a.qk_dim + a.v_dim) * seen)
        case Latent() as a:
            seen = tokens if a.indexer is None else np.minimum(tokens, a.indexer.top_k)
            absorbed = phase == "decode" or a.indexer is not None
            per_head = 2 * a.kv_rank + a.rope_dim if absorbed else a.nope_dim + a.rope_dim + a.v_dim
            return np.asarray(2.0 * a.heads * per_head * seen + _index_flops(a.indexer, tokens))
        case Compressed() as a:
            entries = np.floor(tokens / a.ratio) if a.ratio else np.zeros_like(tokens)
            read = entries if a.indexer is None else np.minimum(entries, a.indexer.top_k)
            seen = np.minimum(tokens, a.window) + read
            return np.asarray(4.0 * a.heads * a.head_dim * seen + _index_flops(a.indexer, entries))
        case LinearAttention() as a:
            state = STATE_FLOPS[a.kind] * a.value_heads * a.key_dim * a.value_dim
            channels = 2 * a.key_heads * a.key_dim + a.value_heads * a.value_dim
            return np.full(tokens.shape, state + 2.0 * a.conv_kernel * channels)
        case StateSpace() as a:
            return np.full(tokens.shape, a.inner * (MAMBA_FLOPS * a.state_dim + 2.0 * a.conv_kernel))


def _index_flops(indexer: Indexer | None, entries: Floats) -> Floats:
    """Scores of all entries by all the indexer's heads; a shared selection costs nothing."""
    if indexer is None or indexer.shared:
        return np.zeros_like(entries)
    return 2.0 * indexer.heads * indexer.dim * entries
