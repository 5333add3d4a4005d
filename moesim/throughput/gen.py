"""MoE-Gen: module-based batching on one GPU, and the search for its batches.

All sequences that the host's memory can hold go through a step together. Attention works on pieces of
`attention_batch` sequences, on the GPU or, for `cpu_share` of them, on the CPU; then each expert works once
on all its tokens. What is sought is the policy with the most tokens per second (arXiv 2503.09716, equation
1),

    max B / T(B, S_Expert, S_Params, b_a, b_e, omega),

within the memory of the host, ``S_KV(B) + S_Model <= m_c`` (2), and of the GPU,
``S_Params + S_Expert + S_Dense + S_KV(b_a) + S_IS <= m_g`` (3). B is the most that (2) allows, as in the
paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.throughput.gen_box import CONTEXT_BYTES, StreamBox
from moesim.throughput.gen_step import Policies, StepTimes, decode_step, layer_shares, met, prefill_pass
from moesim.throughput.gen_work import ELEMENT, ModelWork
from moesim.throughput.result import Plan, Workload

Array = npt.NDArray[np.float64]

#: Cache buffers on the GPU, as released (``num_k_buffer`` of ``Mixtral_Initializer.py``).
CACHE_BUFFERS = 3
#: What of a sequence's cache crosses the link for attention on the GPU.
COPIES = ("reserved", "used")


@dataclass(frozen=True, slots=True)
class Space:
    """Where policies are sought.

    Parameters
    ----------
    attention_batches, expert_batches
        Sequences of a piece of attention, and tokens of an expert at once.
    cpu_shares
        Of the sequences, for the CPU's attention. The paper takes tenths; 0 alone is MoE-Gen(G).
    expert_slots
        Shares of a layer's experts that the prefetch buffer holds.
    resident
        Whether weights stay in what is left of the GPU's memory (``S_Params``). The released engine streams
        all, so the published figures are without.
    copies
        ``reserved`` copies a sequence's whole slot, prompt and output, at each step; ``used`` what is filled.

    Examples
    --------
    >>> len(Space().cpu_shares), Space(cpu_shares=(0.0,)).resident
    (11, False)
    """

    attention_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    expert_batches: tuple[int, ...] = (512, 2048, 8192)
    cpu_shares: tuple[float, ...] = tuple(round(0.1 * tenth, 1) for tenth in range(11))
    expert_slots: tuple[float, ...] = (0.25, 0.5, 1.0)
    resident: bool = False
    copies: str = "used"

    def __post_init__(self) -> None:
        faults = [
            Fault("none to choose from", name)
            for name in ("attention_batches", "expert_batches", "cpu_shares", "expert_slots")
            if not getattr(self, name)
        ]
        faults += [
            Fault("not a share", "cpu_shares", share, "0 to 1")
            for share in self.cpu_shares
            if not 0 <= share <= 1
        ]
        faults += [
            Fault("not a share", "expert_slots", share, "above 0, to 1")
            for share in self.expert_slots
            if not 0 < share <= 1
        ]
        if self.copies not in COPIES:
            faults.append(Fault("unknown", "copies", self.copies, ", ".join(COPIES)))
        if faults:
            raise ConfigError(faults)


#: GPU alone, and hybrid, as the published tables tell them apart.
GPU_ONLY = Space(cpu_shares=(0.0,), copies="reserved")
HYBRID = Space()


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """All policies of a space, those that fit, and their times.

    Parameters
    ----------
    policies
        Those that fit.
    decode, prefill
        One step, and all prompts once.
    gpu_bytes
        What each needs of the GPU.
    """

    policies: Policies
    decode: StepTimes
    prefill: StepTimes
    gpu_bytes: Array
    shares: Array | None = field(default=None)

    def best(self, output_len: int) -> int:
        """The policy with the least time for prompts and output together."""
        return int(np.argmin(self.prefill.seconds + output_len * self.decode.seconds))


def largest_batch(work: ModelWork, box: StreamBox, workload: Workload) -> int:
    """Sequences whose cache fits beside the model in the host's memory (2).

    Raises
    ------
    InfeasibleError
        If the model alone does not fit, or no sequence beside it.
    """
    slot = work.cache_bytes * (workload.prompt_len + workload.output_len)
    needed = work.weight_bytes + slot
    if needed > box.host_bytes:
        raise InfeasibleError(
            f"{work.name} and the cache of one sequence need {needed / 1e9:.1f} GB of host memory; "
            f"{box.name} has {box.host_bytes / 1e9:.1f} GB",
            resource="host memory",
            needed=needed,
            available=box.host_bytes,
        )
    batch = int((box.host_bytes - work.weight_bytes) // slot)
    return min(batch, workload.requests) if workload.requests else batch


def gpu_bytes(work: ModelWork, policies: Policies, workload: Workload) -> Array:
    """Memory that a policy needs on the GPU (3), ``[policies]``.

    Resident weights, the expert buffer, a layer's dense weights, cache buffers for pieces of attention, and
    intermediate states: of attention over a piece as the engine holds it (heads repeated, scores in 32 bits),
    of one expert over its tokens, and the hidden states of the batch three times.
    """
    context = float(workload.prompt_len + workload.output_len)
    resident = work.resident_bytes + policies.resident_share * work.streamed_bytes
    experts = policies.expert_slots * max(layer.expert_bytes for layer in work.layers)
    dense = max(layer.dense_bytes for layer in work.layers)
    cached = max(layer.cache_bytes for layer in work.layers)
    rows = np.where(policies.cpu_share < 1.0, policies.attention_batch, 0.0) * context
    buffers = CACHE_BUFFERS * rows * cached
    # Of the traffic of a cached token about a third is tensors that live at once.
    attention = rows * max(layer.context_bytes for layer in work.layers) / 3.0
    expert = policies.expert_batch * max(layer.pair_bytes for layer in work.layers) / 3.0
    hidden = 3.0 * policies.batch * work.hidden * ELEMENT
    return np.asarray(
        CONTEXT_BYTES + resident + experts + dense + buffers + np.maximum(attention, expert) + hidden
    )


def search(
    work: ModelWork,
    box: StreamBox,
    workload: Workload,
    space: Space = HYBRID,
    *,
    shares: Sequence[float] | npt.NDArray[np.float64] | None = None,
) -> Search:
    """Price every policy of a space at once.

    Parameters
    ----------
    work, box, workload, space
        What, where, for whom, and among which.
    shares
        Loads from a trace, ``[experts]`` or ``[layers with experts, experts]``; even if not given, as the
        paper supposes.

    Raises
    ------
    InfeasibleError
        If no batch fits the host, or no policy the GPU.
    """
    batch = largest_batch(work, box, workload)
    # Latents are projected up on the GPU: the paper sets their share of the CPU to zero (section 5.3).
    cpu_shares = (0.0,) if work.latent else space.cpu_shares
    experts = max(layer.experts for layer in work.layers)
    grid = np.meshgrid(
        space.attention_batches, space.expert_batches, cpu_shares, space.expert_slots, indexing="ij"
    )
    a, e, c, slots = (axis.ravel().astype(np.float64) for axis in grid)
    policies = Policies(batch, a, e, c, np.maximum(np.floor(slots * experts), 1.0), np.zeros_like(c))
    needed = gpu_bytes(work, policies, workload)
    fits = needed <= box.gpu_bytes
    if not fits.any():
        raise InfeasibleError(
            f"{work.name} needs at least {needed.min() / 1e9:.1f} GB of {box.name}'s GPU, which has "
            f"{box.gpu_bytes / 1e9:.1f} GB",
            resource="gpu memory",
            needed=float(needed.min()),
            available=box.gpu_bytes,
        )
    left = box.gpu_bytes - needed
    stay = np.clip(left / work.streamed_bytes, 0.0, 1.0) if space.resident else np.zeros_like(left)
    policies = Policies(batch, *(x[fits] for x in (a, e, c, policies.expert_slots, stay)))
    load = None if shares is None else _normalised(shares, work)
    copied = workload.prompt_len + workload.output_len if space.copies == "reserved" else workload.context
    decode = decode_step(work, box, policies, workload.context, copied, load)
    prefill = prefill_pass(work, box, policies, workload.prompt_len, load)
    return Search(policies, decode, prefill, gpu_bytes(work, policies, workload), load)


def _normalised(shares: Sequence[float] | npt.NDArray[np.float64], work: ModelWork) -> Array:
    """Rows that add up to one, a row for each layer with experts."""
    load = np.asarray(shares, dtype=np.float64)
    sizes = [layer.experts for layer in work.layers if layer.experts]
    experts = sizes[0]
    if load.shape == (experts,):
        load = np.tile(load, (len(sizes), 1))
    if load.shape != (len(sizes), experts) or set(sizes) != {experts}:
        allowed = f"{experts} numbers, or {len(sizes)} rows of them"
        raise ConfigError(Fault("not a load of each expert", "shares", load.shape, allowed))
    if not np.isfinite(load).all() or (load < 0).any() or (load.sum(axis=1) <= 0).any():
        raise ConfigError(Fault("not loads", "shares", None, "numbers from 0 up, not all 0 in a layer"))
    return np.asarray(load / load.sum(axis=1, keepdims=True))


def plan(
    work: ModelWork,
    box: StreamBox,
    workload: Workload,
    space: Space = HYBRID,
    *,
    shares: Sequence[float] | npt.NDArray[np.float64] | None = None,
) -> Plan:
    """The best policy of a space, and what it reaches.

    Parameters and errors are those of `search`.

    Examples
    --------
    >>> from moesim import load_hardware, load_model
    >>> box = StreamBox.of(load_hardware("a5000-epyc-512gb"))
    >>> best = plan(ModelWork.of(load_model("mixtral-8x7b")), box, Workload(512, 256))
    >>> best.batch, best.decode_tokens_per_s > 10 * 3.0
    (4158, True)
    """
    found = search(work, box, workload, space, shares=shares)
    i = found.best(workload.output_len)
    p = found.policies
    output = workload.output_len
    busy = {
        name: float(found.prefill.busy.get(name, 0.0 * p.cpu_share)[i]) for name in ("gpu", "link", "back")
    }
    busy["cpu"] = 0.0
    for name in busy:
        busy[name] += output * float(found.decode.busy[name][i])
    cache = p.batch * work.cache_bytes * (workload.prompt_len + output)
    return Plan(
        system="MoE-Gen",
        policy={
            "batch": p.batch,
            "micro_batch": int(p.attention_batch[i]),
            "expert_batch": int(p.expert_batch[i]),
            "cpu_share": float(p.cpu_share[i]),
            "expert_slots": int(p.expert_slots[i]),
            "resident_share": float(p.resident_share[i]),
            "copies": space.copies,
        },
        batch=p.batch,
        prompt_len=workload.prompt_len,
        output_len=output,
        prefill_s=float(found.prefill.seconds[i]),
        decode_s=output * float(found.decode.seconds[i]),
        bounds=bounds(work, box, workload, found.shares),
        busy_s=busy,
        memory_bytes={"host": work.weight_bytes + cache, "gpu": float(found.gpu_bytes[i])},
        assumptions=("tokens spread evenly over experts",) if shares is None else (),
    )


def bounds(
    work: ModelWork, box: StreamBox, workload: Workload, shares: Array | None = None
) -> dict[str, float]:
    """Generated tokens per second that no policy of this kind beats on this box, by resource.

    ``link``: at each step the weights of the experts that are used cross it, but for what the GPU's whole
    memory can keep; ``compute``: the products of a token at the bare peak; ``memory``: the cache of all
    sequences is read once a step, by the GPU over the link or by the CPU from the host's memory. They hold
    for decode alone too.
    """
    batch = largest_batch(work, box, workload)
    used = sum(
        layer.dense_bytes + float(met(load, layer.top_k, batch).sum()) * layer.expert_bytes
        for layer, load in zip(work.layers, layer_shares(work, shares), strict=True)
    )
    link_s = max(used - box.gpu_bytes, 0.0) / box.link_bytes_per_s
    token = sum(layer.qkv_flops + layer.post_flops + layer.shared_flops for layer in work.layers)
    token += sum(layer.top_k * layer.expert_flops for layer in work.layers)
    compute_s = batch * token / box.gpu_flops_per_s
    cpu = 0.0 if work.latent else box.cpu_attention_bytes_per_s(work.group)
    memory_s = batch * workload.context * work.cache_bytes / (box.link_bytes_per_s + cpu)
    seconds = {"link": link_s, "compute": compute_s, "memory": memory_s}
    return {name: batch / s if s > 0 else float("inf") for name, s in seconds.items()}
