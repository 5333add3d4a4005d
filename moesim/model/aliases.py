"""One table of field names: what every concept is called in the configs of different model families."""

from __future__ import annotations

from collections.abc import Mapping

#: Sections whose fields are those of the language model itself.
NESTED = ("text_config", "language_config", "llm_config", "attn_config", "ffn_config")

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
    "mtp_depth": ("layers per multi-token-prediction module", ("mtp_transformer_layers",)),
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
        ("intermediate_size", "ffn_hidden_size", "n_inner"),
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
    # encoder-decoder: the same name may mean a stack or the whole
    "encoder_layers": ("encoder layers", ("encoder_layers", "num_layers")),
    "decoder_layers": ("decoder layers", ("decoder_layers", "num_decoder_layers", "num_layers")),
    "encoder_heads": ("encoder attention heads", ("encoder_attention_heads", "num_heads")),
    "decoder_heads": ("decoder attention heads", ("decoder_attention_heads", "num_heads")),
    "encoder_intermediate": ("encoder feed-forward size", ("encoder_ffn_dim", "d_ff")),
    "decoder_intermediate": ("decoder feed-forward size", ("decoder_ffn_dim", "d_ff")),
    "encoder_step": ("encoder sparse step", ("encoder_sparse_step",)),
    "decoder_step": ("decoder sparse step", ("decoder_sparse_step",)),
    "encoder_sparse": ("sparse encoder layers", ("num_sparse_encoder_layers",)),
    "decoder_sparse": ("sparse decoder layers", ("num_sparse_decoder_layers",)),
    "relative_buckets": ("relative position buckets", ("relative_attention_num_buckets",)),
}
