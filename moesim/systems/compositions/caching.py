"""Systems that cache experts and fetch what they guess."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from moesim.policy import Composition, Executor, Gate, Residency, Transfer
from moesim.policy.gates import AdapMoE, EqualWeights, by_depth
from moesim.policy.placements import AdapMoEQuota, DemandQuota
from moesim.policy.predictors import (
    ActivationMatrices,
    ExpertMaps,
    NextGate,
    NoisyOracle,
    WholeLayers,
    oracle,
    path_oracle,
)
from moesim.policy.published import ADAPMOE_NEXT_GATE, ADAPMOE_SINGLE
from moesim.policy.slots import AsRouted
from moesim.systems.compositions.types import Asked, Shape, System

_MEASURED = "mean over layers 2 to 32 of Mixtral in AdapMoE's dp.py; other models differ"


def _weighed(shape: Shape, ask: Asked) -> Gate:
    """For residency rules that read router weights."""
    if shape.weights:
        return AsRouted()
    ask.without("router weights: a token's experts count alike")
    return EqualWeights()


def _recall(ask: Asked) -> float:
    """How often the next layer's gate, applied a layer early, names an expert that is then chosen."""
    ask.without("the next layer's gate on this layer's hidden state: an oracle of stated recall stands in")
    return ask.take("next_gate_recall", fmean(ADAPMOE_NEXT_GATE), 0.7, 0.97, _MEASURED)


def _early_gates(shape: Shape, ask: Asked, horizon: int) -> NoisyOracle:
    """Gates of several later layers applied early."""
    recall = _recall(ask)
    decay = ask.take("recall_decay", 0.95, 0.85, 1.0, "recall of each further layer over the one before")
    return NoisyOracle(recall, recall, min(horizon, max(shape.layers - 1, 1)), decay)


def _on_demand(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(residency=Residency("static", lookup="token_batch"))


def _lru(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(residency=Residency("lru", lookup="token_batch"))


def _belady(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(residency=Residency("belady", pool="global", lookup="token_batch"))


def _mixtral_offloading(shape: Shape, ask: Asked) -> Composition:
    width = int(ask.take("speculative_experts", 2, 1, max(shape.top_k, 2), "the paper loads 1 or 2"))
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        predictor=NextGate(width, _recall(ask)),
        transfer=Transfer(width=width, write_back=True),
    )


def _mixtral_offloading_code(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(residency=Residency("lru", lookup="token_batch"), transfer=Transfer(write_back=True))


def _moe_infinity(shape: Shape, ask: Asked) -> Composition:
    ask.without("clusters of the activation matrices: evenly spread requests of the training trace are kept")
    reach = max(shape.layers - 1, 1)
    return Composition(
        residency=Residency("eam", pool="global", lookup="token_batch"),
        predictor=ActivationMatrices(shape.experts, reach, "paper"),
        transfer=Transfer(width=shape.experts, distance=reach, order="score"),
    )


def _moe_infinity_code(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    # Prefetching is off by default, and its calls are commented out for most models; on demand the expert of
    # the fewest visits leaves, over all layers, and its count is not reset.
    residency = Residency("lfu", pool="global", lookup="token_batch", parameters={"keep": 1.0})
    return Composition(residency=residency)


def _fmoe(variant: str, shape: Shape, ask: Asked) -> Composition:
    ask.without("probabilities of experts that were not chosen: zero in the maps")
    ask.without("probabilities of experts to come in the victims' key: the last router weight stands for p")
    ask.without("an embedding per token: the first layers have no guess, and the store goes by paths alone")
    most = max(shape.layers - 1, 1)
    why = "6 in the released demo for Qwen1.5-MoE; tuned by model and box"
    ahead = int(ask.take("prefetch_distance", min(6, most), 1, min(8, most), why))
    far = ahead if variant == "paper" else most
    # The code counts anew after each load and cuts the product to a whole number.
    counted = {"keep": 1.0} if variant == "paper" else {"truncate": 1.0}
    return Composition(
        gate=_weighed(shape, ask),
        residency=Residency("p-freq", pool="global", lookup="token_batch", parameters=counted),
        predictor=ExpertMaps(shape.experts, ahead, far, variant),
        transfer=Transfer(width=shape.experts, distance=far, order="score"),
    )


def _fmoe_paper(shape: Shape, ask: Asked) -> Composition:
    return _fmoe("paper", shape, ask)


def _fmoe_code(shape: Shape, ask: Asked) -> Composition:
    return _fmoe("code", shape, ask)


def _hybrimoe(shape: Shape, ask: Asked) -> Composition:
    ask.without("the gain of each prefetch over the next three layers: fetched in order of the gates' scores")
    return Composition(
        gate=_weighed(shape, ask),
        residency=Residency("mrs", lookup="token_batch", start="first", parameters={"alpha": 0.5}),
        predictor=_early_gates(shape, ask, 3),
        transfer=Transfer(width=shape.top_k, distance=3, order="near"),
        executor=Executor("three-clock"),
    )


def _hybrimoe_code(shape: Shape, ask: Asked) -> Composition:
    # prefetch_size is 0 by default: nothing is fetched ahead.
    return Composition(
        gate=_weighed(shape, ask),
        residency=Residency("mrs", lookup="token_batch", start="first", parameters={"alpha": 0.5}),
        executor=Executor("three-clock-code"),
    )


def _adapmoe_gate(shape: Shape, ask: Asked, released: bool) -> Gate:
    if not shape.weights:
        ask.without("router weights: the gate keeps all experts")
        return AsRouted()
    if shape.layers != 32:
        ask.without("the model's sensitivities: Mixtral's, stretched by relative depth")
    return AdapMoE(released=released)


def _adapmoe_quota(shape: Shape) -> AdapMoEQuota:
    """Slots of each layer by the published accuracies, and by the gate's effect where there is one."""
    accuracy = by_depth((0.0, *ADAPMOE_NEXT_GATE), shape.layers)
    single = by_depth(ADAPMOE_SINGLE, shape.layers) if shape.weights else np.zeros(1)
    return AdapMoEQuota(tuple(single.tolist()), tuple(accuracy.tolist()))


def _adapmoe(shape: Shape, ask: Asked) -> Composition:
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        gate=_adapmoe_gate(shape, ask, released=False),
        predictor=NextGate(shape.top_k, _recall(ask)),
        transfer=Transfer(width=shape.top_k),
        placement=_adapmoe_quota(shape),
    )


def _adapmoe_code(shape: Shape, ask: Asked) -> Composition:
    # The call that fetches ahead is commented out, and a token left with one expert goes to expert 0.
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        gate=_adapmoe_gate(shape, ask, released=True),
        placement=_adapmoe_quota(shape),
    )


def _expertflow(shape: Shape, ask: Asked) -> Composition:
    ask.without("the routing path predictor: an oracle with a stated part of wrong experts stands in")
    wrong = ask.take("wrong_paths", 0.1, 0.05, 0.2, "over 90 % right in its domain, by ExpertFlow")
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        placement=DemandQuota(),
        predictor=path_oracle(wrong, shape.layers),
        transfer=Transfer(width=shape.experts, distance=shape.layers, order="near", preemptible=True),
    )


def _pre_gated(shape: Shape, ask: Asked) -> Composition:
    ask.without("a model trained with pre-gates: the same routing known one layer ahead")
    return Composition(
        residency=Residency("lru", lookup="token_batch"),
        predictor=oracle(1, wrap=False),
        transfer=Transfer(width=shape.experts),
    )


def _se_moe(shape: Shape, ask: Asked) -> Composition:
    # Of K layer slots one runs, and K - 1 are full or filling.
    ring = max(min(shape.slots // shape.experts, shape.layers) - 1, 1)
    if shape.slots < 2 * shape.experts:
        ask.without("memory for two whole layers: the ring does not turn, most loads are for nothing")
    return Composition(
        residency=Residency("fifo", pool="global", lookup="token_batch"),
        predictor=WholeLayers(ring),
        transfer=Transfer(width=shape.experts, distance=ring, order="near"),
    )


def _towards(shape: Shape, ask: Asked) -> Composition:  # noqa: ARG001
    return Composition(residency=Residency("lifo", lookup="token_batch"))


def _read_me(shape: Shape, ask: Asked) -> Composition:
    ask.without("a router that runs before the model: the trace's own routing known in full")
    return Composition(
        residency=Residency("belady", lookup="token_batch"),
        predictor=oracle(shape.layers),
        transfer=Transfer(width=shape.experts, distance=shape.layers, order="near"),
    )


SYSTEMS = (
    System("on-demand", "no cache: each expert is loaded when it is asked for", _on_demand, cached=False),
    System("lru", "least recently used per layer, on demand", _lru),
    System("belady-oracle", "the future known: what is used last leaves, on demand, one pool", _belady),
    System(
        "mixtral-offloading",
        "LRU per layer with write-back; next gate, width 2",
        _mixtral_offloading,
        _mixtral_offloading_code,
    ),
    System(
        "moe-infinity",
        "activation matrices over all layers; one pool, its own matrix orders victims",
        _moe_infinity,
        _moe_infinity_code,
        learns=True,
    ),
    System(
        "fmoe", "expert maps at distance d; one pool, least p x frequency leaves", _fmoe_paper, _fmoe_code,
        learns=True,
    ),
    System(
        "hybrimoe",
        "recent scores per layer; gates of three layers; GPU, CPU and link by earliest finish",
        _hybrimoe,
        _hybrimoe_code,
    ),
    System("adapmoe", "sensitivity gate; next gate; LRU, slots by DP", _adapmoe, _adapmoe_code, True),
    System("expertflow", "routing paths before the step; LRU, slots by demand", _expertflow, learns=True),
    System("pre-gated", "exact routing one layer ahead; LRU per layer", _pre_gated),
    System("se-moe", "ring of whole layers", _se_moe),
    System("towards-moe-deployment", "inactive experts leave, the last that came first", _towards),
    System("read-me", "routing known in full; Belady per layer", _read_me),
)  # fmt: skip
