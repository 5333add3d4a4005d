"""Layers of recorded routing on Duplex and MoNDE, batch by batch, beside uniform routing of the same shape.

Both papers leave open what routing does to them: Duplex draws experts uniformly, MoNDE uses its own models'
loads and prints averages. Here a batch is formed of recorded tokens, and every layer of it is timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape
from moesim.hardware.types import Hardware
from moesim.model.types import Model
from moesim.near.duplex import System, expert_layer, moe_of
from moesim.near.monde import Box, hot_experts, layer_seconds, split_seconds
from moesim.trace.types import RoutingTrace

Array = npt.NDArray[np.float64]


def decode_batches(trace: RoutingTrace, requests: int, batches: int, rng: np.random.Generator) -> Array:
    """Tokens of each expert when so many recorded requests decode together, ``[batches, layers, experts]``.

    A batch takes one token of each of `requests` different requests, each at a place of its own: continuous
    batching. Where fewer were recorded, some are there several times, at other places.

    Parameters
    ----------
    trace
        Tokens of several requests.
    requests, batches
        Tokens of a batch, and how many batches.
    rng
        Chooses requests and places.
    """
    order = np.argsort(trace.request, kind="stable")
    starts = np.flatnonzero(np.diff(trace.request[order], prepend=trace.request[order][:1] - 1))
    lengths = np.diff(np.append(starts, len(order)))
    rows = []
    for _ in range(batches):
        turns = -(-requests // len(starts))
        chosen = np.concatenate([rng.permutation(len(starts)) for _ in range(turns)])[:requests]
        rows.append(order[starts[chosen] + (rng.random(requests) * lengths[chosen]).astype(np.int64)])
    return counts_of(trace.topk_ids[np.stack(rows)], trace.num_experts)


def prefill_batches(trace: RoutingTrace, tokens: int, batches: int, rng: np.random.Generator) -> Array:
    """The same of runs of `tokens` tokens in the order they were recorded: chunks of prompts."""
    last = max(trace.num_tokens - tokens, 0)
    starts = rng.integers(0, last + 1, batches)
    rows = starts[:, None] + np.arange(min(tokens, trace.num_tokens))
    return counts_of(trace.topk_ids[rows], trace.num_experts)


def counts_of(ids: npt.NDArray[np.integer], experts: int) -> Array:
    """Tokens per expert of choices ``[batches, tokens, layers, top_k]``, ``[batches, layers, experts]``.

    >>> counts_of(np.array([[[[0, 2]], [[2, 1]]]]), 3).tolist()
    [[[1.0, 1.0, 2.0]]]
    """
    batches, _, layers, _ = ids.shape
    place = np.arange(batches)[:, None, None, None] * layers + np.arange(layers)[:, None]
    found = np.bincount((place * experts + ids).ravel(), minlength=batches * layers * experts)
    return found.reshape(batches, layers, experts).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class DuplexGains:
    """Layers on Duplex; arrays are ``[layers of all batches]``.

    Parameters
    ----------
    spread, cut
        Seconds of the GPUs with whole experts over those of Duplex with whole, and with cut experts.
    near_share
        Of the experts that are hit, those beside the memory, with cut experts.
    gpu_s, spread_s, cut_s
        Seconds of a layer.
    """

    spread: Array
    cut: Array
    near_share: Array
    gpu_s: Array
    spread_s: Array
    cut_s: Array


def duplex_gains(counts: Array, model: Model, hardware: Hardware, devices: int) -> DuplexGains:
    """Time layers with and without the processor beside the memory.

    Parameters
    ----------
    counts
        ``[..., experts]``.
    model
        Its experts, in 16 bits.
    hardware, devices
        As of `System`.
    """
    flat = counts.reshape(-1, counts.shape[-1])
    gpu, spread, cut = (
        expert_layer(flat, System(model, hardware, devices, mode)) for mode in ("gpu", "coprocess", "tensor")
    )
    return DuplexGains(
        gpu.seconds / spread.seconds,
        gpu.seconds / cut.seconds,
        cut.near_share,
        gpu.seconds,
        spread.seconds,
        cut.seconds,
    )


@dataclass(frozen=True, slots=True, eq=False)
class MondeGains:
    """Layers on MoNDE; arrays are ``[layers of all batches]``.

    Parameters
    ----------
    balanced, alpha, near
        Seconds of copying every expert over those with the best number of hot experts, with the paper's at
        alpha 1, and with none.
    active, hot, formula
        Experts asked for, the best number of them to copy, and the paper's at alpha 1.
    """

    balanced: Array
    alpha: Array
    near: Array
    active: Array
    hot: Array
    formula: Array


def monde_gains(counts: Array, model: Model, box: Box) -> MondeGains:
    """Time layers with experts copied, computed near the data, and shared out.

    Parameters
    ----------
    counts
        ``[..., experts]``.
    model
        Its experts, in 16 bits.
    box
        The GPU and its memory device.
    """
    moe = moe_of(model)
    shape = ExpertShape(model.hidden, moe.intermediate, moe.matrices, "bf16")
    rows = []
    for tokens in counts.reshape(-1, counts.shape[-1]):
        hot = np.sort(tokens[tokens > 0])[::-1]
        ends = split_seconds(hot, shape, box)
        move = layer_seconds(tokens, shape, box, "move")
        formula = hot_experts(len(hot), box)
        rows.append(
            (move / ends.min(), move / ends[formula], move / ends[0], len(hot), ends.argmin(), formula)
        )
    return MondeGains(*np.array(rows, dtype=np.float64).T)
