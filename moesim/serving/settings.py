"""How engines form steps, how many there are, and who routes requests to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.errors import ConfigError, Fault

#: Order of a queue, and what has to be free before a request is taken in.
ORDERS = ("fcfs", "priority", "longest-prefix")
ADMISSIONS = ("next-chunk", "whole-output", "share-of-output", "whole-prompt")
ROUTERS = (
    "round-robin",
    "least-requests",
    "least-tokens",
    "random",
    "two-choices",
    "prefix",
    "session",
    "vllm",
)
PREEMPTIONS = ("recompute", "swap")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """How an engine forms steps.

    Parameters
    ----------
    chunked
        Whether a prompt may be read in several steps.
    prefill_first
        Whether steps read prompts alone while there are any (SGLang); else prompts share steps with decoding.
    order
        Of waiting requests: one of `ORDERS`.
    admission
        What has to be free before a request is taken in, one of `ADMISSIONS`: blocks of its next chunk
        (vLLM), of prompt and whole output (TensorRT-LLM's GUARANTEED_NO_EVICT), of prompt and output beside a
        share of the output of all that run (SGLang's new-token ratio), or of the prompt (MAX_UTILIZATION).
    output_share, least_share, share_steps
        That share, what it falls to, and in how many steps of decoding (SGLang's
        ``SGLANG_INIT_NEW_TOKEN_RATIO``, that times ``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR``, and
        ``SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS``).
    preemption
        What becomes of requests that blocks are taken from: computed anew, or copied to the host and back.
    prefix_cache
        Whether blocks of prompts are kept and shared.
    found_when_planned
        Whether a block is found from the moment its filling is planned, as in vLLM; else once it is full.
    long_prompt_tokens
        Most tokens of one prompt in a step (vLLM's ``--long-prefill-token-threshold``); 0 for no limit.
    mixed_chunk
        Whether steps that read prompts first decode, too (SGLang's ``--enable-mixed-chunk``).
    block_tokens
        Tokens of a block of the cache.
    graph_sizes
        Tokens of decode steps that graphs were captured for; a step runs the next larger. Empty for none.
    asynchronous
        Whether the host plans a step while the device runs the one before: requests that come meanwhile are
        not in it, and seats and blocks of those that end are not free for it (vLLM's asynchronous scheduling,
        SGLang's overlap schedule).
    extra_step
        Whether, then, requests that end are decoded once more, as in SGLang; vLLM and TensorRT-LLM know which
        request reaches its length.
    """

    chunked: bool = True
    prefill_first: bool = False
    order: str = "fcfs"
    admission: str = "next-chunk"
    output_share: float = 0.7
    preemption: str = "recompute"
    prefix_cache: bool = True
    block_tokens: int = 16
    graph_sizes: tuple[int, ...] = ()
    asynchronous: bool = False
    least_share: float = 0.098
    share_steps: int = 600
    found_when_planned: bool = True
    long_prompt_tokens: int = 0
    mixed_chunk: bool = False
    extra_step: bool = False

    @classmethod
    def of(cls, backend: str) -> Scheduler:
        """Defaults of ``vllm``, ``sglang`` or ``trtllm``."""
        return _DEFAULTS[backend]

    def faults(self) -> list[Fault]:
        """What is wrong with the settings."""
        found = []
        for name, value, allowed in (
            ("order", self.order, ORDERS),
            ("admission", self.admission, ADMISSIONS),
            ("preemption", self.preemption, PREEMPTIONS),
        ):
            if value not in allowed:
                found.append(Fault(f"unknown {name}", f"--{name}", value, ", ".join(allowed)))
        if not 0 <= self.output_share <= 1:
            found.append(Fault("is a fraction", "--output-share", self.output_share, "0 to 1"))
        if not 0 <= self.least_share <= 1:
            found.append(Fault("is a fraction", "--least-share", self.least_share, "0 to 1"))
        if self.share_steps < 1:
            found.append(Fault("must be at least 1", "--share-steps", self.share_steps))
        if self.long_prompt_tokens < 0:
            found.append(Fault("is negative", "--long-prefill-token-threshold", self.long_prompt_tokens))
        if not 1 <= self.block_tokens <= 4096:
            found.append(Fault("is out of range", "--block-size", self.block_tokens, "1 to 4096"))
        return found


_DEFAULTS = {
    "vllm": Scheduler(),
    "sglang": replace(
        Scheduler(),
        prefill_first=True,
        admission="share-of-output",
        block_tokens=1,
        found_when_planned=False,
        extra_step=True,
    ),
    "trtllm": replace(Scheduler(), admission="whole-output", block_tokens=32, found_when_planned=False),
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a deployment, and who routes requests to them.

    Parameters
    ----------
    replicas
        Engines alike.
    router
        One of `ROUTERS`.
    """

    replicas: int = 1
    router: str = "vllm"

    def faults(self) -> list[Fault]:
        """What is wrong with it."""
        found = []
        if not 1 <= self.replicas <= 100_000:
            found.append(Fault("is out of range", "--replicas", self.replicas, "1 to 100000"))
        if self.router not in ROUTERS:
            found.append(Fault("unknown router", "--router", self.router, ", ".join(ROUTERS)))
        return found


def check_settings(scheduler: Scheduler, fleet: Fleet) -> None:
    """Raise `ConfigError` with every fault."""
    found = scheduler.faults() + fleet.faults()
    if found:
        raise ConfigError(found)
