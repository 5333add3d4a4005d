"""Make a `Model` from a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesim.errors import ConfigError, Fault
from moesim.model.attention import AttentionReader
from moesim.model.families import FAMILIES, UNKNOWN, Family
from moesim.model.ffn import FeedForwardReader
from moesim.model.fields import MAX_LAYERS, Fields
from moesim.model.quant import is_block_scaled, weight_dtypes
from moesim.model.seq2seq import Seq2SeqReader
from moesim.model.types import Layer, Model
from moesim.model.vision import vision_params


def from_config(config: Mapping[str, Any], *, name: str = "", path: str = "") -> Model:
    """Read a parsed ``config.json``.

    Parameters
    ----------
    config
        The config, of any family: fields are found by `moesim.model.aliases`. Keys that start with an
        underscore are ignored.
    name
        The model's name; its ``model_type`` if empty.
    path
        The file it came from, for errors and provenance.

    Returns
    -------
    Model
        Its `warnings` hold what had to be assumed.

    Raises
    ------
    ConfigError
        If needed fields are missing (all of them are named, with the accepted spellings) or values are wrong.

    Examples
    --------
    >>> tiny = dict(model_type="mixtral", hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    ...             num_key_value_heads=2, intermediate_size=128, vocab_size=1000, num_local_experts=8,
    ...             num_experts_per_tok=2)
    >>> model = from_config(tiny, name="tiny")
    >>> model.num_layers, model.num_experts, model.top_k
    (2, 8, 2)
    """
    source = path or name
    if not isinstance(config, Mapping):
        raise ConfigError(Fault("is no model config", allowed="a JSON object"), source)
    fields = Fields({k: v for k, v in config.items() if not str(k).startswith("_")}, source)
    model_type = fields.text("model_type")
    family = FAMILIES.get(model_type, UNKNOWN)
    if model_type not in FAMILIES:
        told = f"model_type {model_type[:60]!r} is unknown" if model_type else "there is no model_type"
        fields.warnings.append(f"{told}; read by its fields alone")
    hidden, vocab = fields.need("hidden"), fields.need("vocab")
    tied = fields.flag("tie_word_embeddings", family.tied)
    max_context = fields.number("max_context", least=1) or None
    vision = vision_params(fields, hidden)
    lm_head_bias = vocab if fields.flag("lm_head_bias", False) else 0
    read = _read_seq2seq if family.seq2seq else _read_decoder
    body = read(fields, family, hidden)
    return Model(
        name=name or model_type or "model",
        model_type=model_type,
        hidden=hidden,
        vocab=vocab,
        layers=body.layers,
        tied_embeddings=tied,
        mtp_layers=body.mtp_layers,
        encoder_layers=body.encoder_layers,
        vision_params=vision,
        extra_params=body.extra_params + lm_head_bias,
        weight_dtypes=body.weight_dtypes,
        block_scaled=is_block_scaled(fields),
        max_context=max_context,
        warnings=tuple(fields.warnings),
        path=path,
    )


@dataclass(frozen=True, slots=True)
class _Body:
    """What is between embedding and head."""

    layers: tuple[Layer, ...]
    weight_dtypes: Mapping[str, str]
    mtp_layers: tuple[Layer, ...] = ()
    encoder_layers: tuple[Layer, ...] = ()
    extra_params: int = 0


def _read_decoder(fields: Fields, family: Family, hidden: int) -> _Body:
    layers = fields.need("layers")
    if layers > MAX_LAYERS:
        fields.fault("is out of range", "layers", layers, f"at most {MAX_LAYERS}")
        layers = 1
    attention = AttentionReader(fields, family, hidden, layers)
    ffn = FeedForwardReader(fields, family, layers)
    mtp = _mtp_layers(fields)
    hyper = fields.number("hyper", 1, least=1)
    if fields.flag("is_encoder_decoder", False):
        fields.warnings.append("an encoder-decoder of an unknown family; it is read as a decoder alone")
    if fields.flag("use_cla", False):
        fields.warnings.append("layers share keys and values (use_cla); each is counted with its own")
    sparse_layer = ffn.sparse.index(True) if True in ffn.sparse else 0
    dense_layer = ffn.sparse.index(False) if False in ffn.sparse else 0
    types = weight_dtypes(fields, dense_layer, sparse_layer)
    fields.check()
    attention.check()
    ffn.check()
    fields.check()
    extra = (family.extra_norms + (2 if family.norm_bias else 0)) * hidden + _hyper_layer(hidden, hyper)
    return _Body(
        tuple(Layer(attention.layer(i), ffn.layer(i), extra_params=extra) for i in range(layers)),
        types,
        (Layer(attention.prediction(), ffn.prediction(), extra_params=extra),) * mtp,
        extra_params=_hyper_head(hidden, hyper) + (hidden if family.norm_bias else 0),
    )


def _read_seq2seq(fields: Fields, family: Family, hidden: int) -> _Body:
    reader = Seq2SeqReader(fields, family, hidden)
    types = weight_dtypes(fields, 0, 0)
    fields.check()
    reader.check()
    fields.check()
    return _Body(
        reader.layers(reader.decoder),
        types,
        encoder_layers=reader.layers(reader.encoder),
        extra_params=reader.extra_params(),
    )


def _mtp_layers(fields: Fields) -> int:
    """Multi-token-prediction layers; MiniMax counts modules, each of several layers."""
    if not fields.flag("use_mtp", True):
        return 0
    count = fields.number("mtp") * fields.number("mtp_depth", 1)
    if count > MAX_LAYERS:
        fields.fault("is out of range", "mtp", count, f"at most {MAX_LAYERS}")
        return 0
    return count


def _hyper_layer(hidden: int, streams: int) -> int:
    """Hyper-connections: two mixers per layer from all streams to their weights (arXiv:2409.19606).

    Each mixer yields an input weight and an output weight per stream and a stream-by-stream matrix, with an
    offset for each and three scales.
    """
    if streams == 1:
        return 0
    weights = (2 + streams) * streams
    return 2 * (weights * streams * hidden + weights + 3)


def _hyper_head(hidden: int, streams: int) -> int:
    """The mixer that joins the streams in front of the output head."""
    return 0 if streams == 1 else streams * streams * hidden + streams + 1
