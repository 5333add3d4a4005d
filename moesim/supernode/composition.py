"""Compositions of experts: many whole models in a large memory, one of which answers each prompt.

A router, a small model itself, names the expert of each prompt. An expert that is not in the fast memory is
copied there from the slow one; then it answers. A batch of prompts costs

    router + misses * expert bytes / copy rate + prompts * (first token + further tokens)

as in Samba-CoE (arXiv 2405.07518, section VI-C), whose (prompt, expert) pairs run one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.policy import Residency, token_steps
from moesim.residency import curve
from moesim.trace.types import RoutingTrace

#: Prompts of a drawn stream, and the part of them that fills the cache before it is counted.
_PROMPTS, _WARM = 6000, 2000


@dataclass(frozen=True, slots=True)
class Tiers:
    """A node with experts in two memories.

    Parameters
    ----------
    fast_bytes
        Of the memory that experts run from, all devices together.
    slow_bytes
        Of the memory behind it.
    copy_bytes_per_s
        From the slow one to the fast one, all devices together.
    first_s
        Seconds of a prompt until its first token.
    token_s
        Seconds of every further token.
    """

    fast_bytes: float
    slow_bytes: float
    copy_bytes_per_s: float
    first_s: float
    token_s: float

    def switch_s(self, expert_bytes: float) -> float:
        """Seconds until another expert is in the fast memory.

        >>> Tiers(512e9, 12e12, 1e12, 0.0, 0.0).switch_s(13.5e9)
        0.0135
        """
        return expert_bytes / self.copy_bytes_per_s

    def at_once(self, expert_bytes: float, experts: float = np.inf) -> int:
        """Experts that the fast memory holds."""
        return int(min(self.fast_bytes // expert_bytes, experts))

    def most(self, expert_bytes: float) -> int:
        """Experts that the slow memory holds: the fast one has copies only."""
        return int(self.slow_bytes // expert_bytes)

    def answer_s(self, tokens: float) -> float:
        """Seconds of one prompt and so many tokens of its answer, its expert in place."""
        return self.first_s + (tokens - 1.0) * self.token_s


def hit_share(experts: int, slots: int, skew: float = 0.0, seed: int = 0) -> float:
    """Share of prompts whose expert is in the fast memory, least recently used out first.

    Parameters
    ----------
    experts
        Experts that prompts ask for.
    slots
        Of the fast memory.
    skew
        Exponent of a Zipf law of how often each is asked for; 0 for equally often.
    seed
        Of the drawn prompts.

    Examples
    --------
    >>> hit_share(10, 10), hit_share(10, 0)
    (1.0, 0.0)
    """
    if slots <= 0 or slots >= experts:
        return float(slots >= experts)
    share = np.arange(1, experts + 1) ** -skew
    rng = np.random.default_rng([experts, seed])
    ids = rng.choice(experts, _PROMPTS, p=share / share.sum()).astype(np.uint16)
    zeros = np.zeros(_PROMPTS, dtype=np.int32)

    def hits(prompts: int) -> int:
        trace = RoutingTrace(
            ids[:prompts, None, None],
            zeros[:prompts],
            experts,
            (0,),
            np.arange(prompts, dtype=np.int32),
            np.ones(prompts, dtype=np.int8),
        )
        return int(curve(token_steps(trace), Residency("lru")).hits[0, slots])

    return (hits(_PROMPTS) - hits(_WARM)) / (_PROMPTS - _WARM)


def batch_s(
    node: Tiers,
    expert_bytes: float,
    experts: int,
    prompts: int,
    tokens: float,
    *,
    router_s: float = 0.0,
    skew: float = 0.0,
    seed: int = 0,
) -> float:
    """Mean seconds of a batch of prompts over a number of experts.

    Parameters
    ----------
    node
        The machine.
    expert_bytes
        Of one expert.
    experts
        How many there are.
    prompts
        In the batch.
    tokens
        Of each answer.
    router_s
        Seconds of the router for the whole batch.
    skew, seed
        As of `hit_share`.

    Examples
    --------
    >>> node = Tiers(100.0, 1000.0, 10.0, 1.0, 0.5)
    >>> batch_s(node, 10.0, 10, 4, 3), batch_s(node, 100.0, 10, 4, 3) > 4 * 2.0 + 30.0
    (8.0, True)
    """
    missed = prompts * (1.0 - hit_share(experts, node.at_once(expert_bytes), skew, seed))
    return router_s + missed * node.switch_s(expert_bytes) + prompts * node.answer_s(tokens)
