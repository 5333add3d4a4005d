"""A sample of tokens and of requests, the same however a trace is split: those of the lowest hashes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[Any]

#: Held-out tokens that predictions are judged on, at most.
TEST_TOKENS = 16384
#: Requests, and tokens of each, that whole sequences are replayed from, at most.
REQUESTS, REQUEST_TOKENS = 32, 512


def _none() -> Ints:
    return np.zeros(0, np.int64)


def _no_ids() -> Ints:
    return np.zeros((0, 0, 0), np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Tokens kept whole.

    Parameters
    ----------
    test_key, test_ids
        Hash ``[n]`` and ids ``[layers, n, top_k]`` of held-out tokens: those of odd requests.
    request, request_ids
        Request ``[m]`` and ids ``[layers, m, top_k]`` of the first tokens of some requests, in trace order.
    seed
        Of the hashes.
    """

    test_key: Ints = field(default_factory=_none)
    test_ids: Ints = field(default_factory=_no_ids)
    request: Ints = field(default_factory=_none)
    request_ids: Ints = field(default_factory=_no_ids)
    seed: int = 0


def keep(ids: Ints, request: Ints, start: int, seed: int) -> Kept:
    """The sample of one part: ids ``[layers, tokens, top_k]``, requests ``[tokens]``, row of the first."""
    rows = np.flatnonzero(request & 1)
    key = scramble(rows + start, seed)
    best = _lowest(key)
    chosen = _first_tokens(request, seed)
    return Kept(key[best], ids[:, rows[best]], request[chosen].astype(np.int64), ids[:, chosen], seed)


def merge_kept(a: Kept, b: Kept) -> Kept:
    """The sample of two neighbouring parts."""
    if not len(b.request):
        return a
    if not len(a.request):
        return b
    key = np.concatenate([a.test_key, b.test_key])
    best = _lowest(key)
    test_ids = np.concatenate([a.test_ids, b.test_ids], 1)[:, best]
    request = np.concatenate([a.request, b.request])
    chosen = _first_tokens(request, a.seed)
    request_ids = np.concatenate([a.request_ids, b.request_ids], 1)[:, chosen]
    return Kept(key[best], test_ids, request[chosen], request_ids, a.seed)


def scramble(value: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """A hash of whole numbers (the finaliser of SplitMix64)."""
    z = np.asarray(value).astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return out


def _lowest(key: Ints) -> Ints:
    return np.argsort(key, kind="stable")[:TEST_TOKENS]


def _first_tokens(request: Ints, seed: int) -> Ints:
    """Rows of the first tokens of the requests with the lowest hashes, rising."""
    names = np.unique(request)
    names = names[np.argsort(scramble(names, seed), kind="stable")[:REQUESTS]]
    rows = [np.flatnonzero(request == name)[:REQUEST_TOKENS] for name in names]
    return np.sort(np.concatenate(rows)) if rows else _none()
