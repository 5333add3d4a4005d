"""What the models are.

A model is a Hugging Face ``config.json``: from a file, a folder, or the catalogue. `load_model` reads it
into plain values (`moesim.model.types`), `layer_matrices` lists its weight matrices, and the counts follow.
"""

from moesim.model.cache import CacheShape, cache_bytes, cache_element_bytes, cache_shape, kv_bytes_per_token
from moesim.model.count import ParamCount, params, weight_bytes, weight_bytes_by_module
from moesim.model.dtypes import bytes_per_param, module_dtypes
from moesim.model.flops import attention_flops, flops_per_token
from moesim.model.hf import from_config
from moesim.model.load import load_model, names
from moesim.model.matrices import layer_matrices, model_matrices, mtp_matrices
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

__all__ = [
    "Attention",
    "CacheShape",
    "Compressed",
    "Dense",
    "GroupedQuery",
    "Indexer",
    "Latent",
    "Layer",
    "LinearAttention",
    "Matrix",
    "MoE",
    "Model",
    "ParamCount",
    "StateSpace",
    "attention_flops",
    "bytes_per_param",
    "cache_bytes",
    "cache_element_bytes",
    "cache_shape",
    "flops_per_token",
    "from_config",
    "kv_bytes_per_token",
    "layer_matrices",
    "load_model",
    "model_matrices",
    "module_dtypes",
    "mtp_matrices",
    "names",
    "params",
    "weight_bytes",
    "weight_bytes_by_module",
]
