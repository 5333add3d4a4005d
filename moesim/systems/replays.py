"""Replays with time that rows share: routing with router weights, and times of one composition."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moesim.hardware import load_hardware
from moesim.model import load_model
from moesim.offload import Box, Timed, run
from moesim.policy import Composition, Residency, Transfer
from moesim.policy.predictors import ActivationMatrices
from moesim.synthesis import generate
from moesim.synthesis.design import Shape, design
from moesim.systems.row import Assumption, Case
from moesim.systems.traces import halves, routing
from moesim.trace.types import RoutingTrace

#: Mean gap between the logits of a token's two experts: with it HOBBIT's thresholds keep 34 % of second
#: experts in high and 55 % in low precision and skip 11 %; on Mixtral they keep 34 and 60 % and skip 6 %.
GAP = 1.0

#: Tokens that a row replays, half of them to learn from.
TOKENS = 600
#: What a row's routing is, where it comes from the profile of Mixtral.
MIXTRAL = (
    "drawn from the profile mixtral (loads of three layers measured, persistence assumed); weights drawn"
)
LINK = Assumption(
    "link", 1.0, 0.5, 1.1, "of the host link's rate: copies of small or unpinned tensors reach less"
)
LRU = Residency("lru", lookup="token_batch")
GLOBAL_LFU = Residency("lfu", pool="global", lookup="token_batch")


def infinity(experts: int, layers: int) -> Composition:
    """MoE-Infinity: every expert that the nearest stored activation matrix names, over all layers."""
    reach = max(layers - 1, 1)
    return Composition(
        residency=GLOBAL_LFU,
        predictor=ActivationMatrices(experts, reach, "paper"),
        transfer=Transfer(width=experts, distance=reach, order="score"),
    )


def everything(trace: RoutingTrace) -> RoutingTrace:
    """The same tokens as if each needed all experts: what a system moves that fetches whole layers."""
    shape = (*trace.topk_ids.shape[:2], trace.num_experts)
    ids = np.broadcast_to(np.arange(trace.num_experts, dtype=trace.topk_ids.dtype), shape)
    return replace(trace, topk_ids=np.ascontiguousarray(ids), topk_weights=None)


def mixtral(case: Case) -> RoutingTrace:
    """The trace that was given, or one of the profile of Mixtral; with router weights."""
    return with_weights(shaped(case, "mixtral", "mixtral-8x7b", TOKENS), seed=case.seed)


def with_weights(trace: RoutingTrace, gap: float = GAP, seed: int = 0) -> RoutingTrace:
    """The trace with router weights: those it has, or a softmax of logits with exponential gaps.

    The gap behind the i-th expert of a token has the mean ``2 gap / (i + 1)``, as gaps of order statistics
    shrink.
    """
    if trace.topk_weights is not None:
        return trace
    rng = np.random.default_rng(seed)
    shape = trace.topk_ids.shape
    rank = np.arange(1, shape[2])
    gaps = rng.exponential(1.0, (*shape[:2], shape[2] - 1)) * (2.0 * gap / (rank + 1))
    logits = np.concatenate((np.zeros((*shape[:2], 1)), -np.cumsum(gaps, axis=2)), axis=2)
    weights = np.exp(logits)
    weights /= weights.sum(axis=2, keepdims=True)
    # Which of the chosen experts comes first is not known: any order is as good.
    order = rng.permuted(np.broadcast_to(np.arange(shape[2]), shape), axis=2)
    return replace(trace, topk_weights=np.take_along_axis(weights, order, axis=2).astype(np.float16))


@functools.lru_cache(maxsize=4)
def designed(model: str, tokens: int, requests: int, phase: str | None, seed: int) -> RoutingTrace:
    """Routing of the shape of a model, with the traits that real models of its size have."""
    found = load_model(model)
    moe = found.moe
    assert moe is not None
    profile, _ = design(
        Shape(found.moe_layer_ids, moe.num_experts, moe.top_k, model=model), rounds=4, seed=seed
    )
    return generate(profile, tokens, requests, phase, seed)


def shaped(case: Case, profile: str, model: str, tokens: int, phase: str | None = "decode") -> RoutingTrace:
    """The trace that was given, one of a profile, or, without a profile, one designed for the model."""
    requests = max(tokens // 150, 4)
    if case.trace is not None or profile:
        return routing(case, profile, tokens, requests, phase)
    return designed(model, tokens, requests, phase, case.seed)


def timed(
    case: Case,
    composition: Composition,
    trace: RoutingTrace,
    box: Box,
    slots: int | None = None,
    spares: int = 2,
) -> Timed:
    """The second half of the requests, with tables from the first."""
    train, rest = halves(trace, case.seed)
    learns = any((composition.predictor, composition.precision, composition.placement))
    learnt = train if learns or composition.residency.start == "popular" else None
    return run(composition, rest, box, train=learnt, slots=slots, seed=case.seed, spares=spares)


def tpot_s(
    case: Case,
    composition: Composition,
    trace: RoutingTrace,
    box: Box,
    slots: int | None = None,
    spares: int = 2,
) -> float:
    """Seconds per token of `timed`."""
    found = timed(case, composition, trace, box, slots, spares).tpot_s
    assert found is not None
    return found


def launch_for(target_s: float, seconds: Callable[[float], float], most: float = 5e-3) -> float:
    """Host seconds per kernel with which something takes so long: a baseline that is an input.

    Zero where it takes longer without, and `most` where it never does.
    """
    low, high = 0.0, most
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) < target_s else (low, middle)
    return (low + high) / 2


def box_of(
    hardware: str,
    model: str,
    *,
    dtype: str = "auto",
    expert_dtypes: tuple[str | float, ...] = (),
    backing: str = "host",
    launch_s: float = 0.0,
    link: float = 1.0,
    cpu: float = 1.0,
    gpu_bytes: float | None = None,
) -> Box:
    """A box of the catalogue for a model, with a part of its link, and its CPU's peaks times `cpu`."""
    found = load_hardware(hardware)
    if found.host is not None and cpu != 1.0:
        host = found.host
        peaks = {name: peak * cpu for name, peak in host.processor.peak_flops_per_s.items()}
        processor = replace(host.processor, peak_flops_per_s=peaks)
        found = replace(found, host=replace(host, processor=processor))
    if found.host_link is not None and link != 1.0:
        faster = replace(found.host_link, bandwidth_bytes_per_s=found.host_link.bandwidth_bytes_per_s * link)
        found = replace(found, host_link=faster)
    return Box.of(
        found,
        load_model(model),
        dtype=dtype,
        expert_dtypes=expert_dtypes,
        backing=backing,
        launch_s=launch_s,
        gpu_bytes=gpu_bytes,
    )
