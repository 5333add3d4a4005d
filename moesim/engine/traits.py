"""What a serving engine adds to its kernels: a few constants with a meaning, fitted to measured runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traits:
    """Constants of one serving engine. The defaults add nothing.

    Parameters
    ----------
    host_s
        Seconds of every step in which devices wait for the host: scheduling, sampling, launching.
    communication
        Seconds of collectives inside a step over those of the same collectives alone: in a step, ranks arrive
        at different times.
    request_s
        Seconds a request spends outside of steps: parsing, tokenising, the way back.
    first_steps
        Decode steps that pass between a request's prefill and its first token at the client.
    start_up
        Share of the queue of a benchmark that starts all its requests at once, that is in its mean time to
        first token; ``1 / 10`` for a run of ten waves.
    """

    host_s: float = 0.0
    communication: float = 1.0
    request_s: float = 0.0
    first_steps: float = 0.0
    start_up: float = 0.1
