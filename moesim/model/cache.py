"""What a sequence keeps in memory: keys and values, latents, compressed history, fixed states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError
from moesim.model.dtypes import BYTES_PER_PARAM, dtype_faults
from moesim.model.matrices import compressor_overlap
from moesim.model.types import (
    Attention,
    Compressed,
    GroupedQuery,
    Latent,
    Layer,
    LinearAttention,
    Model,
    StateSpace,
)

CACHE_DTYPES = ("bf16", "fp16", "fp8", "fp32")

#: An indexer's key is kept in fp8 with one 4-byte scale per key, whatever the cache's type (DeepSeek-V3.2).
INDEX_SCALE_BYTES = 4.0

#: States of linear attention and Mamba are kept in fp32, convolution tails in bf16.
STATE_BYTES = 4.0
TAIL_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one layer keeps for one sequence.

    Parameters
    ----------
    per_token_elements
        Elements per token inside the window, or for every token if there is no window.
    window_tokens
        Tokens kept at most; None for all.
    ratio
        Tokens per entry of compressed history; 0 without one.
    compressed_elements
        Elements of one compressed entry.
    index_bytes
        Bytes of an indexer's key: per token, or per compressed entry where there is a ratio.
    constant_bytes
        States of fixed size.
    """

    per_token_elements: int = 0
    window_tokens: int | None = None
    ratio: int = 0
    compressed_elements: int = 0
    index_bytes: float = 0.0
    constant_bytes: float = 0.0

    def bytes(self, context: npt.ArrayLike, element_bytes: float) -> npt.NDArray[np.float64]:
        """Bytes one sequence of `context` tokens keeps, elementwise over an array of contexts."""
        tokens = np.asarray(context, dtype=np.float64)
        kept = tokens if self.window_tokens is None else np.minimum(tokens, self.window_tokens)
        entries = np.floor(tokens / self.ratio) if self.ratio else tokens
        total = kept * (self.per_token_elements * element_bytes) + entries * self.index_bytes
        if self.ratio:
            total = total + entries * (self.compressed_elements * element_bytes)
        return np.asarray(total + self.constant_bytes, dtype=np.float64)

    def growth_bytes(self, element_bytes: float) -> float:
        """Bytes per further token once the context is long."""
        growth = 0.0 if self.window_tokens is not None else self.per_token_elements * element_bytes
        history = self.compressed_elements * element_bytes if self.ratio else 0.0
        return growth + (history + self.index_bytes) / (self.ratio or 1)


def cache_shape(attention: Attention) -> CacheShape:
    """What an attention layer keeps for one sequence.

    Examples
    --------
    >>> cache_shape(GroupedQuery(heads=32, kv_heads=4, qk_dim=128, v_dim=128)).per_token_elements
    1024
    >>> cache_shape(Latent(128, 1536, 512, 128, 64, 128)).per_token_elements
    576
    """
    match attention:
        case GroupedQuery(kv_heads=heads, qk_dim=qk, v_dim=v, window=window):
            return CacheShape(heads * (qk + v), window)
        case Latent(kv_rank=rank, rope_dim=rope, indexer=indexer):
            index = 0.0 if indexer is None or indexer.shared else indexer.dim + INDEX_SCALE_BYTES
            return CacheShape(rank + rope, index_bytes=index)
        case Compressed():
            return _compressed(attention)
        case LinearAttention() as a:
            # Lightning attention has no convolution; the delta rule's covers queries, keys and values.
            channels = 2 * a.key_heads * a.key_dim + a.value_heads * a.value_dim
            tail = max(a.conv_kernel - 1, 0) * channels * TAIL_BYTES
            return CacheShape(constant_bytes=a.value_heads * a.key_dim * a.value_dim * STATE_BYTES + tail)
        case StateSpace(inner=inner, state_dim=state, conv_kernel=kernel):
            return CacheShape(constant_bytes=inner * (state * STATE_BYTES + (kernel - 1) * TAIL_BYTES))


def _compressed(a: Compressed) -> CacheShape:
    if not a.ratio:
        return CacheShape(a.head_dim, a.window)
    has_index = a.indexer is not None and not a.indexer.shared
    index_dim = a.indexer.dim if a.indexer and has_index else 0
    # The compressor holds the keys and gates of windows that are not yet full, in fp32.
    overlap = compressor_overlap(a.ratio)
    state = 2 * a.ratio * overlap * overlap * (a.head_dim + index_dim) * STATE_BYTES
    return CacheShape(
        a.head_dim,
        a.window,
        a.ratio,
        a.head_dim,
        index_bytes=index_dim + INDEX_SCALE_BYTES if has_index else 0.0,
        constant_bytes=state,
    )


def kv_bytes_per_token(model: Model, dtype: str = "auto") -> float:
    """Bytes the cache grows by per token once every window is full.

    Parameters
    ----------
    model
        The model; sliding windows and linear layers add nothing.
    dtype
        ``bf16`` (what ``auto`` means), ``fp16``, ``fp8`` or ``fp32``. An indexer's keys stay in fp8.

    Returns
    -------
    float
        Bytes, over all decoder layers.
    """
    element = cache_element_bytes(dtype)
    return sum(cache_shape(layer.attention).growth_bytes(element) * n for layer, n in model.distinct_layers())


def cache_bytes(model: Model, context: npt.ArrayLike, dtype: str = "auto") -> npt.NDArray[np.float64]:
    """Bytes a sequence of `context` tokens keeps over all decoder layers.

    Parameters
    ----------
    model
        The model. An encoder-decoder's cross-attention is left out: it grows with the source, not the target.
    context
        Tokens, a number or an array of any shape.
    dtype
        As in `kv_bytes_per_token`.

    Returns
    -------
    ndarray
        Bytes, of the shape of `context`.
    """
    element = cache_element_bytes(dtype)
    total = np.zeros(np.shape(context))
    for layer, count in model.distinct_layers():
        total = total + count * _layer_bytes(layer, context, element)
    return np.asarray(total, dtype=np.float64)


def _layer_bytes(layer: Layer, context: npt.ArrayLike, element: float) -> npt.NDArray[np.float64]:
    return cache_shape(layer.attention).bytes(context, element)


def cache_element_bytes(dtype: str) -> float:
    """Bytes of one cached element; ``auto`` is bf16, as engines keep it unless told otherwise."""
    faults = dtype_faults(dtype, "--kv-cache-dtype", allowed=CACHE_DTYPES)
    if faults:
        raise ConfigError(faults)
    return 1.0 if dtype == "fp8" else BYTES_PER_PARAM["bf16" if dtype == "auto" else dtype]
