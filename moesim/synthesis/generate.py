"""Generate routing from a profile: plan the requests, then draw layer by layer, a run of tokens at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.synthesis.kernel import SCALE, draw_layer, stream_of
from moesim.synthesis.profile import PLACES, STEPS, Profile
from moesim.trace import DECODE, PREFILL, Header, RoutingTrace

Array = npt.NDArray[Any]
#: Tokens drawn at a time: the tables of a layer stay in cache, and memory stays small.
RUN = 16384
PHASES = ("prefill", "decode", "both")
_JITTER = 0.3
_MAX_BASE = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The requests to generate.

    Parameters
    ----------
    lengths, prompts
        Tokens of each request, and how many of them are prefill, int64 ``[requests]``.
    archetype
        Of each request.
    scores
        float32 ``[requests, F]``.
    """

    lengths: Array
    prompts: Array
    archetype: Array
    scores: Array

    @property
    def tokens(self) -> int:
        """Tokens of all requests."""
        return int(self.lengths.sum())


def plan(
    profile: Profile,
    tokens: int,
    requests: int | None = None,
    phase: str | None = None,
    seed: int = 0,
    prompt_share: float = 0.5,
) -> Plan:
    """Choose archetypes and lengths of requests.

    Archetypes come in proportion to their shares, as evenly as whole numbers allow; lengths are those of the
    archetypes, stretched to fit `tokens`.

    Parameters
    ----------
    profile
        What to imitate.
    tokens
        Tokens in total.
    requests
        Requests; None for as many as make them as long as those of the profile.
    phase
        ``prefill``, ``decode`` or ``both``; None for what the profile was fitted to.
    seed
        Seed.
    prompt_share
        With ``both``, the share of each request that is prefill.

    Raises
    ------
    ConfigError
        Naming every option that is out of range.
    """
    phase = ("prefill", "decode", "both")[profile.phase] if phase is None else phase
    faults = []
    if tokens < 1 or tokens >= 2**31:
        faults.append(Fault("is out of range", "--tokens", tokens, "1 to 2**31 - 1"))
    if requests is not None and not 1 <= requests <= max(tokens, 1):
        faults.append(Fault("is out of range", "--requests", requests, "1 to the number of tokens"))
    if phase not in PHASES:
        faults.append(Fault("is no phase", "--phase", phase, ", ".join(PHASES)))
    if not 0 <= seed < 2**63:
        faults.append(Fault("is out of range", "--seed", seed, "0 to 2**63 - 1"))
    if faults:
        raise ConfigError(faults)
    mean = float((profile.share * profile.lengths).sum())
    R = requests if requests is not None else max(1, round(tokens / mean))
    rng = np.random.default_rng(seed)
    marks = (rng.random() + np.arange(R)) / R
    archetype = np.minimum(np.searchsorted(np.cumsum(profile.share), marks), len(profile.share) - 1)
    archetype = rng.permutation(archetype)
    noise = rng.standard_normal((R, profile.scores.shape[1])).astype(np.float32)
    scores = np.sqrt(1 - _JITTER**2) * profile.scores[archetype] + _JITTER * noise
    lengths = _stretch(profile.lengths[archetype], tokens)
    share = {"prefill": 1.0, "decode": 0.0, "both": prompt_share}[phase]
    prompts = np.minimum(np.ceil(lengths * share), lengths).astype(np.int64)
    return Plan(lengths, prompts, archetype, scores.astype(np.float32))


def _stretch(lengths: Array, tokens: int) -> Array:
    """Whole numbers of at least 1 in proportion to `lengths`, with the sum `tokens`.

    >>> _stretch(np.array([1, 1, 4]), 12).tolist()
    [2, 2, 8]
    """
    spare = tokens - len(lengths)
    ends = np.floor(np.cumsum(lengths) / lengths.sum() * spare + 1e-9)
    return np.diff(ends, prepend=0).astype(np.int64) + 1


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
                       tables.kind_memory, _NO_LAGS, last_kind, 1, 1, stream_of(seed, L), start, kind)  # fmt: skip
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
    return np.rint(np.clip(values, -limit, limit) * SCALE).astype(np.int16)


class _Tables:
    """The tables of a profile as the kernel takes them."""

    def __init__(self, p: Profile) -> None:
        # So that no sum of rows leaves int16.
        limit = min(16.0, 200.0 / (2 * p.top_k + p.recency.shape[1] + 1))
        scale = p.coupling_scale[:, None, None] if len(p.coupling) else 1.0
        self.coupling = _octaves(p.coupling * (np.float32(1 / STEPS) * scale), limit)
        self.memory, self.kinds = (_octaves(a * np.float32(1 / STEPS), limit) for a in (p.memory, p.kinds))
        self.kind_of, self.kind_place, self.kind_memory = (
            _octaves(a * np.float32(1 / STEPS), 16.0) for a in (p.kind_of, p.kind_place, p.kind_memory)
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
