"""MoE-Lens's scheduler, iteration by iteration (arXiv 2504.09345, section 6).

In each iteration every running sequence gets its next token. Then prompts are taken from the queue until the
iteration has as many tokens as saturate the GPU, n_real, or the cache has no more blocks. When decode finds
no block for a token that needs a new one, the sequences that came last are stopped, their blocks freed, and
they go back to the head of the queue with what they have as their prompt: recomputed, not swapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.compiled import compiled
from moesim.errors import ConfigError, Fault
from moesim.throughput.lens import LensBox, bounds, check
from moesim.throughput.lens_pipeline import pipeline
from moesim.throughput.result import Plan, Workload

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """What happened in each iteration, arrays ``[iterations]``.

    Parameters
    ----------
    decoded, prefilled
        Tokens through the model: next tokens, and tokens of prompts.
    cached
        Cached tokens that decode attended to.
    blocks
        In use at the end.
    running
        Sequences that decoded.
    stopped
        Sequences sent back, over all iterations.
    """

    decoded: Ints
    prefilled: Ints
    cached: Ints
    blocks: Ints
    running: Ints
    stopped: int

    @property
    def iterations(self) -> int:
        """How many."""
        return len(self.decoded)


@compiled
def _schedule(
    prompts: Ints, outputs: Ints, capacity: int, block: int, full: int, log: Ints
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Fill `log` ``[iterations, 5]``; returns iterations and stops, or -1 when the log is too short.

    Running sequences are kept in order of arrival in ``order``; ``have`` is what is cached of each, ``made``
    the tokens it has generated. The queue is a stack of stopped sequences over the requests not yet seen.
    """
    count = len(prompts)
    have, made = np.zeros(count, np.int64), np.zeros(count, np.int64)
    order, again = np.empty(count, np.int64), np.empty(count, np.int64)
    running = waiting = stopped = used = fresh = done = step = 0
    while done < count:
        if step == len(log):
            return -1, stopped
        # Decode first; whoever came last makes room.
        index = 0
        while index < running:
            seq = order[index]
            if have[seq] % block == 0 and used == capacity:
                running -= 1
                last = order[running]
                used -= -(-have[last] // block)
                again[waiting] = last
                waiting += 1
                stopped += 1
                continue
            if have[seq] % block == 0:
                used += 1
            have[seq] += 1
            index += 1
        decoded = running
        cached = 0
        for index in range(running):
            cached += have[order[index]]
        # Then prompts, while tokens and blocks last.
        tokens, prefilled, entered = decoded, 0, running
        while waiting > 0 or fresh < count:
            seq = again[waiting - 1] if waiting > 0 else fresh
            length = prompts[seq] + made[seq]
            need = -(-length // block)
            if tokens + length > full or used + need > capacity:
                break
            if waiting > 0:
                waiting -= 1
            else:
                fresh += 1
            have[seq] = length
            used += need
            tokens += length
            prefilled += length
            order[entered] = seq
            entered += 1
        # Everybody has one token more; who has all leaves.
        kept = 0
        for index in range(entered):
            seq = order[index]
            made[seq] += 1
            if made[seq] == outputs[seq]:
                used -= -(-have[seq] // block)
                done += 1
            else:
                order[kept] = seq
                kept += 1
        running = kept
        log[step, 0], log[step, 1], log[step, 2], log[step, 3], log[step, 4] = (
            decoded,
            prefilled,
            cached,
            used,
            decoded,
        )
        step += 1
    return step, stopped


def schedule(prompts: Ints, outputs: Ints, capacity: int, *, block: int = 16, full: int) -> Schedule:
    """Run the scheduler over requests in their order.

    Parameters
    ----------
    prompts, outputs
        Tokens of each request, ``[requests]``.
    capacity
        Blocks of the cache.
    block
        Tokens of a block.
    full
        Tokens of an iteration at most, n_real; decode may pass it.

    Raises
    ------
    ConfigError
        If a request can never run.

    Examples
    --------
    Two requests of three tokens and two outputs, one block of four each:

    >>> done = schedule(np.array([3, 3]), np.array([2, 2]), 2, block=4, full=6)
    >>> done.prefilled.tolist(), done.decoded.tolist(), done.stopped
    ([6, 0], [0, 2], 0)
    """
    prompts, outputs = (np.ascontiguousarray(x, dtype=np.int64) for x in (prompts, outputs))
    faults = []
    if prompts.shape != outputs.shape or prompts.ndim != 1 or (prompts < 1).any() or (outputs < 1).any():
        faults.append(Fault("not positive numbers of the same count", "prompts, outputs"))
    elif len(prompts):
        longest = int((prompts + outputs).max())
        if -(-longest // block) > capacity:
            faults.append(Fault("the cache does not hold the longest request", "capacity", capacity))
        if longest > full:
            faults.append(Fault("an iteration does not hold the longest request", "full", full))
    if faults:
        raise ConfigError(faults)
    size = 64 + int(outputs.max(initial=0)) * 4 + len(prompts)
    while True:
        log = np.zeros((size, 5), dtype=np.int64)
        steps, stopped = _schedule(prompts, outputs, capacity, block, full, log)
        if steps >= 0:
            break
        size *= 4
    decoded, prefilled, cached, blocks, running = (log[:steps, i].copy() for i in range(5))
    return Schedule(decoded, prefilled, cached, blocks, running, stopped)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A schedule with its seconds.

    Parameters
    ----------
    schedule
        What happened.
    seconds, link_s, cpu_s, gpu_s
        Of each iteration, and of each resource in it.
    generated
        Tokens of all outputs.
    """

    schedule: Schedule
    seconds: Array
    link_s: Array
    cpu_s: Array
    gpu_s: Array
    generated: int
    prompt_tokens: int

    @property
    def total_s(self) -> float:
        """The whole."""
        return float(self.seconds.sum())

    @property
    def generated_per_s(self) -> float:
        """Generated tokens per second."""
        return self.generated / self.total_s

    @property
    def tokens_per_s(self) -> float:
        """Prompt and generated tokens per second, each counted once."""
        return (self.generated + self.prompt_tokens) / self.total_s

    @property
    def gpu_busy(self) -> float:
        """Part of the time in which the GPU works."""
        return float(self.gpu_s.sum()) / self.total_s

    @property
    def steady_gpu_busy(self) -> float:
        """The same while requests still enter: neither the first nor the last tenth of the iterations."""
        tenth = len(self.seconds) // 10
        middle = slice(tenth, max(len(self.seconds) - tenth, tenth + 1))
        return float(self.gpu_s[middle].sum() / self.seconds[middle].sum())


def simulate(
    box: LensBox,
    workload: Workload,
    cache_bytes: float,
    *,
    block: int = 16,
    prompts: Ints | None = None,
    outputs: Ints | None = None,
) -> Run:
    """Schedule requests and price every iteration.

    Link and CPU contend for the host's memory as in `LensBox.contention`; the pipeline of an iteration is
    `moesim.throughput.lens_pipeline.pipeline`.

    Parameters
    ----------
    box, workload, cache_bytes, block
        As for `moesim.throughput.lens.second_stage`.
    prompts, outputs
        Lengths of each request, where they differ.
    """
    check(box, workload, cache_bytes, block)
    if workload.requests is None and prompts is None:
        raise ConfigError(Fault("a schedule needs a number", "requests", None, "a whole number from 1"))
    count = workload.requests or 0
    prompts = np.full(count, workload.prompt_len, dtype=np.int64) if prompts is None else prompts
    outputs = np.full(len(prompts), workload.output_len, dtype=np.int64) if outputs is None else outputs
    capacity = int(box.cache_tokens(cache_bytes) // block)
    done = schedule(prompts, outputs, capacity, block=block, full=int(box.full))
    gpu: Array = np.asarray((done.decoded + done.prefilled) / box.gpu_tokens_per_s)
    data: Array = np.asarray(done.cached * box.token_bytes)
    link, cpu = _contend(box, data, gpu)
    seconds = pipeline(link, cpu, gpu, layers=box.layers, ahead=box.ahead)
    total = int(outputs.sum())
    return Run(done, seconds, link, cpu, gpu, total, int(prompts.sum()))


def _contend(box: LensBox, data: Array, gpu: Array) -> tuple[Array, Array]:
    """Seconds of link and CPU when both want the host's memory; see `LensBox.iteration_s`."""
    pairs = [box.contention(float(d), float(g)) for d, g in zip(data, gpu, strict=True)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def plan(
    box: LensBox,
    workload: Workload,
    cache_bytes: float,
    *,
    block: int = 16,
    run: Callable[..., Run] = simulate,
) -> Plan:
    """What MoE-Lens reaches with a workload and a cache."""
    got = run(box, workload, cache_bytes, block=block)
    count = workload.requests or 0
    # Prompts and outputs share iterations; time is told apart by the tokens of each.
    part = float(got.schedule.prefilled.sum()) / max(
        float((got.schedule.prefilled + got.schedule.decoded).sum()), 1.0
    )
    return Plan(
        system="MoE-Lens",
        policy={"batch": int(got.schedule.running.max(initial=0)), "block": block, "full": int(box.full)},
        batch=count,
        prompt_len=workload.prompt_len,
        output_len=workload.output_len,
        prefill_s=part * got.total_s,
        decode_s=(1.0 - part) * got.total_s,
        bounds=bounds(box, workload, cache_bytes),
        busy_s={
            "link": float(got.link_s.sum()),
            "cpu": float(got.cpu_s.sum()),
            "gpu": float(got.gpu_s.sum()),
        },
        memory_bytes={"cache": float(got.schedule.blocks.max(initial=0)) * block * box.token_bytes},
    )
