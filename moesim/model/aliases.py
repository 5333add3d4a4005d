"""One table of field names: what every concept is called in the configs of different model families.

`Fields` looks a concept up under all its names, checks type and range, and gathers every fault, so that a wrong
config is answered once, with everything that is wrong about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moesim.errors import ConfigError, Fault

#: Sections whose fields are those of the language model itself.
NESTED = ("text_config", "language_config", "llm_config", "attn_config", "ffn_config")

#: No real model comes near these; they keep a hostile file from asking for unbounded memory.
MAX_LAYERS = 4096
MAX_VALUE = 2**31
MAX_NESTING = 3

#: concept -> (what it is, names in order of preference)
ALIASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    # the decoder
    "layers": ("number of layers", ("num_hidden_layers", "num_layers", "n_layers", "n_layer")),
    "hidden": ("hidden size", ("hidden_size", "d_model", "n_embd", "emb_size")),
    "vocab": ("vocabulary size", ("vocab_size", "padded_vocab_size")),
    "max_context": (
        "maximum context",
        ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length", "n_positions"),
    ),
    "mtp": (
        "multi-token-prediction layers",
        ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers"),
    ),
    # attention
    "heads": ("attention heads", ("num_attention_heads", "n_heads", "n_head", "num_heads")),
    "kv_heads": (
        "key-value heads",
        ("num_key_value_heads", "kv_n_heads", "num_kv_heads", "n_kv_heads", "num_attention_groups"),
    ),
    "head_dim": ("head size", ("head_dim", "attention_head_dim", "kv_channels", "d_kv")),
    "q_rank": ("query rank", ("q_lora_rank", "attention_q_lora_dim", "share_q_dim")),
    "kv_rank": ("key-value rank", ("kv_lora_rank", "attention_kv_lora_dim")),
    "nope_dim": ("query-key size without position", ("qk_nope_head_dim", "attention_qk_dim")),
    "rope_dim": ("query-key size with position", ("qk_rope_head_dim", "attention_qk_rope_dim")),
    "v_dim": ("value size", ("v_head_dim", "attention_v_dim")),
    "window": ("sliding window", ("sliding_window", "sliding_window_size")),
    "chunk": ("attention chunk", ("attention_chunk_size",)),
    "window_pattern": ("sliding window pattern", ("sliding_window_pattern",)),
    "window_from": ("first windowed layer", ("max_window_layers",)),
    "index_heads": ("indexer heads", ("index_n_heads",)),
    "index_dim": ("indexer head size", ("index_head_dim",)),
    "index_top_k": ("indexer's selection", ("index_topk",)),
    "index_every": ("layers per indexer", ("index_topk_freq",)),
    "index_offset": ("first layers with an indexer", ("index_skip_topk_offset",)),
    "o_rank": ("output rank", ("o_lora_rank",)),
    "o_groups": ("output groups", ("o_groups",)),
    "hyper": ("hyper-connection streams", ("hc_mult",)),
    "hash_layers": ("hash-routed layers", ("num_hash_layers",)),
    # which layers attend how
    "full_every": ("full attention interval", ("full_attention_interval",)),
    "attention_period": ("attention layer period", ("attn_layer_period",)),
    "attention_offset": ("attention layer offset", ("attn_layer_offset",)),
    "no_rope_every": ("layers per layer without positions", ("no_rope_layer_interval",)),
    # linear attention and state spaces
    "linear_key_heads": ("linear key heads", ("linear_num_key_heads",)),
    "linear_value_heads": ("linear value heads", ("linear_num_value_heads",)),
    "linear_key_dim": ("linear key size", ("linear_key_head_dim",)),
    "linear_value_dim": ("linear value size", ("linear_value_head_dim",)),
    "linear_conv": ("linear convolution", ("linear_conv_kernel_dim",)),
    "mamba_state": ("Mamba state size", ("mamba_d_state",)),
    "mamba_conv": ("Mamba convolution", ("mamba_d_conv",)),
    "mamba_expand": ("Mamba expansion", ("mamba_expand",)),
    "mamba_dt_rank": ("Mamba time-step rank", ("mamba_dt_rank",)),
    # feed-forward
    "intermediate": (
        "feed-forward size",
        ("intermediate_size", "ffn_hidden_size", "d_ff", "encoder_ffn_dim", "n_inner"),
    ),
    "dense_intermediate": ("dense feed-forward size", ("intermediate_size_mlp", "dense_intermediate_size")),
    "experts": (
        "number of routed experts",
        (
            "n_routed_experts",
            "num_local_experts",
            "num_experts",
            "moe_num_experts",
            "num_routed_experts",
            "num_moe_experts",
        ),
    ),
    "top_k": (
        "experts per token",
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
            "moe_k",
            "moe_top_k",
            "moe_topk",
            "top_k_experts",
            "n_activated_experts",
            "num_selected_experts",
        ),
    ),
    "expert_intermediate": (
        "expert feed-forward size",
        ("moe_intermediate_size", "expert_intermediate_size", "moe_inter_dim", "moe_ffn_hidden_size"),
    ),
    "shared_experts": (
        "shared experts",
        (
            "n_shared_experts",
            "num_shared_experts",
            "num_shared_expert",
            "moe_num_shared_experts",
        ),
    ),
    "shared_intermediate": (
        "shared expert feed-forward size",
        (
            "shared_expert_intermediate_size",
            "share_expert_dim",
            "shared_intermediate_size",
            "moe_shared_expert_intermediate_size",
        ),
    ),
    "groups": ("expert groups", ("n_group", "num_expert_group", "num_expert_groups")),
    "top_groups": ("expert groups per token", ("topk_group", "topk_groups")),
    # which layers are MoE
    "dense_first": (
        "leading dense layers",
        ("first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped"),
    ),
    "moe_frequency": ("MoE layer frequency", ("moe_layer_freq", "moe_layer_frequency")),
    "sparse_step": ("sparse step", ("decoder_sparse_step", "interleave_moe_layer_step")),
    "moe_period": ("expert layer period", ("expert_layer_period",)),
    "moe_offset": ("expert layer offset", ("expert_layer_offset",)),
    "moe_start": ("first MoE layer", ("moe_layer_start_index",)),
    "moe_end": ("last MoE layer", ("moe_layer_end_index",)),
    "moe_interval": ("MoE layer interval", ("moe_layer_interval",)),
    "moe_list": ("list of MoE layers", ("moe_layers", "moe_layers_enum")),
    "moe_types": ("list of feed-forward kinds", ("mlp_layer_types",)),
    "dense_list": ("list of dense layers", ("mlp_only_layers",)),
    # lists over layers
    "attention_types": ("list of attention kinds", ("layer_types",)),
    "attention_codes": ("list of attention codes", ("attn_type_list",)),
    "compress": ("list of compression ratios", ("compress_ratios",)),
    "index_types": ("list of indexer kinds", ("indexer_types",)),
    "rope_list": ("list of layers with positions", ("no_rope_layers",)),
    # encoder-decoder
    "decoder_layers": ("decoder layers", ("num_decoder_layers", "decoder_layers")),
    "encoder_layers": ("encoder layers", ("encoder_layers",)),
    "encoder_sparse_step": ("encoder sparse step", ("encoder_sparse_step",)),
    "decoder_intermediate": ("decoder feed-forward size", ("decoder_ffn_dim",)),
    "encoder_heads": ("encoder attention heads", ("encoder_attention_heads",)),
    "decoder_heads": ("decoder attention heads", ("decoder_attention_heads",)),
    "sparse_encoder_layers": ("sparse encoder layers", ("num_sparse_encoder_layers",)),
    "sparse_decoder_layers": ("sparse decoder layers", ("num_sparse_decoder_layers",)),
    "relative_buckets": ("relative position buckets", ("relative_attention_num_buckets",)),
}


class Fields:
    """The fields of a config, looked up by concept.

    Parameters
    ----------
    config
        A parsed ``config.json``. Fields of nested language-model sections come first.
    source
        File or name that faults are reported for.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "") -> None:
        self.source = source
        self.top = config
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self._missing: list[str] = []
        self.values: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self._merge(config, "")

    def _merge(self, section: Mapping[str, Any], prefix: str) -> None:
        for name in NESTED:
            inner = section.get(name)
            if isinstance(inner, Mapping) and prefix.count(".") < MAX_NESTING:
                self._merge(inner, f"{prefix}{name}.")
            elif inner is not None:
                self.faults.append(
                    Fault("is no section of a model", prefix + name, _short(inner), "an object")
                )
        for key, value in section.items():
            if key not in self.values or self.values[key] is None:
                self.values[key] = value
                self._where[key] = prefix + key

    def find(self, concept: str) -> tuple[str, Any] | None:
        """Name and value of a concept that is present and not null; a warning if its names disagree."""
        hits = [(n, self.values[n]) for n in ALIASES[concept][1] if self.values.get(n) is not None]
        if not hits:
            return None
        for name, value in hits[1:]:
            text = f"{self._where[hits[0][0]]} and {self._where[name]} disagree; the first is used"
            if value != hits[0][1] and text not in self.warnings:
                self.warnings.append(text)
        return self._where[hits[0][0]], hits[0][1]

    def has(self, *concepts: str) -> bool:
        """Whether any of the concepts is present and not null, zero, false or an empty list."""
        return any((hit := self.find(c)) is not None and bool(hit[1]) for c in concepts)

    def number(self, concept: str, default: int = 0, *, least: int = 0) -> int:
        """Return a whole number of at least `least`, or `default` where the concept is absent."""
        hit = self.find(concept)
        if hit is None:
            return default
        return self._whole(hit[0], hit[1], least)

    def need(self, concept: str) -> int:
        """Return a positive whole number; where it is absent the concept is noted as missing."""
        hit = self.find(concept)
        if hit is None:
            self.missing(concept)
            return 1
        return self._whole(hit[0], hit[1], 1)

    def per_layer(
        self, concept: str, layers: int, *, least: int = 0, default: int | None = None
    ) -> list[int]:
        """Return one number per layer, from a number or a list; positive and needed unless `default` is given."""
        hit = self.find(concept)
        if hit is None or not isinstance(hit[1], list):
            least = max(least, 1) if default is None else least
            value = self.need(concept) if default is None else self.number(concept, default, least=least)
            return [value] * layers
        return self.numbers(concept, layers, least=least)

    def numbers(self, concept: str, layers: int, *, least: int = 0) -> list[int]:
        """Return a list of at least `layers` whole numbers."""
        where, values = self.find(concept) or (concept, [])
        found = self._list(where, values, layers, "numbers")
        return [self._whole(f"{where}[{i}]", v, least) for i, v in enumerate(found)]

    def words(self, concept: str, layers: int, allowed: Sequence[str]) -> list[str]:
        """Return a list of at least `layers` words, each one of `allowed`."""
        where, values = self.find(concept) or (concept, [])
        found = self._list(where, values, layers, "words")
        wrong = {repr(v)[:80]: v for v in found if v not in allowed}
        for word in wrong.values():
            self.faults.append(Fault("has an unknown entry", where, _short(word), ", ".join(allowed)))
        return [v if v in allowed else allowed[0] for v in found]

    def flag(self, name: str, default: bool) -> bool:
        """Return a true or false field by its own name."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.faults.append(Fault("is neither true nor false", self._where[name], _short(value)))
            return default
        return value

    def text(self, *names: str) -> str:
        """Return the first of these fields that is present, as text."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str):
                return value
            if value is not None:
                self.faults.append(Fault("is no text", self._where[name], _short(value)))
        return ""

    def missing(self, concept: str) -> None:
        """Note that a needed concept is absent."""
        if concept not in self._missing:
            self._missing.append(concept)

    def fault(self, message: str, concept: str, value: object = None, allowed: str = "") -> None:
        """Note that a concept's value does not go with the others."""
        hit = self.find(concept)
        self.faults.append(Fault(message, hit[0] if hit else concept, _short(value), allowed))

    def check(self) -> None:
        """Raise everything noted so far.

        Raises
        ------
        ConfigError
            With one fault per wrong value and per missing concept.
        """
        faults = list(self.faults)
        for concept in self._missing:
            what, names = ALIASES[concept]
            faults.append(Fault(f"{what} is missing", allowed="one of " + ", ".join(names)))
        if self._missing:
            faults.append(Fault("fields seen: " + _keys(self.values)))
        if faults:
            raise ConfigError(faults, self.source)

    def _whole(self, where: str, value: object, least: int) -> int:
        allowed = f"a whole number from {least} to {MAX_VALUE}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.faults.append(Fault("is no whole number", where, _short(value), allowed))
            return max(least, 1)
        if not least <= value <= MAX_VALUE:
            self.faults.append(Fault("is out of range", where, _short(value), allowed))
            return max(least, 1)
        return value

    def _list(self, where: str, values: object, layers: int, kind: str) -> list[Any]:
        if not isinstance(values, list):
            self.faults.append(Fault("is no list", where, _short(values), f"a list of {layers} {kind}"))
            return []
        if len(values) < layers:
            found = f"{len(values)} entries"
            self.faults.append(Fault("is shorter than the layers", where, found, f"{layers} {kind}"))
        return values[: MAX_LAYERS * 2]


def _short(value: object) -> object:
    """A value as it is shown in an error: long ones are cut."""
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."


def _keys(values: Mapping[str, Any]) -> str:
    names = sorted(str(k) for k in values)
    shown = ", ".join(n[:60] for n in names[:40])
    return (shown or "none") + (f" and {len(names) - 40} more" if len(names) > 40 else "")
