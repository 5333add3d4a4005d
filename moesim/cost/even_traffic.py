"""Bytes of an exchange where tokens choose experts evenly: closed forms, one number per rank.

Every rank holds `tokens` tokens, each of which chooses `top_k` different experts of `experts`, which the
ranks share equally. Ranks are counted in order, `domain` of them to a scale-up domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class EvenTraffic:
    """Token vectors that one rank sends, and as many it receives.

    Parameters
    ----------
    own
        Stay on the rank.
    up
        Go to other ranks of the domain.
    out
        Cross the network.
    """

    own: float
    up: float
    out: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.own + self.up + self.out


def hit_parts(parts: int, experts: int, top_k: int) -> float:
    """Parts, of `parts` equal ones, in which a token has at least one of its experts.

    ``parts * (1 - C(E - E/parts, k) / C(E, k))``: choices are without replacement.

    >>> hit_parts(1, 256, 8), round(hit_parts(2, 256, 8), 4), hit_parts(256, 256, 8)
    (1.0, 1.993, 8.0)
    """
    if parts >= experts:
        return float(top_k)
    outside = experts - experts / parts
    chosen = np.arange(top_k)
    return float(parts * (1.0 - np.prod(np.maximum(outside - chosen, 0.0) / (experts - chosen))))


def hit_parts_limited(parts: int, experts: int, top_k: int, groups: int, top_groups: int) -> float:
    """Parts hit where a token's experts lie in `top_groups` of `groups`, which are chosen evenly.

    Parts are runs of neighbouring experts, as groups are: a part holds whole groups, or lies inside one.

    >>> round(hit_parts_limited(4, 256, 8, 8, 4), 3), round(hit_parts_limited(8, 256, 8, 8, 4), 3)
    (2.928, 3.629)
    >>> hit_parts_limited(16, 256, 8, 1, 1) == hit_parts(16, 256, 8)
    True
    """
    if groups <= 1 or top_groups >= groups or parts <= 1:
        return hit_parts(parts, experts, top_k)
    allowed = experts // groups * top_groups

    def missed(mine: float) -> float:
        """Chance that none of `mine` of the allowed experts is chosen."""
        chosen = np.arange(top_k)
        return float(np.prod(np.maximum(allowed - mine - chosen, 0.0) / (allowed - chosen)))

    if parts >= groups:
        return parts * top_groups / groups * (1.0 - missed(experts / parts))
    held = groups // parts
    hit = sum(
        math.comb(held, j)
        * math.comb(groups - held, top_groups - j)
        / math.comb(groups, top_groups)
        * (1.0 - missed(j * experts / groups))
        for j in range(1, min(held, top_groups) + 1)
    )
    return parts * hit


def direct_traffic(tokens: float, ranks: int, domain: int, copies: float) -> EvenTraffic:
    """Every copy of a token goes straight to its rank.

    Parameters
    ----------
    copies
        Of each token: `top_k` where each pair travels on its own, fewer where a token goes once to a rank.

    Examples
    --------
    >>> direct_traffic(128, 16, 8, 8)
    EvenTraffic(own=64.0, up=448.0, out=512.0)
    """
    domain = min(domain, ranks)
    each = tokens * copies / ranks
    return EvenTraffic(each, each * (domain - 1), each * (ranks - domain))


def two_level_traffic(
    tokens: float, ranks: int, domain: int, experts: int, top_k: int, node_limit: int | None = None
) -> EvenTraffic:
    """A token crosses the network once per domain and goes once to each rank.

    Parameters
    ----------
    node_limit
        Most domains that a token's experts may lie in (DeepSeek-V3: 4); None for no limit.

    Returns
    -------
    EvenTraffic
        What arrives over the network for the rank itself is not sent on.
    """
    domain = min(domain, ranks)
    domains = ranks // domain
    reach = min(domains, node_limit or domains)
    share = reach / domains
    # Within reach the choice is even: as if only those domains were there.
    nodes = hit_parts(reach, round(experts * share), top_k)
    hit = hit_parts(reach * domain, round(experts * share), top_k)
    return EvenTraffic(
        own=tokens * hit / domain,
        up=tokens * hit * (domain - 1) / domain,
        out=tokens * nodes * (domains - 1) / domains,
    )
