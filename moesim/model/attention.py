"""Attention of every layer, from a config's fields."""

from __future__ import annotations

import math

from moesim.model.families import Family
from moesim.model.fields import Fields
from moesim.model.types import (
    Attention,
    Compressed,
    GroupedQuery,
    Indexer,
    Latent,
    LinearAttention,
    StateSpace,
)

_KINDS = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention", "mamba")
_INDEXERS = ("full", "shared")


class AttentionReader:
    """Reads what attention needs when made; builds a layer's attention when asked.

    Parameters
    ----------
    fields
        The config; faults and missing concepts are noted there.
    family
        Traits that the config does not carry.
    hidden, layers
        Hidden size and number of layers.
    """

    def __init__(self, fields: Fields, family: Family, hidden: int, layers: int) -> None:
        self.fields, self.family, self.hidden, self.layers = fields, family, hidden, layers
        self.heads = fields.need("heads")
        # Any field of its own marks the kind, so that one that lacks another is answered, not misread.
        marked = fields.has("kv_rank", "nope_dim") and fields.flag("use_mla", True)
        self.latent = marked or family.latent
        self.compress = self._compress_ratios()
        self.window = self._window()
        self.chunk = fields.number("chunk", least=1) or None
        self.kinds = self._kinds()
        if self.compress is not None:
            self._read_compressed()
        elif self.latent:
            self._read_latent()
        else:
            self._read_grouped()
        if "linear_attention" in self.kinds:
            self._read_linear()
        if "mamba" in self.kinds:
            self._read_mamba()

    def check(self) -> None:
        """Note the faults that show only when all fields are read."""
        f = self.fields
        if self.latent or self.compress is not None:
            return
        if not f.find("head_dim") and self.hidden % self.heads:
            f.fault("does not divide the hidden size, and there is no head size", "heads", self.heads)
        if self.heads % self.kv_heads:
            f.fault(
                "does not divide the attention heads", "kv_heads", self.kv_heads, f"a divisor of {self.heads}"
            )

    def layer(self, i: int) -> Attention:
        """Attention of layer `i`."""
        if self.compress is not None:
            return self._compressed(self.compress[i])
        kind = self.kinds[i]
        if kind == "linear_attention":
            return self.linear
        if kind == "mamba":
            return self.mamba
        if self.latent:
            return self._latent(i)
        window = {"sliding_attention": self.window, "chunked_attention": self.chunk}.get(kind)
        return self._grouped(window)

    def prediction(self) -> Attention:
        """Attention of a multi-token-prediction layer: full, or the last entry's in a compressed model."""
        if self.compress is not None:
            values = self.fields.numbers("compress", self.layers)
            return self._compressed(values[self.layers] if len(values) > self.layers else 0)
        if self.latent:
            return self._latent(self.layers - 1, fresh_index=True)
        return self._grouped(None)

    def _compress_ratios(self) -> list[int] | None:
        f = self.fields
        if f.find("compress"):
            return f.numbers("compress", self.layers)
        if not f.has("o_rank", "o_groups"):
            return None
        f.missing("compress")
        return [0] * self.layers

    def _window(self) -> int | None:
        f = self.fields
        hit = f.find("window")
        if hit is None or hit[1] is False or not f.flag("use_sliding_window", True):
            return None
        window = f.number("window", least=1)
        # A window that spans the whole context is full attention.
        return None if 0 < f.number("max_context") <= window else window

    def _kinds(self) -> list[str]:
        """One of `_KINDS` per layer."""
        f, n = self.fields, self.layers
        windowed = "sliding_attention" if self.window else "full_attention"
        if f.find("attention_types"):
            kinds = f.words("attention_types", n, _KINDS)[:n]
            for kind, value, concept in (
                ("sliding_attention", self.window, "window"),
                ("chunked_attention", self.chunk, "chunk"),
            ):
                if kind in kinds and value is None and not f.find(concept):
                    f.missing(concept)
            return kinds
        if f.find("attention_codes"):
            codes = f.numbers("attention_codes", n)[:n]
            return ["linear_attention" if code == 0 else "full_attention" for code in codes]
        if f.find("attention_period"):
            period, offset = f.number("attention_period", least=1), f.number("attention_offset")
            return ["full_attention" if i % period == offset else "mamba" for i in range(n)]
        if f.find("full_every"):
            every = f.number("full_every", least=1)
            return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(n)]
        if f.find("window_pattern") and self.window:
            every = f.number("window_pattern", least=1)
            return [windowed if (i + 1) % every else "full_attention" for i in range(n)]
        if self.family.windows == "alternate":
            return ["full_attention" if i % 2 else windowed for i in range(n)]
        if self.family.windows == "llama4" and self.chunk:
            if f.find("rope_list") and f.has("rope_list"):
                rope = f.numbers("rope_list", n)[:n]
            else:
                every = f.number("no_rope_every", 4, least=1)
                rope = [int((i + 1) % every != 0) for i in range(n)]
            return ["chunked_attention" if r else "full_attention" for r in rope]
        if self.window and f.find("window_from") and f.flag("use_sliding_window", False):
            first = f.number("window_from")
            return [windowed if i >= first else "full_attention" for i in range(n)]
        return [windowed] * n

    def _read_grouped(self) -> None:
        f, family = self.fields, self.family
        self.kv_heads = f.number("kv_heads", self.heads, least=1)
        self.head_dim = f.number("head_dim", max(self.hidden // self.heads, 1), least=1)
        self.q_rank = f.number("q_rank", least=1) or None
        bias = f.flag("attention_bias", False) or f.flag("qkv_bias", False) or f.flag("use_bias", False)
        self.bias = family.qkv_bias == "yes" or (family.qkv_bias == "config" and bias)
        self.output_bias = family.output_bias == "yes" or (family.output_bias == "config" and bias)
        self.gated = f.flag("attn_output_gate", family.gated)
        norm = family.qk_norm
        if norm == "config":
            norm = "head" if f.flag("use_qk_norm", False) else "none"
            # MiniMax-M2 names a norm over all heads of a layer so.
            norm = "full" if norm == "head" and f.text("qk_norm_type") == "per_layer" else norm
        width = {"none": 0, "head": 2, "full": self.heads + self.kv_heads}[norm]
        self.norm_params = width * self.head_dim + (self.heads if family.sinks else 0)

    def _grouped(self, window: int | None) -> GroupedQuery:
        return GroupedQuery(
            heads=self.heads,
            kv_heads=self.kv_heads,
            qk_dim=self.head_dim,
            v_dim=self.head_dim,
            window=window,
            gated=self.gated,
            norm_params=self.norm_params,
            bias=self.bias,
            output_bias=self.output_bias,
            q_rank=self.q_rank,
        )

    def _read_latent(self) -> None:
        f = self.fields
        self.q_rank = f.number("q_rank", least=1) or None
        self.kv_rank, self.rope_dim = f.need("kv_rank"), f.need("rope_dim")
        self.nope_dim, self.v_dim = f.need("nope_dim"), f.need("v_dim")
        self.index = self._read_index()
        self.index_shared = self._index_shared() if self.index else [False] * self.layers

    def _latent(self, i: int, *, fresh_index: bool = False) -> Latent:
        shared = self.index_shared[i] and not fresh_index
        index = self.index
        if index and shared:
            index = Indexer(index.heads, index.dim, index.top_k, shared=True)
        return Latent(self.heads, self.q_rank, self.kv_rank, self.nope_dim, self.rope_dim, self.v_dim, index)

    def _read_index(self) -> Indexer | None:
        f = self.fields
        if not f.has("index_top_k", "index_heads", "index_dim"):
            return None
        return Indexer(f.need("index_heads"), f.need("index_dim"), f.need("index_top_k"))

    def _index_shared(self) -> list[bool]:
        """Which layers reuse an earlier layer's selection (GLM-5.2)."""
        f, n = self.fields, self.layers
        if f.find("index_types"):
            return [kind == "shared" for kind in f.words("index_types", n, _INDEXERS)[:n]]
        every, offset = f.number("index_every", 1, least=1), f.number("index_offset", 1)
        return [max(i - offset + 1, 0) % every != 0 for i in range(n)]

    def _read_compressed(self) -> None:
        f = self.fields
        self.head_dim, self.rope_dim = f.need("head_dim"), f.need("rope_dim")
        self.q_rank, self.o_rank, self.o_groups = f.need("q_rank"), f.need("o_rank"), f.need("o_groups")
        self.compress_window = f.need("window")
        self.index = self._read_index()

    def _compressed(self, ratio: int) -> Compressed:
        # Only the finely compressed layers are long enough to be worth selecting from (DeepSeek-V4).
        index = self.index if ratio == 4 else None
        return Compressed(
            self.heads,
            self.head_dim,
            self.rope_dim,
            self.q_rank or 1,
            self.o_rank,
            self.o_groups,
            self.compress_window,
            ratio,
            index,
        )

    def _read_linear(self) -> None:
        f = self.fields
        if f.find("attention_codes") and not f.find("linear_key_heads"):
            self.linear = LinearAttention(
                self.heads, self.heads, self.head_dim, self.head_dim, conv_kernel=0, kind="lightning"
            )
            return
        self.linear = LinearAttention(
            f.need("linear_key_heads"),
            f.need("linear_value_heads"),
            f.need("linear_key_dim"),
            f.need("linear_value_dim"),
            f.number("linear_conv", 4, least=1),
        )

    def _read_mamba(self) -> None:
        f = self.fields
        automatic = f.values.get("mamba_dt_rank") in (None, "auto")
        rank = math.ceil(self.hidden / 16) if automatic else f.number("mamba_dt_rank", least=1)
        self.mamba = StateSpace(
            f.number("mamba_expand", 2, least=1) * self.hidden,
            f.need("mamba_state"),
            f.number("mamba_conv", 4, least=1),
            rank,
        )
