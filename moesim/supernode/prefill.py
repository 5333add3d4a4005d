"""A prefill instance of a supernode: attention cut by tokens, by heads and by tokens again.

Prompts differ in length, so that whole prompts on single dies leave some of them idle. CloudMatrix-Infer
packs tokens evenly over the dies for the projections of the residual stream, and cuts attention by heads:

1. down-projections of queries and latents, by tokens;
2. an all-gather of what they give, few numbers per token;
3. up-projections and attention, by heads, over all tokens of the instance;
4. an all-to-all of attention's outputs, back to the dies of their tokens;
5. the output projection, by tokens.

Cube cores do all of this; vector cores prepare what travels to the experts, and a copy engine carries it
while the other micro-batch computes: the engine's two-batch template, with 2 and 4 as part of attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.cost import collective_seconds
from moesim.engine.deployment import Deployment
from moesim.engine.routing import PREFILL, Array
from moesim.engine.timeline import makespan, two_batch_layers
from moesim.model.types import Latent
from moesim.ops import Batch
from moesim.ops.primitives import ACTIVATION_BYTES


@dataclass(frozen=True, slots=True)
class PrefillTimes:
    """Seconds of one step of a prefill instance.

    Parameters
    ----------
    alone_s
        One operation after the other.
    overlapped_s
        Two micro-batches taking turns.
    resharding_s
        Of `alone_s`, what the all-gather and the all-to-all of attention take.
    """

    alone_s: float
    overlapped_s: float
    resharding_s: float

    @property
    def gain(self) -> float:
        """How much faster two micro-batches are."""
        return self.alone_s / self.overlapped_s


def prefill_times(
    instance: Deployment,
    prompts: float,
    new: float,
    past: float = 0.0,
    element_bytes: float = ACTIVATION_BYTES,
) -> PrefillTimes:
    """Seconds of a prefill step of every rank's share of equal prompts.

    Parameters
    ----------
    instance
        The ranks; its layout says how many.
    prompts
        Prompts per rank.
    new
        Tokens of each that are computed.
    past
        Tokens of each whose cache is there.
    element_bytes
        Of a number that changes ranks inside attention.
    """
    batch = Batch.prefill(prompts, new, past)
    whole, half = (instance.sequential(b, PREFILL).block_seconds() for b in (batch, batch.half()))
    moved = resharding_s(instance, float(batch.tokens[0]), element_bytes)
    layers, every = len(instance.model.moe_layer_ids), instance.model.num_layers
    attention = half["attention"] / every + resharding_s(
        instance, float(batch.half().tokens[0]), element_bytes
    )
    spans = makespan(
        two_batch_layers(
            layers, attention, *(half[name] / layers for name in ("dispatch", "experts", "combine"))
        )
    )
    overlapped = spans + 2.0 * attention * (every - layers) + 2.0 * half["other"]
    alone = np.sum(list(whole.values()), axis=0) + every * moved
    best: Array = np.minimum(alone, overlapped)
    return PrefillTimes(float(alone[0]), float(best[0]), every * moved)


def resharding_s(instance: Deployment, tokens: float, element_bytes: float = ACTIVATION_BYTES) -> float:
    """Seconds of one layer's all-gather of latents and all-to-all of attention's outputs.

    Parameters
    ----------
    instance
        Its model has latent attention.
    tokens
        Per rank.
    element_bytes
        Of a number on the way.
    """
    attention = instance.model.layers[0].attention
    if not isinstance(attention, Latent):
        raise ValueError(f"{instance.model.name} has no latent attention")
    ranks = instance.layout.dp
    low = (attention.q_rank or attention.heads * (attention.nope_dim + attention.rope_dim)) + (
        attention.kv_rank + attention.rope_dim
    )
    gathered = ranks * tokens * low * element_bytes
    exchanged = tokens * attention.heads * attention.v_dim * element_bytes
    return float(
        collective_seconds("all_gather", ranks, ranks, np.array(gathered), instance.hardware)
        + collective_seconds("all_to_all", ranks, ranks, np.array(exchanged), instance.hardware)
    )
