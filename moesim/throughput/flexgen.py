"""FlexGen (arXiv:2303.06865): the zig-zag block schedule as its released code runs it, for mixtures.

A block is ``num_gpu_batches`` micro-batches. For every layer, attention first and experts then, the code goes
through the micro-batches and waits at the end of each (``generation_loop_overlap_multi_batch``). While the
first is computed, all weights of the next layer come; while any is computed, the cache of the next comes.
What lies in pageable host memory is copied into pinned memory first, by the thread that launches everything.
So one layer takes

    copy(weights) + max(link(weights) + c, a) + (n - 1) (copy(cache) + max(c, a)) + n e

with c the cache over the link, a attention and e the experts of one micro-batch. Attention on the CPU
(``FlexGen(c)``) moves no cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from moesim.throughput.engine import ENGINE, Engine
from moesim.throughput.lightning import gpu_experts
from moesim.throughput.machine import Machine
from moesim.throughput.result import Plan, Workload
from moesim.throughput.shape import ACTIVATION, LayerShape

#: Shares of the memories that its cost model fills (`percent` policies leave the rest to buffers).
GPU_SHARE, HOST_SHARE = 0.86, 0.9


@dataclass(frozen=True, slots=True)
class Block:
    """A policy of FlexGen.

    Parameters
    ----------
    micro_batch, num_batches
        ``gpu_batch_size`` and ``num_gpu_batches``.
    weights, cache, hidden
        Shares of weights, cache and hidden states on the GPU; the rest is in host memory.
    cpu_attention
        Whether the CPU attends in decode.
    """

    micro_batch: int
    num_batches: int
    weights: float = 0.0
    cache: float = 0.0
    hidden: float = 0.0
    cpu_attention: bool = False

    @property
    def batch(self) -> int:
        """Sequences of the block."""
        return self.micro_batch * self.num_batches


@dataclass(frozen=True, slots=True)
class Moves:
    """Seconds of moving something in: copies on the launching thread, and the link."""

    copy: float
    link: float


def plan(
    shape: LayerShape, machine: Machine, workload: Workload, block: Block, engine: Engine = ENGINE
) -> Plan:
    """Times of one block.

    Parameters
    ----------
    shape, machine, workload
        What runs where.
    block
        The policy.
    engine
        What the software reaches.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> shape, t4 = LayerShape.of(load_model("mixtral-8x7b")), Machine.of(load_hardware("t4"))
    >>> small, large = (plan(shape, t4, Workload(418, 128), Block(36, n, 0.08)) for n in (14, 31))
    >>> small.tokens_per_s < large.tokens_per_s
    True
    """
    n, mu = block.num_batches, float(block.micro_batch)
    steps, context = workload.output_len - 1, workload.context
    experts = shape.experts * shape.expert_bytes
    weights = _moved((1.0 - block.weights) * experts, machine)
    dense = _moved((1.0 - block.weights) * shape.dense_bytes, machine)
    cached = mu * context * shape.kv_bytes
    scores = shape.score_flops * mu * context
    attention = max(shape.dense_bytes / machine.gpu_weights, shape.dense_flops * mu / machine.gpu_flops)
    if block.cpu_attention:
        cache, on_cpu = Moves(0.0, 0.0), cached / (machine.cpu_cache * engine.cpu_attention)
        attend = attention + on_cpu
    else:
        cache, on_cpu = _moved((1.0 - block.cache) * cached, machine), 0.0
        attend = attention + max(cached / machine.gpu_cache, scores / machine.gpu_flops)
    compute = float(gpu_experts(shape, machine, mu, engine))
    # Attention layer: the experts of the same layer come during its first micro-batch.
    layer = weights.copy + cache.copy + max(weights.link + cache.link, attend)
    layer += (n - 1) * (cache.copy + max(cache.link, attend))
    # Expert layer: the next attention's weights come during its first micro-batch.
    layer += dense.copy + max(dense.link, compute) + (n - 1) * compute
    head = n * shape.head_bytes / machine.gpu_weights
    step = shape.layers * layer + head

    tokens = block.batch * workload.prompt_len
    work = shape.expert_flops + shape.dense_flops + shape.score_flops * workload.prompt_len / 2.0
    computed = shape.layers * tokens * work / (machine.gpu_flops * engine.prefill)
    written = shape.layers * tokens * (1.0 - block.cache) * shape.kv_bytes / machine.link_out
    streamed = shape.layers * (weights.copy + weights.link + dense.copy + dense.link)
    prefill = max(computed, written) + streamed

    link = shape.layers * (weights.link + dense.link + n * cache.link)
    gpu = shape.layers * n * (attend - on_cpu + compute) + head
    cpu = shape.layers * (n * (on_cpu + cache.copy) + weights.copy + dense.copy)
    busy = {
        "link": streamed + written + steps * link,
        "gpu": computed + steps * gpu,
        "cpu": steps * cpu,
    }
    least = busy | {"gpu": engine.prefill * computed + steps * gpu}
    generated = block.batch * workload.output_len
    gpu_bytes, host_bytes = memory(shape, workload, block)
    return Plan(
        system="flexgen-c" if block.cpu_attention else "flexgen",
        policy={
            "batch": block.batch,
            "micro_batch": block.micro_batch,
            "num_batches": n,
            "weights_on_gpu": block.weights,
            "cache_on_gpu": block.cache,
            "hidden_on_gpu": block.hidden,
            "attention": "cpu" if block.cpu_attention else "gpu",
        },
        batch=block.batch,
        prompt_len=workload.prompt_len,
        output_len=workload.output_len,
        prefill_s=prefill,
        decode_s=steps * step,
        bounds={name: generated / seconds for name, seconds in least.items() if seconds > 0},
        busy_s=busy,
        memory_bytes={"gpu": gpu_bytes, "host": host_bytes},
        assumptions=("tokens choose experts evenly",),
    )


def memory(shape: LayerShape, workload: Workload, block: Block) -> tuple[float, float]:
    """Bytes on the GPU and in host memory, at their peak.

    On the GPU: the resident shares, a double buffer of one layer's streamed weights, and what the prefill of
    one micro-batch needs (hidden states and residuals, its cache, the inner states of the experts).
    """
    length = workload.prompt_len + workload.output_len
    weights = shape.layers * shape.layer_bytes
    cache = shape.layers * shape.kv_bytes * length * block.batch
    hidden = ACTIVATION * shape.hidden * workload.prompt_len * block.batch
    rows = float(block.micro_batch * workload.prompt_len)
    working = 2.0 * (1.0 - block.weights) * shape.layer_bytes
    working += rows * (4.0 * ACTIVATION * shape.hidden + 2.0 * shape.kv_bytes)
    working += ACTIVATION * rows * shape.top_k * (shape.hidden + 3.0 * shape.intermediate)
    gpu = block.weights * weights + block.cache * cache + block.hidden * hidden + working
    host = (1.0 - block.weights) * weights + (1.0 - block.cache) * cache + (1.0 - block.hidden) * hidden
    return gpu, host


def zero(
    shape: LayerShape, machine: Machine, workload: Workload, batch: int, engine: Engine = ENGINE
) -> Plan:
    """DeepSpeed ZeRO-Inference: all weights come layer by layer, one batch, its cache on the GPU.

    Examples
    --------
    >>> from moesim.hardware import load_hardware
    >>> from moesim.model import load_model
    >>> shape, t4 = LayerShape.of(load_model("mixtral-8x7b")), Machine.of(load_hardware("t4"))
    >>> round(zero(shape, t4, Workload(256, 50), 102).tokens_per_s)
    11
    """
    steps, context = workload.output_len - 1, workload.context
    link = shape.layers * shape.layer_bytes / machine.link_in
    dense = shape.dense_bytes / machine.gpu_weights + batch * context * shape.kv_bytes / machine.gpu_cache
    gpu = shape.layers * (dense + float(gpu_experts(shape, machine, batch, engine)))
    tokens = batch * workload.prompt_len
    work = shape.expert_flops + shape.dense_flops + shape.score_flops * workload.prompt_len / 2.0
    computed = shape.layers * tokens * work / (machine.gpu_flops * engine.prefill)
    length = workload.prompt_len + workload.output_len
    busy = {"link": workload.output_len * link, "gpu": computed + steps * gpu}
    least = busy | {"gpu": engine.prefill * computed + steps * gpu}
    return Plan(
        system="deepspeed-zero",
        policy={"batch": batch, "micro_batch": batch, "attention": "gpu"},
        batch=batch,
        prompt_len=workload.prompt_len,
        output_len=workload.output_len,
        prefill_s=max(link, computed),
        decode_s=steps * max(link, gpu),
        bounds={name: batch * workload.output_len / seconds for name, seconds in least.items()},
        busy_s=busy,
        memory_bytes={
            "gpu": 2.0 * shape.layer_bytes + shape.layers * shape.kv_bytes * length * batch,
            "host": shape.layers * shape.layer_bytes,
        },
        assumptions=("tokens choose experts evenly",),
    )


def largest_zero_batch(shape: LayerShape, machine: Machine, workload: Workload) -> int:
    """The largest batch whose cache and two layers of weights fit on the GPU; 0 if none does."""
    length = workload.prompt_len + workload.output_len
    room = GPU_SHARE * machine.gpu_bytes - 2.0 * shape.layer_bytes
    return max(0, math.floor(room / (shape.layers * shape.kv_bytes * length)))


def _moved(count: float, machine: Machine) -> Moves:
    """Bytes that come from pageable host memory."""
    return Moves(count / machine.host_copy, count / machine.link_in)
