"""Tables of step times from a deployment, and how far they are from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.engine.deployment import Deployment
from moesim.engine.step import StepTimes
from moesim.ops import Batch
from moesim.serving.kernel.price import Prices
from moesim.serving.settings import Scheduler

F8 = npt.NDArray[np.float64]

#: Ratio of neighbouring points of the grids.
STEP = 2.0**0.25
_HEADS = ("lm_head", "sampling")
_EXPERTS = ("experts", "dispatch", "combine")
_DECODE = ("q_absorb", "v_absorb")
_PREFILL = ("kv_b_proj",)


def constant_prices(step_s: float) -> Prices:
    """Every step takes the same time: for the theory of queues."""
    one, flat = np.ones(1), np.zeros(1)
    return Prices(
        one, np.full((2, 1), step_s), one, np.zeros((1, 2, 1)), one, one, np.zeros((1, 1)), one, one,
        np.zeros((1, 1)), one, flat, flat, np.zeros(2), np.zeros(0, np.int64), np.zeros(1), np.zeros(1),
    )  # fmt: skip


def prices_of(deployment: Deployment, budget: int, most: int, longest: int, scheduler: Scheduler) -> Prices:
    """Tables for steps of at most `budget` tokens and `most` sequences of at most `longest` tokens."""
    lanes = deployment.layout.dp
    tokens, sequences = _grid(budget), _grid(most)
    everyone = _grid(budget * lanes)
    context, past = _grid(longest), np.concatenate([[0.0], _grid(longest)])
    chunks = _grid(min(budget, longest))
    decode = [deployment.step(Batch.decode(tokens, 1.0)), deployment.step(Batch.prefill(1.0, tokens))]
    alone = [
        deployment.step(Batch.decode(everyone / lanes, 1.0)),
        deployment.step(Batch.prefill(1.0, everyone / lanes)),
    ]
    s, c = np.meshgrid(sequences, context, indexing="ij")
    p, q = np.meshgrid(chunks, past, indexing="ij")
    attend = deployment.step(Batch.decode(s.ravel(), c.ravel()))
    read = deployment.step(Batch.prefill(1.0, p.ravel(), q.ravel()))
    heads = deployment.step(Batch.decode(sequences, 1.0))
    draft = np.zeros(len(sequences))
    return Prices(
        tokens,
        np.array([_part(d, "dense") for d in decode]),
        everyone,
        np.array([[_part(d, "experts") for d in alone]]),
        sequences,
        context,
        _part(attend, "decode").reshape(s.shape),
        chunks,
        past,
        _part(read, "prefill").reshape(p.shape),
        sequences,
        _part(heads, "heads"),
        draft,
        np.array([deployment.traits.host_s, float(scheduler.asynchronous)]),
        np.zeros(0, np.int64),
        np.zeros(1),
        np.zeros(1),
    )


def _grid(most: float) -> F8:
    small = np.arange(1.0, 9.0)
    return np.concatenate(
        [small, np.exp(np.arange(np.log(8.0), np.log(max(most, 9.0)), np.log(STEP)))[1:], [max(most, 9.0)]]
    )


def _part(times: StepTimes, name: str) -> F8:
    total = np.zeros(len(times.seconds))
    for entry in times.entries():
        if _part_of(entry.op, times) == name:
            total = total + entry.seconds
    return total


def _part_of(op: str, times: StepTimes) -> str:
    if op in _HEADS:
        return "heads"
    if op in _EXPERTS:
        return "experts"
    if op == "attention":
        return (
            "prefill"
            if bool((times.work.table.batches and times.ops is not None) and _reads(times))
            else "decode"
        )
    if op in _DECODE:
        return "decode"
    if op in _PREFILL:
        return "prefill"
    return "none" if op in ("host", "launches") else "dense"


def _reads(times: StepTimes) -> bool:
    return any(op.kind == "attention_prefill" for op, _ in times.work.table.ops) and not any(
        op.kind == "attention_decode" and np.any(np.asarray(op.flops) > 0) for op, _ in times.work.table.ops
    )
