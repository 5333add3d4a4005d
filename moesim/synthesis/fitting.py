"""Fit a profile to a routing trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import Fault, TraceError
from moesim.synthesis.calibrate import Aim, calibrate
from moesim.synthesis.kinds import MAX_KINDS, default_kinds, find_kinds
from moesim.synthesis.moments import moments
from moesim.synthesis.profile import PLACES, STEPS, Profile
from moesim.synthesis.requests import Plan
from moesim.synthesis.solve import Block, one_hot, solve
from moesim.trace import RoutingTrace

Array = npt.NDArray[Any]
_LAGS = 4
_FACTORS = 64
_MAX_ARCHETYPES = 512
_OCTAVE = np.float32(1 / np.log(2))
# Ridge penalties. Tables between experts would learn a small trace by heart; kinds and requests are what a
# token's surroundings are for, and may explain first.
_CHAIN_STEPS = 400
_RIDGE = {"chain": 0.03, "kinds": 0.3, "request": 0.1, "table": 8.0}
#: Spread (in octaves) of the loads of a phase that was not seen; gives a total variation of about 0.11, which
#: is what public DeepSeek-V3 loads show between prefill and decode of one workload.
PHASE_SPREAD = 0.4


def fit(
    trace: RoutingTrace,
    *,
    kinds: int | None = None,
    steps: int = 150,
    rounds: int = 14,
    seed: int = 0,
) -> Profile:
    """Fit a profile.

    Kinds of tokens come from k-means on whole routing paths. Then, layer by layer, the log weights of
    `Profile` are fitted by penalised maximum likelihood (`moesim.synthesis.solve`), the tastes of requests
    are reduced to a few factors, and the strengths are corrected by simulated moments
    (`moesim.synthesis.calibrate`).

    Parameters
    ----------
    trace
        What to imitate. Its requests must lie one after the other.
    kinds
        Kinds of tokens, at most 256; None for one per 16 tokens.
    steps
        Minibatches of 2,048 tokens per layer.
    rounds
        Rounds of calibration.
    seed
        Of k-means, minibatches and calibration.

    Raises
    ------
    TraceError
        If there is too little to fit, or requests are interleaved.
    """
    ids, E, k = trace.topk_ids, trace.num_experts, trace.top_k
    T, L, _ = ids.shape
    starts = np.flatnonzero(np.diff(trace.request, prepend=-1))
    faults = []
    if T < 64:
        faults.append(Fault("is too short to fit", "tokens", T, "at least 64"))
    if len(starts) != len(np.unique(trace.request)):
        faults.append(Fault("are interleaved; sort the trace by request", "requests"))
    if kinds is not None and not 0 <= kinds <= MAX_KINDS:
        faults.append(Fault("is out of range", "kinds", kinds, f"0 to {MAX_KINDS}"))
    if faults:
        raise TraceError(faults, trace.source)
    lengths = np.diff(starts, append=T)
    request = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(T) - np.repeat(starts, lengths)
    C = default_kinds(T) if kinds is None else kinds
    kind = find_kinds(ids, E, max(C, 1), seed)
    R = len(lengths)
    kept = np.sort(np.random.default_rng(seed).permutation(R)[:_MAX_ARCHETYPES])
    of_kinds = _fit_kinds(kind, C, request, position, R, seed)
    fitted = [
        _fit_layer(ids, i, E, kind, C, request, position, trace.phase, R, steps, seed) for i in range(L)
    ]
    scores, factors, mean = _factors(np.stack([f["request"] for f in fitted], axis=1), kept)
    seen = set(np.unique(trace.phase).tolist())
    base = np.stack([f["base"] + f["phase"] for f in fitted], axis=1) * _OCTAVE + mean[None]
    if len(seen) == 1:
        noise = np.random.default_rng(seed).standard_normal((L, E)) * PHASE_SPREAD
        (here,) = seen
        base[1 - here] = base[here] + noise
    profile = Profile(
        model=trace.model,
        num_experts=E,
        top_k=k,
        moe_layer_ids=trace.moe_layer_ids,
        base=base.astype(np.float32),
        scores=scores,
        factors=factors,
        share=np.full(len(kept), 1 / len(kept), np.float32),
        lengths=lengths[kept].astype(np.int32),
        archetype_scale=np.ones(L, np.float32),
        coupling_scale=np.ones(L, np.float32),
        kind_scale=np.ones(L, np.float32),
        kinds=_steps(np.stack([f["kinds"][:C] for f in fitted])),
        kind_of=_steps(of_kinds["request"][kept] + of_kinds["base"]) if C else np.zeros((0, 0), np.int8),
        kind_place=_steps(of_kinds["place"]) if C else np.zeros((0, 0), np.int8),
        kind_memory=_steps(of_kinds["memory"][:C]) if C else np.zeros((0, 0), np.int8),
        coupling=_steps(np.stack([f["coupling"] for f in fitted])),
        memory=_steps(np.stack([f["memory"][:E] for f in fitted])),
        recency=np.stack([f["recency"] for f in fitted]).astype(np.float32) * _OCTAVE,
        phase=2 if len(seen) == 2 else seen.pop(),
        source=trace.source,
        licence=trace.licence,
    )
    if rounds == 0:
        return profile
    prompts = np.array([(trace.phase[s : s + n] == 0).sum() for s, n in zip(starts, lengths, strict=True)])
    own = np.searchsorted(kept, np.arange(R)).clip(max=len(kept) - 1)
    layouts = Plan(lengths, prompts, own, scores[own])
    aim = Aim.of(moments(ids, position, E, seed))
    return calibrate(profile, aim, layouts, rounds=rounds, seed=seed)[0]


def _fit_kinds(kind: Array, C: int, request: Array, position: Array, R: int, seed: int) -> dict[str, Array]:
    if not C:
        return {}
    place = np.searchsorted(PLACES, position, side="right") - 1
    before = np.where(position > 0, np.roll(kind, 1), C)
    blocks = [
        Block("request", request[:, None], R, _RIDGE["chain"]),
        Block("place", place[:, None], len(PLACES), _RIDGE["chain"]),
        Block("memory", before[:, None], C + 1, _RIDGE["chain"]),
    ]
    return solve(blocks, one_hot(kind[:, None], C), [], 1, steps=_CHAIN_STEPS, seed=seed)[0]


def _fit_layer(
    ids: Array, layer: int, E: int, kind: Array, C: int, request: Array, position: Array, phase: Array,
    R: int, steps: int, seed: int,
) -> dict[str, Array]:  # fmt: skip
    k = ids.shape[2]
    chosen = one_hot(ids[:, layer], E)
    before = np.roll(ids[:, layer].astype(np.int64), 1, axis=0)
    before[position == 0] = E
    blocks = [
        Block("kinds", kind[:, None], max(C, 1), _RIDGE["kinds"]),
        Block("request", request[:, None], R, _RIDGE["request"]),
        Block("phase", phase[:, None].astype(np.int64), 2, _RIDGE["request"]),
        Block("memory", before, E + 1, _RIDGE["table"]),
    ]
    if layer:
        blocks.append(Block("coupling", ids[:, layer - 1].astype(np.int64), E, _RIDGE["table"]))
    lagged = []
    for m in range(2, _LAGS + 1):
        held = np.roll(chosen, m, axis=0)
        held[position < m] = False
        lagged.append(held)
    weights, recency = solve(blocks, chosen, lagged, k, steps=steps, seed=seed + layer)
    weights.setdefault("coupling", np.zeros((E, E), np.float32))
    return weights | {"recency": np.concatenate([[0.0], recency])}


def _factors(tastes: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Scores and factors of the requests' tastes ``[R, layers, E]``, and their mean, in octaves."""
    tastes = tastes[kept] * _OCTAVE
    mean = tastes.mean(axis=0)
    flat = (tastes - mean).reshape(len(tastes), -1)
    left, sizes, right = np.linalg.svd(flat, full_matrices=False)
    count = min(_FACTORS, max(len(kept) - 1, 1))
    root = np.sqrt(len(kept))
    scores = (left[:, :count] * root).astype(np.float32)
    factors = (right[:count] * (sizes[:count, None] / root)).reshape(count, *tastes.shape[1:])
    return scores, np.rint(np.clip(factors * STEPS, -127, 127)).astype(np.int8), mean


def _steps(natural: Array) -> Array:
    return np.asarray(np.rint(np.clip(natural * (_OCTAVE * STEPS), -127, 127)), np.int8)
