"""What a throughput system is asked and answers: a workload, and a plan with its tokens per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moesim.errors import ConfigError, Fault

#: A number of a policy, or a choice by name.
Setting = int | float | str


@dataclass(frozen=True, slots=True)
class Workload:
    """Offline requests of one shape.

    Parameters
    ----------
    prompt_len, output_len
        Tokens of each request. Systems that pad take the padded length.
    requests
        Requests there are; None for as many as a system likes.

    Examples
    --------
    >>> Workload(418, 128).context
    482.0
    """

    prompt_len: int
    output_len: int
    requests: int | None = None

    def __post_init__(self) -> None:
        faults = [
            Fault("not a whole number from 1", name, value, "a whole number from 1")
            for name, value in (("prompt_len", self.prompt_len), ("output_len", self.output_len))
            if value < 1
        ]
        if self.requests is not None and self.requests < 1:
            faults.append(Fault("not a whole number from 1", "requests", self.requests, "from 1, or None"))
        if faults:
            raise ConfigError(faults)

    @property
    def context(self) -> float:
        """Cached tokens of a request, mean over its decode."""
        return self.prompt_len + self.output_len / 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a system would do with a workload on a box, and what it would reach.

    Parameters
    ----------
    system
        Its name.
    policy
        What was chosen, by name: ``batch`` (sequences held at once), ``micro_batch`` and what else the
        system has.
    batch, output_len, prompt_len
        Sequences that go through together, tokens that each brings and gets.
    prefill_s, decode_s
        Of one batch.
    bounds
        Generated tokens per second that nothing on this box can beat, by resource.
    busy_s
        Seconds in which each resource works on one batch, prefill and decode together.
    memory_bytes
        Bytes used, by memory.
    assumptions
        What is not known and was supposed.
    """

    system: str
    policy: Mapping[str, Setting]
    batch: int
    prompt_len: int
    output_len: int
    prefill_s: float
    decode_s: float
    bounds: Mapping[str, float] = field(default_factory=dict)
    busy_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, float] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the whole time, prefill counted."""
        return self.batch * self.output_len / (self.prefill_s + self.decode_s)

    @property
    def decode_tokens_per_s(self) -> float:
        """Generated tokens over the time of decode alone."""
        return self.batch * self.output_len / self.decode_s if self.decode_s else float("inf")

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens over the time of prefill."""
        return self.batch * self.prompt_len / self.prefill_s if self.prefill_s else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object; a rate without a time is null."""
        rates = {
            "tokens_per_s": self.tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
        }
        return {
            "system": self.system,
            "policy": dict(self.policy),
            "batch": self.batch,
            "prompt_len": self.prompt_len,
            "output_len": self.output_len,
            "prefill_s": self.prefill_s,
            "decode_s": self.decode_s,
            **{name: rate if rate != float("inf") else None for name, rate in rates.items()},
            "bounds": dict(self.bounds),
            "busy_s": dict(self.busy_s),
            "memory_bytes": dict(self.memory_bytes),
            "assumptions": list(self.assumptions),
        }
