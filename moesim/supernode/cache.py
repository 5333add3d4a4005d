"""The memory pool of a supernode: cached prefixes of prompts, and blocks of models.

Host memories of all nodes are one pool that every device reads over the scale-up fabric. A prompt whose
prefix is in the pool computes the rest and loads the prefix:

    seconds(reuse) = compute of the new tokens + cached bytes / rate

The rate is that of the service, which a fabric can only bound from above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reuse:
    """A prefill step whose prompts are partly cached.

    Parameters
    ----------
    compute_s
        Of the tokens that are new.
    load_s
        Of the cache of those that are not.
    """

    compute_s: float
    load_s: float

    @property
    def seconds(self) -> float:
        """Of both, one after the other."""
        return self.compute_s + self.load_s


def with_reuse(
    step_s: Callable[[float, float], float], length: float, share: float, cached_bytes: float, rate: float
) -> Reuse:
    """A prefill step of prompts of which a share is cached.

    Parameters
    ----------
    step_s
        Seconds of a step whose prompts have so many new and so many past tokens.
    length
        Of each prompt.
    share
        Of its tokens that are cached.
    cached_bytes
        Cache of all whole prompts of the step that pass the same link.
    rate
        Bytes per second of the service on that link.

    Examples
    --------
    >>> half = with_reuse(lambda new, past: new / 1000.0, 4000.0, 0.5, 1e9, 1e9)
    >>> half.compute_s, half.load_s, half.seconds
    (2.0, 0.5, 2.5)
    """
    past = share * length
    return Reuse(step_s(length - past, past), share * cached_bytes / rate)


def service_rate(
    gain: float, share: float, step_s: Callable[[float, float], float], length: float, cached_bytes: float
) -> float:
    """Rate of the service that a published gain of reuse implies, bytes per second.

    Parameters
    ----------
    gain
        Throughput with the share cached over that with none.
    share, step_s, length, cached_bytes
        As of `with_reuse`.

    Examples
    --------
    >>> service_rate(1.6, 0.5, lambda new, past: new / 1000.0, 4000.0, 1e9)
    1000000000.0
    """
    past = share * length
    left = step_s(length, 0.0) / gain - step_s(length - past, past)
    if left <= 0:
        raise ValueError(f"computing the rest alone takes longer than a gain of {gain} leaves")
    return share * cached_bytes / left


def load_seconds(model_bytes: float, instances: int, store: float, fabric: float, pooled: bool) -> float:
    """Seconds until several instances have a model that none of them holds.

    Without a pool each reads it from the object store, whose bandwidth they share. With one, a single copy is
    read from the store, and all instances read it from the pool at the same time.

    Parameters
    ----------
    model_bytes
        Of all weights.
    instances
        That start at once.
    store
        Bytes per second of the object store.
    fabric
        Bytes per second at which an instance reads the pool.
    pooled
        Whether there is a pool.

    Examples
    --------
    >>> load_seconds(100.0, 8, 1.0, 50.0, pooled=False), load_seconds(100.0, 8, 1.0, 50.0, pooled=True)
    (800.0, 102.0)
    """
    if not pooled:
        return instances * model_bytes / store
    return model_bytes / store + model_bytes / fabric
