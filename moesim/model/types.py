"""What a model is: its layers as plain frozen values, made from a HF config by `moesim.model.hf`.

Weight matrices are listed by `moesim.model.matrices`; counts follow from them in `moesim.model.count`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from moesim.shown import block, table


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """Multi-head, grouped-query or multi-query attention.

    Parameters
    ----------
    window
        Tokens a query sees at most (sliding window or chunk); None is full attention.
    gated
        The query projection also yields an output gate of the same width.
    norm_params
        Parameters of query/key norms and attention sinks.
    bias, output_bias
        Whether query, key and value projections, and the output projection, have a bias.
    q_rank
        Rank of a two-step query projection (Step-3's multi-matrix factorization); None for one full matrix.
    """

    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    window: int | None = None
    gated: bool = False
    norm_params: int = 0
    bias: bool = False
    output_bias: bool = False
    q_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Indexer:
    """The selector of sparse attention (DSA): scores every past token, keeps `top_k`.

    `shared` marks a layer that reuses the selection of an earlier one and has no indexer of its own.
    """

    heads: int
    dim: int
    top_k: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: the cache holds one latent of ``kv_rank + rope_dim`` per token.

    `q_rank` None means a full-rank query projection.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class Compressed:
    """DeepSeek-V4's attention: one shared key-value head, a local window, and compressed history.

    Every `ratio` past tokens are compressed to one entry; 0 keeps the local window only. With an indexer,
    `indexer.top_k` compressed entries are read. The output projection is low-rank in `o_groups` groups.
    """

    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    o_rank: int
    o_groups: int
    window: int
    ratio: int
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta-rule or lightning attention: a state of fixed size instead of a cache.

    The state holds ``value_heads * key_dim * value_dim`` elements of 4 bytes, and the convolution's tail.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    kind: str = "gated_delta"


@dataclass(frozen=True, slots=True)
class StateSpace:
    """A Mamba block."""

    inner: int
    state_dim: int
    conv_kernel: int
    dt_rank: int


Attention = GroupedQuery | Latent | Compressed | LinearAttention | StateSpace


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense feed-forward block; `matrices` is 3 for gated units, 2 otherwise."""

    intermediate: int
    matrices: int = 3


@dataclass(frozen=True, slots=True)
class MoE:
    """A Mixture-of-Experts block.

    Parameters
    ----------
    intermediate
        Width of one routed expert.
    shared_intermediate
        Width of all shared experts together; 0 for none.
    shared_gate
        Whether a gate of width one scales the shared expert.
    groups, top_groups
        Node-limited routing: experts are chosen inside `top_groups` of `groups`; 1 and 1 without it.
    expert_bias
        Whether expert matrices carry biases.
    router_bias
        Whether the router has a bias or a correction bias.
    hash_routed
        Whether experts follow from the token id; the router matrix still gives their weights.
    """

    num_experts: int
    top_k: int
    intermediate: int
    matrices: int = 3
    shared_intermediate: int = 0
    shared_gate: bool = False
    groups: int = 1
    top_groups: int = 1
    expert_bias: bool = False
    router_bias: bool = False
    hash_routed: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; `cross` is an encoder-decoder's second attention."""

    attention: Attention
    ffn: Dense | MoE
    cross: GroupedQuery | None = None
    extra_params: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder, with what surrounds it.

    Parameters
    ----------
    layers
        One entry per decoder layer, in order.
    mtp_layers
        Multi-token-prediction layers; counted apart from the model's published size.
    vision_params
        Parameters of a vision tower and its projector.
    weight_dtypes
        Data type of the checkpoint by module: ``default``, and any of
        ``attention dense shared expert router embedding head``.
    block_scaled
        Whether the checkpoint's fp8 weights have a scale per block.
    max_context
        Positions the model supports; None when the config does not say.
    warnings
        What the loader had to assume.
    """

    name: str
    model_type: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    mtp_layers: tuple[Layer, ...] = ()
    encoder_layers: tuple[Layer, ...] = ()
    vision_params: int = 0
    extra_params: int = 0
    weight_dtypes: Mapping[str, str] | None = field(default=None, hash=False)
    block_scaled: bool = False
    max_context: int | None = None
    warnings: tuple[str, ...] = ()
    path: str = ""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def moe_layer_ids(self) -> tuple[int, ...]:
        """Decoder indices of the MoE layers."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer.ffn, MoE))

    @property
    def moe(self) -> MoE | None:
        """The first MoE block, or None for a dense model."""
        return next((layer.ffn for layer in self.layers if isinstance(layer.ffn, MoE)), None)

    @property
    def num_experts(self) -> int:
        """Routed experts per MoE layer; 0 for a dense model."""
        return self.moe.num_experts if self.moe else 0

    @property
    def top_k(self) -> int:
        """Routed experts per token; 0 for a dense model."""
        return self.moe.top_k if self.moe else 0

    def distinct_layers(self) -> Iterator[tuple[Layer, int]]:
        """Equal layers once, in order of appearance, with how many there are."""
        yield from Counter(self.layers).items()

    def _repr_html_(self) -> str:
        from moesim.model.count import params
        from moesim.model.describe import describe_layer

        count = params(self)
        rows = [
            ("parameters, 1e9", count.total / 1e9),
            ("of which a token uses, 1e9", count.active / 1e9),
            ("width", self.hidden),
            ("vocabulary", self.vocab),
            ("positions", self.max_context),
        ]
        layers = [(describe_layer(layer), many) for layer, many in self.distinct_layers()]
        return block(
            f"{self.name} ({self.model_type})",
            table(["", "model"], rows),
            table(["layer", "how many"], layers),
            notes=self.warnings,
        )

    def dtype_of(self, module: str) -> str:
        """Data type of a module's weights in the checkpoint."""
        table = self.weight_dtypes or {"default": "bf16"}
        return table.get(module, table["default"])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, ``[inputs, outputs]``, `copies` times.

    Parameters
    ----------
    module
        ``attention indexer dense shared expert router embedding head``: what decides its data type.
        ``connection`` (hyper-connections, the projection in front of a prediction head) stays unquantised.
    shard
        ``column`` or ``row`` under tensor parallelism, ``replicated``, or ``expert``.
    used
        Copies a token multiplies with: `copies` for all but routed experts.
    max_shards
        The largest tensor-parallel degree that still divides it; beyond, it is replicated
        (key-value heads). None if unlimited.
    """

    name: str
    module: str
    inputs: int
    outputs: int
    shard: str
    copies: int = 1
    used: int = 1
    max_shards: int | None = None

    @property
    def params(self) -> int:
        """Parameters of all copies."""
        return self.inputs * self.outputs * self.copies
