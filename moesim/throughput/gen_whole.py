"""Whole batches, which MoE-Gen's are compared with: DeepSpeed-Inference with its weights offloaded.

Weights come layer by layer, as in MoE-Gen and on the same graph. But there is one batch for all modules, and
its cache stays on the GPU with what attention needs at its peak, so that the GPU's memory, not the host's,
says how many sequences share a layer's weights (arXiv 2503.09716, section 3).
"""

from __future__ import annotations

import numpy as np

from moesim.errors import InfeasibleError
from moesim.throughput.gen import bounds
from moesim.throughput.gen_box import CONTEXT_BYTES, StreamBox
from moesim.throughput.gen_step import Policies, decode_step, prefill_pass
from moesim.throughput.gen_work import SCORE, ModelWork
from moesim.throughput.result import Plan, Workload

#: Layers of weights on the GPU: one at work, one on its way.
LAYERS = 2


def sequence_bytes(work: ModelWork, workload: Workload) -> float:
    """GPU memory of a sequence: its cache in all layers, and attention over its prompt in one.

    Fused attention keeps no scores; without it a third of the bytes that pass for each score live at once.
    """
    length = workload.prompt_len + workload.output_len
    peak = max(layer.prompt_bytes for layer in work.layers) / 3.0 * workload.prompt_len
    if not all(layer.flash for layer in work.layers):
        heads = max(layer.prefill_bytes for layer in work.layers) / SCORE
        peak += heads * float(workload.prompt_len) ** 2 * SCORE / 3.0
    return work.cache_bytes * length + peak


def whole_plan(work: ModelWork, box: StreamBox, workload: Workload) -> Plan:
    """The largest such batch, and what it reaches.

    Raises
    ------
    InfeasibleError
        If the weights do not fit the host, or two layers and one sequence the GPU.

    Examples
    --------
    >>> from moesim import load_hardware, load_model
    >>> box = StreamBox.of(load_hardware("a5000-epyc-512gb"))
    >>> whole_plan(ModelWork.of(load_model("mixtral-8x7b")), box, Workload(512, 256)).batch
    165
    """
    if work.weight_bytes > box.host_bytes:
        raise InfeasibleError(
            f"{work.name} needs {work.weight_bytes / 1e9:.0f} GB of host memory",
            resource="host memory",
            needed=work.weight_bytes,
            available=box.host_bytes,
        )
    fixed = CONTEXT_BYTES + work.resident_bytes + LAYERS * max(layer.weight_bytes for layer in work.layers)
    each = sequence_bytes(work, workload)
    batch = int((box.gpu_bytes - fixed) // each)
    if batch < 1:
        raise InfeasibleError(
            f"two layers of {work.name} and one sequence need {(fixed + each) / 1e9:.1f} GB of the GPU",
            resource="gpu memory",
            needed=fixed + each,
            available=box.gpu_bytes,
        )
    batch = min(batch, workload.requests) if workload.requests else batch
    one = np.ones(1)
    experts = float(max(layer.experts for layer in work.layers))
    policies = Policies(batch, one * batch, one * 2048.0, 0.0 * one, one * experts, 0.0 * one)
    step = decode_step(work, box, policies, workload.context, 0.0)
    prompts = prefill_pass(work, box, policies, workload.prompt_len)
    output = workload.output_len
    busy = {name: output * float(step.busy[name][0]) for name in ("gpu", "link")}
    return Plan(
        system="whole batches",
        policy={"batch": batch, "micro_batch": batch, "cpu_share": 0.0},
        batch=batch,
        prompt_len=workload.prompt_len,
        output_len=output,
        prefill_s=float(prompts.seconds[0]),
        decode_s=output * float(step.seconds[0]),
        bounds={"link": bounds(work, box, Workload(workload.prompt_len, output, batch))["link"]},
        busy_s={name: busy[name] + float(prompts.busy[name][0]) for name in busy},
        memory_bytes={"host": work.weight_bytes, "gpu": fixed + batch * each},
        assumptions=("tokens spread evenly over experts",),
    )
