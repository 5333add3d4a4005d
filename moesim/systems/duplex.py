"""Duplex (arXiv:2409.01141): accelerators whose memory computes too, as its authors simulate them.

Bare rooflines on both processors. A stage decodes a token of every request; a part of the stages also takes
in one prompt. Work outside experts is split over the devices. Experts are chosen uniformly, as in the paper.

* ``gpu``: everything on the main processor.
* ``duplex``: decode attention on the PIM; a layer's experts wherever they take less time.
* ``coprocess``: prefill and decode attention side by side, and the experts with the fewest tokens on the PIM:
  the prefix of them that minimises the later of the two processors.
* ``tensor``: the same, with every expert split over all devices instead of each on one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost import op_times
from moesim.hardware.types import Hardware, Link, Processor
from moesim.layout import Parallelism
from moesim.model.types import Model
from moesim.ops import Batch, Precision, step_work
from moesim.ops.table import OpTable
from moesim.systems.parts import expert_params, moe_layers, moe_of

Array = npt.NDArray[np.float64]
MODES = ("gpu", "duplex", "coprocess", "tensor")
_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that are always as many: each decodes `output_len` tokens after a prompt of `input_len`."""

    requests: int
    input_len: int
    output_len: int

    @property
    def prompts(self) -> float:
        """Prompts that come in per stage, on average."""
        return self.requests / self.output_len

    @property
    def context(self) -> float:
        """Tokens that a decoding request looks back on, on average."""
        return self.input_len + self.output_len / 2


def prefix_split(main: Array, near: Array) -> float:
    """Seconds of a layer when the first experts run near the memory and the others on the main processor.

    Parameters
    ----------
    main, near
        Seconds of each expert on either, fewest tokens first.

    Examples
    --------
    >>> prefix_split(np.array([2.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0]))
    3.0
    """
    before = np.concatenate(([0.0], np.cumsum(near)))
    after = np.concatenate((np.cumsum(main[::-1])[::-1], [0.0]))
    return float(np.maximum(before, after).min())


def _experts_s(tokens: Array, model: Model, share: float, processor: Processor) -> Array:
    """Seconds of each expert: weights read once, or its tokens multiplied."""
    params = expert_params(model) * share
    bandwidth = next(iter(processor.bandwidth_bytes_per_s.values()))
    work = 2.0 * params * tokens / processor.peak_flops_per_s["bf16"]
    return np.where(tokens > 0, np.maximum(work, _BYTES * params / bandwidth), 0.0)


def moe_s(tokens: Array, model: Model, hardware: Hardware, devices: int, mode: str) -> float:
    """Seconds of a MoE layer's experts, given the tokens of each."""
    main, near = hardware.device.processors
    if mode == "tensor":
        groups, share = [np.sort(tokens)], 1.0 / devices
    else:
        held = np.array_split(tokens, min(devices, len(tokens)))
        groups, share = [np.sort(part) for part in held], min(1.0, len(tokens) / devices)
    slowest = 0.0
    for part in groups:
        on_main = _experts_s(part, model, share, main)
        on_near = _experts_s(part, model, share, near)
        if mode == "gpu":
            seconds = float(on_main.sum())
        elif mode == "duplex":
            seconds = float(min(on_main.sum(), on_near.sum()))
        else:
            seconds = prefix_split(on_main, on_near)
        slowest = max(slowest, seconds)
    return slowest


def _reduce_s(tokens: float, hidden: int, devices: int, link: Link) -> float:
    """An all-reduce in a ring."""
    moved = 2.0 * (devices - 1) / devices * tokens * hidden * _BYTES
    return moved / link.bandwidth_bytes_per_s + 2.0 * (devices - 1) * link.latency_s


@functools.lru_cache(maxsize=512)
def _table(model: Model, decoding: int, context: float, chunk: int) -> OpTable:
    batch = Batch.of(sequences=decoding, context=context, prompts=float(chunk > 0), chunk=float(chunk))
    return step_work(model, Parallelism(), batch, Precision.of(model, "bf16")).table


def stage_s(
    model: Model, hardware: Hardware, devices: int, traffic: Traffic, mode: str, prompt: bool, seed: int = 0
) -> float:
    """Seconds of one stage, with or without a prompt that comes in."""
    decoding = traffic.requests - (1 if prompt else 0)
    chunk = traffic.input_len if prompt else 0
    table = _table(model, decoding, traffic.context, chunk)
    times = op_times(table, hardware.device)
    near = hardware.device.processors[1]
    bandwidth = next(iter(near.bandwidth_bytes_per_s.values()))
    plain = beside = decode = 0.0
    bare = np.maximum(times.peak_compute_s, times.peak_memory_s)
    for (op, count), seconds in zip(table.ops, bare, strict=True):
        if op.kind == "attention_decode" and mode != "gpu":
            moved = np.max(op.cache_bytes + op.activation_bytes)
            work = np.max(op.flops) / near.peak_flops_per_s["bf16"]
            decode += count * float(max(moved / bandwidth, work)) / devices
        elif op.kind == "attention_prefill":
            beside += count * float(seconds.max()) / devices
        else:
            plain += count * float(seconds.max()) / devices
    attention = max(beside, decode) if mode in ("coprocess", "tensor") else beside + decode
    tokens = float(decoding + chunk)
    moe = moe_of(model)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(round(tokens) * moe.top_k, np.full(moe.num_experts, 1.0 / moe.num_experts), 16)
    experts = np.mean([moe_s(row.astype(np.float64), model, hardware, devices, mode) for row in drawn])
    moved = 2 * model.num_layers * _reduce_s(tokens, model.hidden, devices, hardware.scale_up)
    return plain + attention + moe_layers(model) * float(experts) + moved


def mean_stage_s(
    model: Model, hardware: Hardware, devices: int, traffic: Traffic, mode: str, seed: int = 0
) -> float:
    """Seconds of a stage, averaged over those with and without a prompt."""
    share = min(traffic.prompts, 1.0)
    bare = stage_s(model, hardware, devices, traffic, mode, False, seed)
    if share == 0:
        return bare
    return (1 - share) * bare + share * stage_s(model, hardware, devices, traffic, mode, True, seed)


def speedup(
    model: Model, hardware: Hardware, devices: int, traffic: Traffic, mode: str = "tensor", seed: int = 0
) -> float:
    """Throughput over that of the same devices without a PIM."""
    plain = mean_stage_s(model, hardware, devices, traffic, "gpu", seed)
    return plain / mean_stage_s(model, hardware, devices, traffic, mode, seed)
