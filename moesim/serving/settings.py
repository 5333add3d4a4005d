"""How engines form steps, how many there are, and who routes requests to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.errors import ConfigError, Fault

#: Order of a queue, and what has to be free before a request is taken in.
ORDERS = ("fcfs", "priority", "longest-prefix")
ADMISSIONS = ("next-chunk", "whole-output", "share-of-output")
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
        (vLLM), of prompt and whole output (TensorRT-LLM's GUARANTEED_NO_EVICT), or of prompt and a share of
        the output of all that run (SGLang's new-token ratio).
    output_share
        That share.
    preemption
        What becomes of requests that blocks are taken from: computed anew, or copied to the host and back.
    prefix_cache
        Whether blocks of prompts are kept and shared.
    block_tokens
        Tokens of a block of the cache.
    graph_sizes
        Tokens of decode steps that graphs were captured for; a step runs the next larger. Empty for none.
    asynchronous
        Whether the host plans a step while the device runs the one before.
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
        if not 1 <= self.block_tokens <= 4096:
            found.append(Fault("is out of range", "--block-size", self.block_tokens, "1 to 4096"))
        return found


_DEFAULTS = {
    "vllm": Scheduler(),
    "sglang": replace(Scheduler(), prefill_first=True, admission="share-of-output", block_tokens=1),
    "trtllm": replace(Scheduler(), admission="whole-output", block_tokens=32),
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
