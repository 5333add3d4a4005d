"""Requests made up from an arrival process and length distributions; same seed, same requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.requests.arrivals import Arrivals, parse_arrivals
from moesim.requests.types import MAX_TOKENS, RequestTrace, request_trace, take

Tokens = npt.NDArray[np.int32]


class Lengths(Protocol):
    """Something that lengths are drawn from."""

    def draw(self, requests: int, rng: np.random.Generator) -> Tokens:
        """Tokens of each request, at least 1, int32 ``[requests]``."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Every request alike."""

    tokens: int

    def draw(self, requests: int, rng: np.random.Generator) -> Tokens:  # noqa: ARG002 - nothing is random
        """The same, every time."""
        return np.full(requests, self.tokens, np.int32)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lengths whose logarithm is normal, rounded to whole tokens, at least 1.

    Parameters
    ----------
    mean_tokens
        Mean of the distribution.
    cv
        Standard deviation over mean; the logarithm has variance ``ln(1 + cv**2)``.
    """

    mean_tokens: float
    cv: float

    def draw(self, requests: int, rng: np.random.Generator) -> Tokens:
        """Independent lengths."""
        variance = np.log1p(self.cv**2)
        drawn = rng.lognormal(np.log(self.mean_tokens) - variance / 2, np.sqrt(variance), requests)
        return np.clip(np.rint(drawn), 1, MAX_TOKENS).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Empirical:
    """Lengths drawn from observed ones, with replacement.

    Parameters
    ----------
    observed
        Whole numbers of at least 1.
    """

    observed: npt.NDArray[np.integer]

    def draw(self, requests: int, rng: np.random.Generator) -> Tokens:
        """Independent draws."""
        return rng.choice(self.observed, requests).astype(np.int32)


def parse_lengths(text: str, where: str = "lengths") -> Lengths:
    """Lengths as people write them: ``1024``, ``fixed:1024`` or ``lognormal:MEAN:CV``.

    Raises
    ------
    ConfigError
        If it is none of them.

    Examples
    --------
    >>> parse_lengths("lognormal:800:1.2")
    Lognormal(mean_tokens=800.0, cv=1.2)
    """
    name, *parts = text.split(":") if ":" in text else ("fixed", text)
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if name == "fixed" and len(numbers) == 1 and numbers[0].is_integer() and 1 <= numbers[0] <= MAX_TOKENS:
        return Fixed(int(numbers[0]))
    if name == "lognormal" and len(numbers) == 2 and 1 <= numbers[0] <= MAX_TOKENS and 0 < numbers[1] <= 100:
        return Lognormal(*numbers)
    raise ConfigError(Fault("is no length", where, text, "TOKENS, fixed:TOKENS or lognormal:MEAN:CV"))


def generate_requests(
    requests: int,
    arrivals: Arrivals | str,
    input_tokens: Lengths | int,
    output_tokens: Lengths | int,
    *,
    seed: int = 0,
) -> RequestTrace:
    """Make up requests.

    Parameters
    ----------
    requests
        How many.
    arrivals
        An arrival process, or its spelling: ``poisson:10``.
    input_tokens, output_tokens
        Length distributions, drawn independently; a number for all alike.
    seed
        Seed of everything random.

    Raises
    ------
    ConfigError
        If there are to be no requests, or the arrivals are spelled wrong.

    Examples
    --------
    >>> trace = generate_requests(3, "fixed:2", 1000, 100)
    >>> trace.arrival_s.tolist()
    [0.0, 0.5, 1.0]
    """
    if requests < 1:
        raise ConfigError(Fault("must be at least 1", "requests", requests))
    process = parse_arrivals(arrivals) if isinstance(arrivals, str) else arrivals
    sources = [Fixed(x) if isinstance(x, int) else x for x in (input_tokens, output_tokens)]
    # Streams of their own, so that other lengths leave the arrivals as they are.
    times, first, second = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    return request_trace(
        process.times_s(requests, times),
        sources[0].draw(requests, first),
        sources[1].draw(requests, second),
        concurrency=process.concurrency,
        source=f"generated: {process}, input {sources[0]}, output {sources[1]}"[:300],
        metadata={"format": "generated", "seed": str(seed)},
    )


def with_arrivals(trace: RequestTrace, arrivals: Arrivals | str, *, seed: int = 0) -> RequestTrace:
    """The same requests in the same order, arriving otherwise."""
    process = parse_arrivals(arrivals) if isinstance(arrivals, str) else arrivals
    times = process.times_s(len(trace), np.random.default_rng(seed))
    return replace(trace, arrival_s=times, concurrency=process.concurrency)


def resample(trace: RequestTrace, requests: int, arrivals: Arrivals | str, *, seed: int = 0) -> RequestTrace:
    """Requests like observed ones: lengths drawn in pairs, with replacement, arriving otherwise.

    Sessions and prefixes say nothing once requests are drawn apart, and are left out.
    """
    if requests < 1:
        raise ConfigError(Fault("must be at least 1", "requests", requests))
    rng = np.random.default_rng(seed)
    alone = replace(trace, session=None, prefix_hashes=None, prefix_ptr=None, prefix_block_tokens=None)
    drawn = take(alone, rng.integers(0, len(trace), requests))
    return with_arrivals(drawn, arrivals, seed=int(rng.integers(2**31)))
