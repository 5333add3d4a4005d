"""What one layer of a model weighs and does, as a system that streams layers sees it.

Such systems treat all layers alike; a model whose layers differ is taken at their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.model.cache import kv_bytes_per_token
from moesim.model.count import weight_bytes_by_module
from moesim.model.flops import flops_per_token
from moesim.model.matrices import layer_matrices
from moesim.model.types import GroupedQuery, Latent, Model, MoE

Floats = npt.NDArray[np.float64]

#: Bytes of one element of an activation.
ACTIVATION = 2.0

#: Rows of the smallest tile that matrix units of GPUs work on (mma m16n8).
TILE = 16


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One mean layer; bytes and FLOPs.

    Parameters
    ----------
    layers
        Of the model.
    hidden
        Width of the residual stream.
    experts, top_k, intermediate
        Routed experts of a layer, those a token uses, and their width.
    expert_bytes
        One routed expert of a mean layer; all of a layer's are `experts` of them.
    dense_bytes
        Everything else of a layer that has weights.
    head_bytes
        The output head, once per step and micro-batch.
    kv_bytes
        Cached per token.
    qkv_bytes
        Query, key and value of a token, as they leave for a CPU that attends.
    expert_flops
        Routed experts, per token.
    dense_flops
        Everything else but the scores, per token.
    score_flops
        Scores and values, per token and token of its context.
    """

    layers: int
    hidden: int
    experts: int
    top_k: int
    intermediate: int
    expert_bytes: float
    dense_bytes: float
    head_bytes: float
    kv_bytes: float
    qkv_bytes: float
    expert_flops: float
    dense_flops: float
    score_flops: float

    @classmethod
    def of(cls, model: Model, weight_dtype: str = "bf16") -> LayerShape:
        """The mean layer of a model.

        Raises
        ------
        ConfigError
            If the model has no experts: nothing here would be worth streaming.

        Examples
        --------
        >>> from moesim.model import load_model
        >>> shape = LayerShape.of(load_model("mixtral-8x7b"))
        >>> round(shape.experts * shape.expert_bytes / 1e9, 2), shape.kv_bytes
        (2.82, 4096.0)
        """
        mixtures = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)]
        if not mixtures:
            raise ConfigError(Fault("has no experts", "model", model.name, "a mixture of experts"))
        layers, widest = len(model.layers), max(mixtures, key=lambda ffn: ffn.num_experts)
        weights = weight_bytes_by_module(model, weight_dtype)
        experts = weights["expert"] / layers
        outside = sum(weights.get(name, 0.0) for name in ("expert", "embedding", "head"))
        routed = sum(
            2.0 * m.inputs * m.outputs * m.used
            for layer in model.layers
            for m in layer_matrices(layer, model.hidden)
            if m.module == "expert"
        )
        short, long = flops_per_token(model, [1024.0, 2048.0], "prefill").tolist()
        scores = (long - short) / 1024.0
        return cls(
            layers=layers,
            hidden=model.hidden,
            experts=widest.num_experts,
            top_k=widest.top_k,
            intermediate=widest.intermediate,
            expert_bytes=experts / widest.num_experts,
            dense_bytes=(sum(weights.values()) - outside) / layers,
            head_bytes=weights.get("head", weights["embedding"]),
            kv_bytes=kv_bytes_per_token(model) / layers,
            qkv_bytes=_qkv_bytes(model),
            expert_flops=routed / layers,
            dense_flops=(short - 1024.0 * scores - routed) / layers,
            score_flops=scores / layers,
        )

    @property
    def layer_bytes(self) -> float:
        """Weights of one layer."""
        return self.experts * self.expert_bytes + self.dense_bytes

    def distinct(self, tokens: npt.ArrayLike) -> Floats:
        """Experts that so many tokens use, each choosing evenly: ``E (1 - (1 - k/E)^n)``.

        Published runs of these systems come without routing; real routing is more skewed, which changes
        little here, since a micro-batch that is worth its weights meets nearly all experts.
        """
        missed = (1.0 - self.top_k / self.experts) ** np.asarray(tokens, dtype=np.float64)
        return np.asarray(self.experts * (1.0 - missed))

    def padded_flops(self, tokens: npt.ArrayLike) -> Floats:
        """Routed work of so many tokens of one layer, each expert's rows filled up to whole tiles.

        Examples
        --------
        >>> shape = LayerShape(1, 8, 4, 1, 8, 0, 0, 0, 0, 0, expert_flops=10.0, dense_flops=0, score_flops=0)
        >>> round(float(shape.padded_flops(4)), 1), float(shape.padded_flops(1e6))
        (437.5, 10000000.0)
        """
        count = np.asarray(tokens, dtype=np.float64)
        met = self.distinct(count)
        rows = TILE * np.ceil(np.round(count * self.top_k / met / TILE, 9))
        return np.asarray(met * rows * self.expert_flops / self.top_k)


def _qkv_bytes(model: Model) -> float:
    """Mean over layers; attention of other kinds is taken to send its hidden state."""
    total = 0.0
    for layer in model.layers:
        match layer.attention:
            case GroupedQuery() as a:
                total += a.heads * a.qk_dim + a.kv_heads * (a.qk_dim + a.v_dim)
            case Latent() as a:
                total += (a.heads + 1) * (a.kv_rank + a.rope_dim)
            case _:
                total += model.hidden
    return ACTIVATION * total / len(model.layers)
