"""MoE-Lens: what the host's memory allows a GPU that streams its experts (arXiv 2504.09345, section 5).

The first stage is a bound. Weights cross the link once an iteration, which takes ``delta = ModelSize /
B_IO``; in it each sequence in the cache gets one token, or its prompt done. So what counts is how many tokens
a sequence lets through for the memory that it holds while it lives, its parallelism-memory efficiency (3),
and

    T_max = min(PME * M / delta, T_GPU)    (4)

tokens per second with M tokens of cache. The second stage puts in a number of requests, paged blocks, a ramp
up and down, and the CPU's attention. Its equations 8 to 13 were not in the text that was read; the ones here
are derived in `second_stage`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import ConfigError, Fault, InfeasibleError
from moesim.hardware.types import Hardware
from moesim.model import Model, flops_per_token, kv_bytes_per_token, weight_bytes
from moesim.throughput.gen_box import StreamBox
from moesim.throughput.gen_work import ModelWork
from moesim.throughput.result import Workload


def pme(prompt_len: float, output_len: float) -> float:
    """Parallelism-memory efficiency (3): tokens through the model per cached token and iteration.

    ``(p + g) / sum(p + j)`` over the output, which the paper closes to ``2 (p + g) / ((2 p + g) g)``.

    >>> round(pme(98, 32), 5)
    0.03564
    """
    return 2.0 * (prompt_len + output_len) / ((2.0 * prompt_len + output_len) * output_len)


def held(prompt_len: int, output_len: int, block: int = 1) -> float:
    """Cached tokens that a sequence holds, summed over its iterations, in whole blocks.

    The prompt's iteration brings the first token, so there are `output_len` iterations, which end with
    ``p, p + 1, ... p + g - 1`` cached tokens.

    >>> held(98, 32), held(98, 32, block=16)
    (3632.0, 3872.0)
    """
    tokens = prompt_len + np.arange(output_len)
    return float((np.ceil(tokens / block) * block).sum())


def intensity(model: Model, tokens: float) -> float:
    """Operations per byte of weights in an iteration with that many tokens (1), about ``n N_k / N_e``.

    The paper's ``n (6 N_k h h_i + 4 h^2 + 4 h^2 / s) / (6 N_e h h_i + 4 h^2 + 4 h^2 / s)``, counted from the
    model's matrices.
    """
    moved = weight_bytes(model)
    return tokens * float(flops_per_token(model, 0, "prefill")) / moved


def saturating_tokens(flops_per_s: float, link_bytes_per_s: float, experts: int, top_k: int) -> float:
    """Tokens in an iteration that keep the GPU busy while weights stream (2).

    >>> saturating_tokens(150e12, 32e9, 8, 2)
    18750.0
    """
    return flops_per_s / link_bytes_per_s * experts / top_k


def overlap_gain(prompt_len: float, output_len: float) -> float:
    """Effective cache over its size when prompts enter while others decode (7).

    A sequence holds ``p + g / 2`` tokens in the mean, not ``p + g``.

    >>> round(overlap_gain(98, 256), 2)
    1.57
    """
    return (prompt_len + output_len) / (prompt_len + output_len / 2.0)


@dataclass(frozen=True, slots=True)
class LensBox:
    """A model on a box, in the numbers of the paper.

    Parameters
    ----------
    name
        Of both.
    layers
        Of the model.
    weight_bytes, token_bytes
        Of the model, and cached per token.
    token_flops
        Products of one token.
    link_bytes_per_s
        B_IO.
    flops_per_s
        What the GPU reaches, so that ``T_GPU = flops_per_s / token_flops``.
    memory_bytes_per_s
        What the host's memory gives, to the CPU and the link together.
    friction
        Part of the link's rate that is lost when the CPU uses all of that bandwidth.
    ahead
        Part of the GPU's work that comes before a layer's attention: the projections.
    saturation
        Tokens that the scheduler puts in an iteration at most, n_real; None for as many as the GPU does while
        the weights stream.
    """

    name: str
    layers: int
    weight_bytes: float
    token_bytes: float
    token_flops: float
    link_bytes_per_s: float
    flops_per_s: float
    memory_bytes_per_s: float
    friction: float = 0.0
    ahead: float = 0.1
    saturation: float | None = None

    @classmethod
    def of(cls, model: Model, hardware: Hardware) -> LensBox:
        """From a hardware file: the GPU at its measured efficiency for large products."""
        box, work = StreamBox.of(hardware), ModelWork.of(model)
        before = sum(layer.qkv_flops for layer in work.layers)
        flops = float(flops_per_token(model, 0, "prefill"))
        return cls(
            f"{model.name} on {hardware.name}",
            len(model.layers),
            weight_bytes(model),
            kv_bytes_per_token(model),
            flops,
            box.link_bytes_per_s,
            box.gpu_flops_per_s * box.gemm.compute[-1][1],
            box.host_bytes_per_s,
            ahead=before / flops,
        )

    def but(self, **changes: float | None) -> LensBox:
        """With some numbers replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def delta_s(self) -> float:
        """Seconds for all weights over the link."""
        return self.weight_bytes / self.link_bytes_per_s

    @property
    def gpu_tokens_per_s(self) -> float:
        """T_GPU."""
        return self.flops_per_s / self.token_flops

    @property
    def full(self) -> float:
        """Tokens in an iteration at most, n_real."""
        return self.saturation or self.gpu_tokens_per_s * self.delta_s

    def cache_tokens(self, cache_bytes: float) -> float:
        """M: tokens that a cache of that size holds."""
        return cache_bytes / self.token_bytes

    def contention(self, data_bytes: float, gpu_s: float) -> tuple[float, float]:
        """Seconds of link and CPU in an iteration in which both want the host's memory.

        The link loses `friction` of its rate in proportion to the bandwidth that the CPU's attention takes;
        the CPU has what the link leaves. Both depend on how long the iteration is, which is found by
        repetition: it changes by less than a thousandth in the fourth round.

        Parameters
        ----------
        data_bytes
            Cached bytes that the CPU reads.
        gpu_s
            What the GPU needs.
        """
        link = seconds = max(self.delta_s, gpu_s)
        cpu = 0.0
        for _ in range(4):
            taken = min(data_bytes / seconds / self.memory_bytes_per_s, 1.0)
            link = self.delta_s / max(1.0 - self.friction * taken, 1e-3)
            left = self.memory_bytes_per_s - self.weight_bytes / max(link, seconds)
            cpu = data_bytes / max(left, 1e-3 * self.memory_bytes_per_s)
            seconds = max(link, gpu_s, cpu)
        return link, cpu

    def iteration_s(self, cached: float, tokens: float) -> float:
        """Seconds of an iteration: two groups alternate, so link, CPU and GPU work side by side.

        Parameters
        ----------
        cached
            Cached tokens that are attended to.
        tokens
            Tokens through the model.
        """
        gpu_s = tokens / self.gpu_tokens_per_s
        return max(*self.contention(cached * self.token_bytes, gpu_s), gpu_s)


def first_stage(box: LensBox, workload: Workload, cache_bytes: float) -> float:
    """T_max (4): tokens per second, prompts and outputs together."""
    efficiency = pme(workload.prompt_len, workload.output_len)
    return min(efficiency * box.cache_tokens(cache_bytes) / box.delta_s, box.gpu_tokens_per_s)


def bounds(box: LensBox, workload: Workload, cache_bytes: float, block: int = 1) -> dict[str, float]:
    """Generated tokens per second that no schedule of whole iterations beats.

    ``cache``: every iteration takes at least delta and holds at most M tokens, of which a sequence needs
    `held` over its life; ``compute``: prompt and output but for the last token go through the GPU.
    """
    p, g = workload.prompt_len, workload.output_len
    cache = box.cache_tokens(cache_bytes) / held(p, g, block) / box.delta_s
    return {"cache": g * cache, "compute": g * box.gpu_tokens_per_s / (p + g - 1.0)}


def host_bandwidth(box: LensBox, cache_bytes: float) -> float:
    """Bytes per second that the host's memory must give: a full cache in each delta, and the link (5)."""
    return cache_bytes / box.delta_s + box.link_bytes_per_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the second stage expects.

    Parameters
    ----------
    seconds, iterations
        For all requests.
    requests_per_iteration
        Admitted in the steady state.
    tokens_per_s, generated_per_s
        Prompts and outputs together, and outputs alone.
    """

    seconds: float
    iterations: float
    requests_per_iteration: float
    tokens_per_s: float
    generated_per_s: float


def second_stage(box: LensBox, workload: Workload, cache_bytes: float, block: int = 16) -> Estimate:
    """Seconds for a number of requests, by a closed form (ours, where the paper has equations 8 to 13).

    In the steady state r requests enter and r leave in each iteration. The cache then holds ``r H`` tokens,
    with H what one holds over its life in whole blocks (`held`), and ``r (p + g - 1)`` tokens go through the
    model, so

        r = min(M / H, n_real / (p + g - 1)).

    An iteration takes ``t = max(link, CPU, GPU)`` at that load. K requests enter in ``K / r`` iterations, and
    the last of them needs ``g - 1`` more in which the load falls to nothing:

        T = (K / r) t + (g - 1) t',  t' the mean of t over a load falling evenly to zero.

    With K growing this becomes the first stage, but for blocks and the CPU.

    Parameters
    ----------
    box, workload, cache_bytes
        The workload must say how many requests there are.
    block
        Tokens of a page.

    Raises
    ------
    ConfigError
        Without a number of requests.
    InfeasibleError
        If one sequence does not fit the cache, or its prompt an iteration.
    """
    if workload.requests is None:
        raise ConfigError(Fault("the second stage needs a number", "requests", None, "a whole number from 1"))
    check(box, workload, cache_bytes, block)
    p, g, count = workload.prompt_len, workload.output_len, workload.requests
    through = p + g - 1.0
    rate = min(
        np.floor(box.cache_tokens(cache_bytes) / block) * block / held(p, g, block), box.full / through
    )
    steady = box.iteration_s(rate * (held(p, g) - p), rate * through)
    # What is left of the load after each of the last iterations.
    left = np.linspace(1.0, 0.0, 9)
    ramp = float(np.mean([box.iteration_s(x * rate * (held(p, g) - p), x * rate * (g - 1.0)) for x in left]))
    entering = max(count / rate, 1.0)
    seconds = entering * steady + (g - 1.0) * ramp
    return Estimate(
        float(seconds),
        float(entering + g - 1.0),
        float(rate),
        float(count * (p + g) / seconds),
        float(count * g / seconds),
    )


def check(box: LensBox, workload: Workload, cache_bytes: float, block: int) -> None:
    """Refuse what no schedule can do."""
    whole = np.ceil((workload.prompt_len + workload.output_len) / block) * block
    if whole > box.cache_tokens(cache_bytes):
        raise InfeasibleError(
            f"a sequence of {workload.prompt_len + workload.output_len} tokens does not fit a cache of "
            f"{cache_bytes / 1e9:.3g} GB",
            resource="cache",
            needed=float(whole * box.token_bytes),
            available=cache_bytes,
        )
    if workload.prompt_len + workload.output_len > box.full:
        raise InfeasibleError(
            f"a prompt of {workload.prompt_len} tokens does not fit an iteration of {box.full:.0f}",
            resource="iteration",
            needed=float(workload.prompt_len + workload.output_len),
            available=box.full,
        )
