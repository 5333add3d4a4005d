"""Decode steps on a wafer, layer by layer, under one of six ways to share the work out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.cost import ExpertShape
from moesim.errors import ConfigError, Fault
from moesim.policy import taken
from moesim.trace.types import RoutingTrace
from moesim.wafer.forecast import Forecast, keep
from moesim.wafer.layer import layer_cost
from moesim.wafer.machine import Ints, Wafer, spread
from moesim.wafer.tasks import BLOCK, allocated, at_home, dealt, shared

#: ``base`` spreads every expert over all dies; ``ep`` computes experts where they lie; ``allo`` splits
#: popular ones over neighbours; ``pred`` is base with forecast copies, ``allo+pred`` both. ``blocks`` is
#: another base: blocks of tokens dealt out in turn.
POLICIES = ("base", "ep", "allo", "pred", "allo+pred", "blocks")
#: How copies are chosen: by what follows this token's experts, or by how often prompts chose an expert.
FORECASTS = ("next_token", "popular")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the steps of a replay took in all.

    Parameters
    ----------
    seconds
        All MoE layers of all steps that were counted.
    tokens
        That were decoded.
    hops, byte_hops
        Sum of the Manhattan distances of all readings from other dies, and of their bytes times distance.
    local_bytes, remote_bytes, written_bytes
        Weights read from a die's own memory, from other dies, and written as copies.
    link_share
        Part of the seconds that are of layers whose links were slower than every die.
    """

    seconds: float
    tokens: int
    hops: float
    byte_hops: float
    local_bytes: float
    remote_bytes: float
    written_bytes: float
    link_share: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens through these layers per second."""
        return self.tokens / self.seconds


def streams(trace: RoutingTrace, batch: int, steps: int) -> RoutingTrace:
    """A trace as `batch` sequences of `steps` tokens: requests are cut into pieces of equal length.

    A step of a batch takes one token of each piece. Pieces come in stored order, so that pieces of a long
    request decode side by side.

    Raises
    ------
    ConfigError
        If there are fewer pieces than that.
    """
    order = np.argsort(trace.request, kind="stable")
    _, starts, lengths = np.unique(trace.request[order], return_index=True, return_counts=True)
    pieces = lengths // steps
    first = np.repeat(starts, pieces)
    number = np.arange(len(first)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = (first + number * steps)[:batch]
    if len(begin) < batch:
        allowed = f"at most {len(begin)} sequences of {steps} tokens"
        raise ConfigError(Fault("is more than the trace holds", "batch", batch, allowed))
    return taken(trace, order[(begin[:, None] + np.arange(steps)).ravel()])


def step_counts(trace: RoutingTrace, steps: int, layers: Sequence[int] | None = None) -> Ints:
    """Tokens of each expert in each step of what `streams` made, int64 ``[steps, layers, experts]``."""
    places = np.arange(len(trace.moe_layer_ids)) if layers is None else np.asarray(layers)
    ids = trace.topk_ids[:, places].astype(np.int64)
    step = np.arange(len(ids)) % steps
    cell = (step[:, None] * len(places) + np.arange(len(places)))[:, :, None] * trace.num_experts + ids
    size = steps * len(places) * trace.num_experts
    return np.bincount(cell.ravel(), minlength=size).reshape(steps, len(places), trace.num_experts)


def replay(
    wafer: Wafer,
    shape: ExpertShape,
    counts: Ints,
    top_k: int,
    policy: str,
    *,
    rows: int = 128,
    block: int = BLOCK,
    forecast: Forecast | None = None,
    predict: str = "next_token",
    candidates: int = 8,
    slots: int = 0,
    warm: int = 0,
    own_turns: bool = True,
    exchange: bool = False,
) -> Outcome:
    """Seconds, bytes and hops of decode steps.

    Parameters
    ----------
    wafer, shape
        The machine and one expert.
    counts
        Tokens of each expert, ``[steps, layers, experts]``.
    top_k
        Experts per token.
    policy
        One of `POLICIES`.
    rows
        Tokens of a block, of ``blocks``.
    block
        Tokens that are allocated at a time.
    forecast
        What copies are chosen by, learnt from other requests; those with ``pred`` need it.
    predict
        One of `FORECASTS`.
    candidates
        Likeliest experts of the next token, of each expert of this one (the paper's n).
    slots
        Copies that a die has room for, per layer.
    warm
        Steps that are replayed before anything is counted.
    own_turns
        As of `layer_cost`, with ``base`` and ``pred``.
    exchange
        Whether tokens travel to their experts over the mesh too.

    Raises
    ------
    ConfigError
        For a policy that does not exist or lacks its forecast.
    """
    faults = []
    if policy not in POLICIES:
        faults.append(Fault("is no policy", "policy", policy, ", ".join(POLICIES)))
    if predict not in FORECASTS:
        faults.append(Fault("is no forecast", "predict", predict, ", ".join(FORECASTS)))
    if policy.endswith("pred") and forecast is None:
        faults.append(Fault("needs a forecast, learnt from other requests", "policy", policy))
    if not 0 <= warm < len(counts):
        faults.append(Fault("is out of range", "warm", warm, f"0 to {len(counts) - 1}"))
    if faults:
        raise ConfigError(faults)
    steps, layers, experts = counts.shape
    owner = spread(experts, wafer.dies)
    copies = np.zeros((layers, experts, wafer.dies), bool)
    here = owner[:, None] == np.arange(wafer.dies)
    expects = np.zeros(0)
    if forecast is not None and policy.endswith("pred"):
        expects = forecast.follow * forecast.top(candidates)
    in_order = policy in ("base", "pred")
    seconds = hops = byte_hops = local = remote = written = linked = 0.0
    for step in range(steps):
        for layer in range(layers):
            load = counts[step, layer].astype(np.float64)
            if policy == "ep":
                work = at_home(load, owner, wafer.dies)
            elif policy == "blocks":
                work = dealt(load, wafer.dies, rows)
            elif policy.startswith("allo"):
                work = allocated(wafer, shape, load, owner, copies[layer], block)
            else:
                work = shared(load, wafer.dies)
            before, new = copies[layer].copy(), np.zeros(here.shape, bool)
            if policy.endswith("pred") and forecast is not None:
                if predict == "next_token":
                    score = expects[layer].T @ work.tokens
                else:
                    score = np.repeat(forecast.popular[layer][:, None], wafer.dies, axis=1)
                copies[layer] = keep(before, (work.reads > 0) & ~here & ~before, score, slots)
                new = copies[layer] & ~before
            if step < warm:
                continue
            cost = layer_cost(
                wafer,
                shape,
                work,
                owner,
                before,
                written=new,
                in_order=in_order,
                own_turns=own_turns,
                exchange=exchange,
            )
            seconds += cost.seconds
            hops += cost.hops
            byte_hops += cost.byte_hops
            local += cost.local_bytes
            remote += cost.remote_bytes
            written += cost.written_bytes
            linked += cost.seconds * cost.linked
    tokens = int(counts[warm:, 0].sum()) // top_k
    return Outcome(seconds, tokens, hops, byte_hops, local, remote, written, linked / seconds)
