"""Generate routing from a profile: plan the requests, then draw layer by layer, a run of tokens at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.synthesis.kernel import SCALE, draw_layer, stream_of
from moesim.synthesis.profile import PLACES, STEPS, Profile
from moesim.synthesis.requests import Plan, plan
from moesim.trace import DECODE, PREFILL, Header, RoutingTrace

Array = npt.NDArray[Any]
#: Tokens drawn at a time: the tables of a layer stay in cache, and memory stays small.
RUN = 16384
_MAX_BASE = 20.0


def runs(profile: Profile, requests: Plan, seed: int = 0, run: int = RUN) -> Iterator[tuple[Array, ...]]:
    """Draw, a run of tokens at a time.

    The numbers drawn for a token depend on the seed and the token's index alone, so that the length of the
    runs does not matter.

    Yields
    ------
    tuple
        Expert ids ``[tokens, layers, k]``, request, position and phase ``[tokens]``.
    """
    tables = _Tables(profile)
    L, E, k = profile.num_layers, profile.num_experts, profile.top_k
    dtype = np.uint8 if E <= 256 else np.uint16
    past = np.zeros((L, profile.recency.shape[1], k), dtype)
    last_kind = np.zeros((1, 1), np.uint8)
    ends = np.cumsum(requests.lengths)
    for start in range(0, requests.tokens, run):
        token = np.arange(start, min(start + run, requests.tokens))
        request = np.searchsorted(ends, token, side="right")
        position = (token - (ends - requests.lengths)[request]).astype(np.int64)
        phase = (position >= requests.prompts[request]).astype(np.int8)
        new = np.flatnonzero(np.diff(request * 2 + phase, prepend=-1))
        segment = np.repeat(np.arange(len(new)), np.diff(new, append=len(token)))
        who, when = request[new], phase[new]
        kind = np.zeros((len(token), 1), np.uint8)
        if profile.num_kinds:
            kind_base = tables.kind_of[requests.archetype[who]]
            places = (np.searchsorted(PLACES, position, side="right") - 1).astype(np.uint8)
            draw_layer(kind, places, kind_base, tables.kind_place, segment, position, tables.none,
                       tables.kind_memory, _NO_LAGS, last_kind, 1, 1,
                       stream_of(seed, L), start, kind)  # fmt: skip
        ids = np.empty((L, len(token), k), dtype)
        for layer in range(L):
            tastes = profile.archetype_scale[layer] * (requests.scores[who] @ tables.factors[:, layer])
            base = _octaves(profile.base[when, layer] + tastes, _MAX_BASE)
            coupling = tables.coupling[layer] if layer and len(tables.coupling) else tables.none
            memory = tables.memory[layer] if len(tables.memory) else tables.none
            kinds = tables.kinds[layer] if profile.num_kinds else tables.none
            draw_layer(ids[layer - 1], kind.reshape(-1), base, kinds, segment, position, coupling, memory,
                       tables.recency[layer], past[layer], profile.groups, profile.top_groups,
                       stream_of(seed, layer), start, ids[layer])  # fmt: skip
        yield ids.transpose(1, 0, 2), request.astype(np.int32), position.astype(np.int32), phase


_NO_LAGS = np.zeros(1, np.int16)


def _octaves(values: Array, limit: float) -> Array:
    return np.asarray(np.rint(np.clip(values, -limit, limit) * SCALE), np.int16)


class _Tables:
    """The tables of a profile as the kernel takes them."""

    def __init__(self, p: Profile) -> None:
        # So that no sum of rows leaves int16.
        limit = min(16.0, 200.0 / (2 * p.top_k + p.recency.shape[1] + 1))
        step = np.float32(1 / STEPS)
        self.memory = _octaves(p.memory * step, limit)
        self.coupling = _octaves(p.coupling * (step * p.coupling_scale[: len(p.coupling), None, None]), limit)
        self.kinds = _octaves(p.kinds * (step * p.kind_scale[:, None, None]), limit)
        self.kind_of, self.kind_place, self.kind_memory = (
            _octaves(a * step, 16.0) for a in (p.kind_of, p.kind_place, p.kind_memory)
        )
        self.recency = _octaves(p.recency, limit)
        self.factors = p.factors * np.float32(1 / STEPS)
        self.none = np.zeros((0, p.num_experts), np.int16)


def generate(
    profile: Profile,
    tokens: int,
    requests: int | None = None,
    phase: str | None = None,
    seed: int = 0,
    prompt_share: float = 0.5,
) -> RoutingTrace:
    """Generate a routing trace in memory.

    Parameters are those of `plan`.

    Returns
    -------
    RoutingTrace
        Exactly `tokens` tokens; every row has k distinct experts. The same arguments give the same trace.
    """
    wanted = plan(profile, tokens, requests, phase, seed, prompt_share)
    parts = list(runs(profile, wanted, seed))
    ids, request, position, kind = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return RoutingTrace(
        topk_ids=ids,
        request=request,
        num_experts=profile.num_experts,
        moe_layer_ids=profile.moe_layer_ids,
        position=position,
        phase=kind,
        model=profile.model,
        source=f"generated by moesim; statistics from {profile.source}",
        licence=profile.licence,
        warnings=_warnings(profile, wanted),
        metadata={"seed": str(seed), "synthetic": "true"},
    )


def generate_to(
    path: str | os.PathLike[str],
    profile: Profile,
    tokens: int,
    requests: int | None = None,
    phase: str | None = None,
    seed: int = 0,
    prompt_share: float = 0.5,
) -> Plan:
    """Generate into a canonical Parquet file, a run at a time; memory does not grow with `tokens`."""
    from moesim.trace import TraceWriter

    wanted = plan(profile, tokens, requests, phase, seed, prompt_share)
    header = Header(
        kind="routing_trace",
        num_experts=profile.num_experts,
        moe_layer_ids=profile.moe_layer_ids,
        top_k=profile.top_k,
        model=profile.model,
        source=f"generated by moesim; statistics from {profile.source}",
        licence=profile.licence,
        warnings=_warnings(profile, wanted),
        metadata={"seed": str(seed), "synthetic": "true"},
    )
    with TraceWriter(path, header) as writer:
        for part in runs(profile, wanted, seed):
            writer.append(*part)
    return wanted


def _warnings(profile: Profile, wanted: Plan) -> tuple[str, ...]:
    decodes, prefills = (wanted.prompts < wanted.lengths).any(), (wanted.prompts > 0).any()
    seen = {PREFILL: not decodes, DECODE: not prefills, 2: True}[profile.phase]
    unseen = () if seen else ("one of the phases was not in the profile's data: its loads are assumed",)
    return ("synthetic: no model was run", *(f"assumed: {a}" for a in profile.assumed), *unseen)
