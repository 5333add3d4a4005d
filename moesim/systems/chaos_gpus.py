"""Orders in Chaos, second case study: experts of Qwen3-235B placed on 8 H100 by what the prompts chose.

Loads of prompts and of decoding are drawn together: log-normal, correlated as DeepSeek-V3's are. What is
compared is the time of the slowest GPU's experts, as in the paper, without attention or exchange.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moesim.cost import ExpertShape, expert_times
from moesim.hardware import load_hardware
from moesim.hardware.types import Device
from moesim.layout import ExpertMap
from moesim.placement import pack
from moesim.systems.chaos import SIGMA, expert

Floats = npt.NDArray[np.float64]
MODEL, GPUS, LAYERS = "qwen3-235b-a22b", 8, 16
BATCHES = (64, 256, 1024, 4096, 16384)
WAYS = ("default", "remap", "dup")


def expert_cost(tokens: Floats, shape: ExpertShape, device: Device) -> Floats:
    """Roofline of each expert: multiplying its tokens, or reading its weights."""
    rate = device.processor.peak_flops_per_s["bf16"]
    read = shape.weight_bytes / device.processor.bandwidth_bytes_per_s[device.memory.name]
    return np.where(tokens > 0, np.maximum(tokens * shape.flops_per_pair / rate, read), 0.0)


def duplicated(tokens: Floats, cost: Callable[[Floats], Floats], ranks: int, extra: int) -> ExpertMap:
    """Copies of experts in `extra` more slots per rank, each where it lowers the highest load most.

    Algorithm 2 of the paper: from contiguous experts on; a copy takes an even share of the tokens.

    Parameters
    ----------
    tokens
        Of each expert, ``[layers, experts]``.
    cost
        Seconds of experts with so many tokens.

    Examples
    --------
    >>> duplicated(np.array([[6.0, 1.0, 1.0, 1.0]]), lambda n: n, 2, 1).physical_to_logical.tolist()
    [[0, 1, 2, 2, 3, 0]]
    """
    experts = tokens.shape[1]
    held = experts // ranks
    rows = []
    for load in tokens:
        hosts = np.arange(experts)[:, None] // held == np.arange(ranks)
        slots = [list(range(g * held, (g + 1) * held)) for g in range(ranks)]
        for _ in range(ranks * extra):
            copies = hosts.sum(axis=1)
            one, more = cost(load / copies)[:, None], cost(load / (copies + 1))[:, None]
            # Load of every rank if expert e also went to rank g: [experts, ranks, ranks].
            moved = (hosts * one).sum(axis=0) + (hosts * (more - one))[:, None, :]
            worst = (moved + more[:, :, None] * np.eye(ranks)).max(axis=2)
            free = np.array([len(s) < held + extra for s in slots])
            worst = np.where(hosts | ~free, np.inf, worst)
            e, g = np.unravel_index(int(worst.argmin()), worst.shape)
            hosts[e, g] = True
            slots[g].append(int(e))
        rows.append(np.concatenate(slots))
    return ExpertMap(np.array(rows, np.int64), experts, ranks)


@functools.lru_cache(maxsize=256)
def rank_seconds(way: str, batch: int, skew: float, likeness: float, seed: int = 0) -> Floats:
    """Seconds of each GPU's experts in a decode step, ``[layers, ranks]``.

    Parameters
    ----------
    way
        One of `WAYS`.
    batch
        Tokens of all GPUs.
    skew
        Spread of log loads over `SIGMA`.
    likeness
        Correlation of the log loads of prompts and decoding.
    """
    shape, experts, top_k, _ = expert(MODEL)
    device = load_hardware("h100-sxm-8").device
    rng = np.random.default_rng(seed)
    prompts = rng.standard_normal((LAYERS, experts))
    own = rng.standard_normal((LAYERS, experts))
    decode = likeness * prompts + np.sqrt(1.0 - likeness**2) * own
    before, after = (np.exp(SIGMA * skew * z) for z in (prompts, decode))
    before, after = (np.minimum(load / load.sum(1, keepdims=True), 1.0 / top_k) for load in (before, after))
    known = before * batch * top_k
    if way == "remap":
        plan = ExpertMap(
            pack(expert_cost(known, shape, device), GPUS).reshape(LAYERS, experts), experts, GPUS
        )
    elif way == "dup":
        plan = duplicated(known, lambda n: expert_cost(n, shape, device), GPUS, 1)
    else:
        plan = ExpertMap.contiguous(LAYERS, experts, GPUS)
    tokens = np.array(
        [rng.multinomial(batch * top_k, share / share.sum()) for share in after], dtype=np.float64
    )
    slots = plan.slot_loads(tokens).reshape(LAYERS, GPUS, plan.slots_per_rank)
    return expert_times(slots, shape, device, shared=True).seconds


def gain(way: str, skew: float, likeness: float, seed: int = 0) -> float:
    """Mean over batches of the default's slowest GPU over that of another placement."""
    slowest = {
        name: [rank_seconds(name, n, skew, likeness, seed).max(axis=1).sum() for n in BATCHES]
        for name in ("default", way)
    }
    return float(np.mean(np.divide(slowest["default"], slowest[way])))


def spread(skew: float, likeness: float, seed: int = 0) -> float:
    """Slowest over fastest GPU of the default placement, mean over layers and batches."""
    found = [rank_seconds("default", n, skew, likeness, seed) for n in BATCHES]
    return float(np.mean([seconds.max(axis=1) / seconds.min(axis=1) for seconds in found]))
