"""MoE-Lightning (arXiv:2411.11217): policy, memory, bounds by the hierarchical roofline, and the schedule.

Per layer and step, in the paper's equations 12 to 14,

    T = max(link, T_cpu, T_gpu),   T_gpu = T_attention + T_experts,   T_x = max(bytes / b, flops / p),

with the experts' weights streamed but for a resident share ``r_w``. `estimate` is that closed form over
arrays of policies, `plan` puts one policy on the clocks of `moesim.throughput.cgopipe`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.cost.roofline import soft_max
from moesim.throughput.cgopipe import Pieces, decode_seconds
from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import ACTIVATION, LayerShape

Floats = npt.NDArray[np.float64]

#: Shares of memory that its released optimiser lets a policy use (caoshiyi/artifacts fastmoe/backend/
#: optimizer.py): the rest is for embeddings, fragmentation and the allocator.
GPU_SHARE, HOST_SHARE = 0.86, 0.8
#: Its allowance on the workspace of the fused expert kernel.
WORKSPACE = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class Policies:
    """Policies of MoE-Lightning, arrays of one shape: ``(N, mu, A_g, F_g, r_w, r_c)`` of the paper.

    Parameters
    ----------
    batch, micro_batch
        Sequences held at once, and those computed at once.
    gpu_attention, gpu_experts
        Whether the GPU attends in decode, and runs the experts (0 or 1).
    weights, cache
        Shares of the experts' weights and of the cache that stay on the GPU.
    """

    batch: Floats
    micro_batch: Floats
    gpu_attention: Floats
    gpu_experts: Floats
    weights: Floats
    cache: Floats

    @classmethod
    def one(
        cls,
        batch: int,
        micro_batch: int,
        *,
        gpu_attention: bool = False,
        gpu_experts: bool = True,
        weights: float = 0.0,
        cache: float = 0.0,
    ) -> Policies:
        """A single policy; by default what the paper finds best on small GPUs."""
        numbers = (batch, micro_batch, gpu_attention, gpu_experts, weights, cache)
        return cls(*(np.array([number], dtype=np.float64) for number in numbers))

    def at(self, index: int) -> Policies:
        """One of them."""
        fields = (
            self.batch,
            self.micro_batch,
            self.gpu_attention,
            self.gpu_experts,
            self.weights,
            self.cache,
        )
        return Policies(*(field[index : index + 1] for field in fields))

    @property
    def micro_batches(self) -> Floats:
        """How many micro-batches make a batch."""
        return np.ceil(self.batch / self.micro_batch)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Closed form of policies; arrays of their shape.

    Parameters
    ----------
    link_s, cpu_s, gpu_s, memory_s
        Seconds of each resource in one decode step; the last is host memory, which streamed weights cross
        three times (read and written into pinned memory, read by the link) and the cache once.
    prefill_link_s, prefill_gpu_s
        And in the whole prefill.
    gpu_bytes, host_bytes
        What must fit.
    fits
        Whether it does.
    """

    link_s: Floats
    cpu_s: Floats
    gpu_s: Floats
    memory_s: Floats
    prefill_link_s: Floats
    prefill_gpu_s: Floats
    gpu_bytes: Floats
    host_bytes: Floats
    fits: npt.NDArray[np.bool_]

    @property
    def step_s(self) -> Floats:
        """Of one decode step: the slowest resource."""
        return np.maximum(np.maximum(self.link_s, self.cpu_s), np.maximum(self.gpu_s, self.memory_s))

    @property
    def prefill_s(self) -> Floats:
        """Of prefill."""
        return np.maximum(self.prefill_link_s, self.prefill_gpu_s)

    def tokens_per_s(self, policies: Policies, workload: Workload) -> Floats:
        """Generated tokens over all time; the first token comes from prefill. No schedule beats it."""
        seconds = self.prefill_s + (workload.output_len - 1) * self.step_s
        return np.asarray(policies.batch * workload.output_len / seconds)


def estimate(
    shape: LayerShape, machine: Machine, workload: Workload, p: Policies, engine: Engine = ENGINE
) -> Estimate:
    """Seconds and bytes of policies.

    Parameters
    ----------
    shape, machine, workload
        What runs where.
    p
        The policies.
    engine
        What the software reaches.
    """
    count, context = p.micro_batches, workload.context
    experts = shape.experts * shape.expert_bytes
    met = shape.distinct(p.micro_batch)
    streamed = experts * (1.0 - p.weights) * p.gpu_experts
    cache = p.batch * context * shape.kv_bytes
    moved = streamed + p.gpu_attention * (1.0 - p.cache) * cache
    moved = moved + (1.0 - p.gpu_attention) * p.batch * shape.hidden * ACTIVATION
    dense = count * _roof(
        shape.dense_bytes,
        machine.gpu_weights,
        shape.dense_flops * p.micro_batch,
        machine.gpu_flops,
    )
    on_gpu = count * gpu_experts(shape, machine, p.micro_batch, engine)
    on_cpu = count * _roof(
        met * shape.expert_bytes, machine.cpu_weights, shape.expert_flops * p.micro_batch, machine.cpu_flops
    )
    scores = shape.score_flops * p.batch * context
    gpu_attention = _roof(cache, machine.gpu_cache, scores, machine.gpu_flops)
    cpu_attention = _roof(cache, machine.cpu_cache, scores, machine.cpu_flops)
    head = count * shape.head_bytes / machine.gpu_weights
    tokens = p.batch * workload.prompt_len
    work = shape.expert_flops + shape.dense_flops + shape.score_flops * workload.prompt_len / 2.0
    pageable = 1.0 / (1.0 / machine.host_copy + 1.0 / machine.link_in)
    gpu_bytes, host_bytes = _memory(shape, workload, p, machine.gpus)
    layers = shape.layers
    return Estimate(
        link_s=layers * moved / machine.link_in,
        cpu_s=layers * ((1.0 - p.gpu_attention) * cpu_attention + (1.0 - p.gpu_experts) * on_cpu),
        gpu_s=layers * (dense + p.gpu_attention * gpu_attention + p.gpu_experts * on_gpu) + head,
        memory_s=layers
        * (3.0 * streamed + (1.0 - p.gpu_attention * p.cache) * cache)
        / (2.0 * machine.host_copy),
        prefill_link_s=layers
        * (experts * (1.0 - p.weights) / pageable + tokens * shape.hidden * ACTIVATION / machine.link_in),
        prefill_gpu_s=layers * tokens * work / (machine.gpu_flops * engine.prefill),
        gpu_bytes=gpu_bytes,
        host_bytes=host_bytes,
        fits=(gpu_bytes <= GPU_SHARE * machine.gpu_bytes) & (host_bytes <= HOST_SHARE * machine.host_bytes),
    )


def plan(
    shape: LayerShape, machine: Machine, workload: Workload, p: Policies, engine: Engine = ENGINE
) -> Plan:
    """One policy on the clocks of CGOPipe.

    Parameters
    ----------
    shape, machine, workload
        What runs where.
    p
        A single policy.
    engine
        What the software reaches.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> shape, t4 = LayerShape.of(load_model("mixtral-8x7b")), Machine.of(load_hardware("t4"))
    >>> found = plan(shape, t4, Workload(418, 128), Policies.one(504, 36))
    >>> found.tokens_per_s < min(found.bounds.values())
    True
    """
    made = estimate(shape, machine, workload, p, engine)
    count, mu = int(p.micro_batches[0]), float(p.micro_batch[0])
    steps, context = workload.output_len - 1, workload.context
    on_gpu, on_cpu = bool(p.gpu_attention[0]), not bool(p.gpu_experts[0])
    cache = mu * context * shape.kv_bytes
    scores = shape.score_flops * mu * context
    streamed = 0.0 if on_cpu else shape.experts * shape.expert_bytes * (1.0 - float(p.weights[0]))
    dense = _roof(shape.dense_bytes, machine.gpu_weights, shape.dense_flops * mu, machine.gpu_flops)
    met = shape.distinct(mu) * shape.expert_bytes
    if on_cpu:
        experts = _roof(met, machine.cpu_weights, shape.expert_flops * mu, machine.cpu_flops)
    else:
        experts = gpu_experts(shape, machine, mu, engine)
    hidden = mu * shape.hidden * ACTIVATION
    pieces = Pieces(
        # A quarter of the dense weights or so is the output projection; the split only moves work ahead.
        post=float(0.4 * dense + (0.0 if on_cpu else experts)),
        pre=float(0.6 * dense),
        gpu_attention=float(_roof(cache, machine.gpu_cache, scores, machine.gpu_flops)) if on_gpu else 0.0,
        cpu_attention=(0.0 if on_gpu else float(_roof(cache, machine.cpu_cache, scores, machine.cpu_flops)))
        + (float(experts) if on_cpu else 0.0),
        send=mu * shape.qkv_bytes / machine.link_out,
        receive=(cache * (1.0 - float(p.cache[0])) if on_gpu else hidden) / machine.link_in,
        page=streamed / count / machine.link_in,
        stage=streamed / count / machine.host_copy,
        head=count * shape.head_bytes / machine.gpu_weights,
        memory=float(made.memory_s[0]) / (shape.layers * count),
    )
    generated = float(p.batch[0]) * workload.output_len
    busy = {
        "link": float(made.prefill_link_s[0] + steps * made.link_s[0]),
        "gpu": float(made.prefill_gpu_s[0] + steps * made.gpu_s[0]),
        "cpu": float(steps * made.cpu_s[0]),
        "host memory": float(steps * made.memory_s[0]),
    }
    # An engine may get more out of the GPU in prefill than this one does.
    least = busy | {"gpu": float(engine.prefill * made.prefill_gpu_s[0] + steps * made.gpu_s[0])}
    return Plan(
        system="moe-lightning",
        policy={
            "batch": int(p.batch[0]),
            "micro_batch": int(mu),
            "attention": "gpu" if on_gpu else "cpu",
            "experts": "cpu" if on_cpu else "gpu",
            "weights_on_gpu": float(p.weights[0]),
            "cache_on_gpu": float(p.cache[0]),
        },
        batch=int(p.batch[0]),
        prompt_len=workload.prompt_len,
        output_len=workload.output_len,
        prefill_s=float(made.prefill_s[0]),
        decode_s=decode_seconds(shape.layers, count, steps, pieces) if steps else 0.0,
        bounds={name: generated / seconds for name, seconds in least.items() if seconds > 0},
        busy_s=busy,
        memory_bytes={"gpu": float(made.gpu_bytes[0]), "host": float(made.host_bytes[0])},
        assumptions=("tokens choose experts evenly",),
    )


def gpu_experts(
    shape: LayerShape, machine: Machine, micro_batch: npt.ArrayLike, engine: Engine = ENGINE
) -> Floats:
    """Seconds of the experts of one layer for a micro-batch, on the GPU.

    Weights of the experts that are met are read once; rows are filled up to tiles and multiplied at the rate
    that the engine reaches in prefill too, with the same kernel. GPUs without asynchronous copies (before
    Ampere) read and multiply in turns.
    """
    read = shape.distinct(micro_batch) * shape.expert_bytes / machine.gpu_weights
    multiplied = shape.padded_flops(micro_batch) / (machine.gpu_flops * engine.prefill)
    return soft_max(multiplied, read, machine.overlap)


def _roof(moved: npt.ArrayLike, rate: float, flops: npt.ArrayLike, peak: float) -> Floats:
    """``max(bytes / b, flops / p)``."""
    return np.asarray(np.maximum(np.asarray(moved) / rate, np.asarray(flops) / peak))


def _memory(shape: LayerShape, workload: Workload, p: Policies, gpus: int) -> tuple[Floats, Floats]:
    """GPU and host bytes, as its released optimiser counts them.

    On the GPU: all but the experts, resident experts, two layers' worth of streamed ones, the resident cache,
    the workspace of the expert kernel, hidden states of a micro-batch and residuals of the whole batch in
    prefill, and a double buffer of its cache. In host memory: streamed experts, the rest of the cache, hidden
    states, two layers of pinned pages.
    """
    experts = shape.experts * shape.expert_bytes
    length = workload.prompt_len + workload.output_len
    rows = p.micro_batch * workload.prompt_len
    away = 1.0 - p.cache * p.gpu_attention
    workspace = ACTIVATION * rows * shape.top_k * (gpus * shape.hidden + 3.0 * shape.intermediate) * WORKSPACE
    hidden = ACTIVATION * shape.hidden
    gpu = (
        shape.layers * shape.dense_bytes
        + shape.layers * experts * p.weights
        + 2.0 * experts * (1.0 - p.weights)
        + shape.layers * shape.kv_bytes * length * p.batch * (1.0 - away)
        + gpus * hidden * (2.0 * rows + p.batch * workload.prompt_len)
        + 2.0 * shape.kv_bytes * rows * away
        + workspace
    )
    host = (
        shape.layers * experts * (1.0 - p.weights)
        + shape.layers * shape.kv_bytes * length * p.batch * away
        + hidden * p.batch * workload.prompt_len * gpus
        + 2.0 * experts * (1.0 - p.weights)
    )
    return np.asarray(gpu), np.asarray(host)


def largest_batch(shape: LayerShape, machine: Machine, workload: Workload, micro_batch: int) -> int:
    """The largest batch of whole micro-batches that fits with everything streamed; 0 if none does.

    Memory is linear in the number of micro-batches, so that two of them tell it.
    """
    one = estimate(shape, machine, workload, Policies.one(micro_batch, micro_batch))
    two = estimate(shape, machine, workload, Policies.one(2 * micro_batch, micro_batch))
    room = []
    for first, second, limit in (
        (one.gpu_bytes, two.gpu_bytes, GPU_SHARE * machine.gpu_bytes),
        (one.host_bytes, two.host_bytes, HOST_SHARE * machine.host_bytes),
    ):
        each = float(second[0] - first[0])
        room.append(math.floor((limit - float(first[0])) / each) + 1)
    return micro_batch * max(0, min(room))
