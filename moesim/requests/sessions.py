"""More requests like recorded ones: sessions drawn whole, with replacement.

A session keeps its requests, their lengths and the times between them; when it begins is drawn from the
beginnings of the trace's sessions. Blocks of prompts that several sessions have (a system prompt) stay
shared; those of one session get new names in every copy, so that copies share no more than sessions did, and
a prefix cache sees as much reuse as in the trace.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesim.errors import ConfigError, Fault
from moesim.requests.types import RequestTrace, take

I8 = npt.NDArray[np.int64]
F8 = npt.NDArray[np.float64]

#: A block that more requests than these have belongs to no session: a system prompt, a template.
COMMON_SHARE, COMMON = 0.01, 20


def sessions_of(trace: RequestTrace) -> I8:
    """Session of every request, ``[requests]``, numbered from 0.

    Those that the trace says; else found from prompts: a request continues an earlier one whose full blocks
    its own begin with, if its prompt holds the other's prompt and answer, and if the last of those blocks is
    not common to many. Without prompts' blocks every request is a session.
    """
    n = len(trace)
    if trace.session is not None:
        return np.unique(trace.session, return_inverse=True)[1].astype(np.int64)
    if trace.prefix_hashes is None or trace.prefix_ptr is None or trace.prefix_block_tokens is None:
        return np.arange(n)
    names = np.unique(trace.prefix_hashes, return_inverse=True)[1]
    common = np.bincount(names) > max(COMMON, COMMON_SHARE * n)
    full = trace.input_tokens // trace.prefix_block_tokens
    return _chains(
        names.tolist(), trace.prefix_ptr.tolist(), full.tolist(), common.tolist(),
        trace.input_tokens.tolist(), trace.output_tokens.tolist(),
    )  # fmt: skip


def _chains(
    names: list[int],
    ptr: list[int],
    full: list[int],
    common: list[bool],
    prompt: list[int],
    answer: list[int],
) -> I8:
    """Sessions by chains of prompts that begin with each other's."""
    session = np.zeros(len(prompt), np.int64)
    # By what a prompt's full blocks were: the request that had them last.
    ends: dict[int, int] = {}
    count = 0
    for r in range(len(prompt)):
        start, stop = ptr[r], ptr[r + 1]
        chain, parent, own = 0, -1, None
        for at in range(start, stop):
            name = names[at]
            chain = hash((chain, name))
            if at - start == full[r] - 1:
                own = chain
            before = ends.get(chain)
            if before is not None and not common[name] and prompt[before] + answer[before] <= prompt[r]:
                parent = before
        if parent < 0:
            session[r] = count
            count += 1
        else:
            session[r] = session[parent]
        if own is not None:
            ends[own] = r
    return session


def resample_sessions(
    trace: RequestTrace, requests: int, *, seed: int = 0, rate_per_s: float | None = None
) -> RequestTrace:
    """Requests like those of a trace, as many as asked, drawn by session with replacement.

    Parameters
    ----------
    trace
        What was recorded.
    requests
        How many; the last session is cut where they are enough.
    seed
        Of the draws.
    rate_per_s
        Mean requests per second; the trace's own by default. Where all of it takes less time than the trace
        did, times between requests of a session shrink with it.

    Returns
    -------
    RequestTrace
        Its `session` numbers the copies.

    Raises
    ------
    ConfigError
        If there are to be no requests, or the rate is none.

    Examples
    --------
    >>> from moesim.requests import request_trace
    >>> trace = request_trace([0.0, 1.0, 5.0], [100, 300, 200], [10, 10, 10], session=[0, 0, 1])
    >>> len(resample_sessions(trace, 1000, seed=1))
    1000
    """
    faults = []
    if not 1 <= requests <= 100_000_000:
        faults.append(Fault("is out of range", "requests", requests, "1 to 100000000"))
    if rate_per_s is not None and not 0 < rate_per_s < 1e9:
        faults.append(Fault("is no rate", "rate", rate_per_s, "requests per second, more than 0"))
    if faults:
        raise ConfigError(faults)
    rng = np.random.default_rng(seed)
    session = sessions_of(trace)
    order = np.argsort(session, kind="stable")
    sizes = np.bincount(session)
    firsts = np.r_[0, np.cumsum(sizes)[:-1]]
    drawn = _drawn(sizes, requests, rng)
    copies = np.repeat(np.arange(len(drawn)), sizes[drawn])[:requests]
    inside = np.arange(len(copies)) - np.r_[0, np.cumsum(sizes[drawn])[:-1]][copies]
    rows = order[firsts[drawn][copies] + inside]
    begin = trace.arrival_s[order[firsts]]
    whole = float(np.ptp(trace.arrival_s))
    span = requests / rate_per_s if rate_per_s is not None else whole * requests / len(trace)
    faster = min(span / whole, 1.0) if whole > 0 else 1.0
    times = (
        _starts(trace, begin, len(drawn), span, rng)[copies]
        + faster * (trace.arrival_s - begin[session])[rows]
    )
    when = np.argsort(times, kind="stable")
    rows, copies, times = rows[when], copies[when], times[when]
    found = replace(
        take(replace(trace, arrival_s=np.zeros(len(trace)), session=None), rows),
        arrival_s=times,
        session=copies.astype(np.int32),
        warnings=(),
        metadata={**trace.metadata, "resampled": str(requests), "seed": str(seed)},
        source=f"resampled: {trace.source}"[:300],
    )
    if trace.prefix_hashes is None or trace.prefix_ptr is None or found.prefix_ptr is None:
        return found
    blocks = np.diff(trace.prefix_ptr)
    owner = np.repeat(session, blocks)
    names = _renamed(trace.prefix_hashes, owner, trace.prefix_ptr, rows, found.prefix_ptr, drawn, copies)
    return replace(found, prefix_hashes=names)


def _drawn(sizes: I8, requests: int, rng: np.random.Generator) -> I8:
    """Sessions, with replacement, until they hold enough requests."""
    drawn: list[I8] = []
    held = 0
    while held < requests:
        more = rng.integers(0, len(sizes), int((requests - held) / sizes.mean() * 1.01) + 16)
        drawn.append(more)
        held += int(sizes[more].sum())
    found = np.concatenate(drawn)
    return found[: int(np.searchsorted(np.cumsum(sizes[found]), requests)) + 1]


def _starts(trace: RequestTrace, begin: F8, many: int, span: float, rng: np.random.Generator) -> F8:
    """When copies begin: distributed as the trace's sessions are, stretched to a span of time."""
    first, whole = float(trace.arrival_s[0]), float(np.ptp(trace.arrival_s))
    marks = np.r_[0.0, np.sort(begin) - first, whole] / whole if whole > 0 else np.array([0.0, 1.0])
    drawn = rng.random(many)
    return np.asarray(np.interp(drawn, np.linspace(0.0, 1.0, len(marks)), marks) * span)


def _renamed(hashes: I8, owner: I8, ptr: I8, rows: I8, new_ptr: I8, drawn: I8, copies: I8) -> I8:
    """Names of all blocks of the drawn requests."""
    names = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    distinct = int(names.max()) + 1 if len(names) else 0
    low, high = np.full(distinct, np.iinfo(np.int64).max), np.full(distinct, -1)
    np.minimum.at(low, names, owner)
    np.maximum.at(high, names, owner)
    own = low == high
    # Blocks of one session are numbered within it, copies one after the other.
    order = np.argsort(np.where(own, low, np.iinfo(np.int64).max), kind="stable")[: int(own.sum())]
    sizes = np.bincount(low[order], minlength=int(owner.max()) + 1 if len(owner) else 1)
    place = np.zeros(distinct, np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.r_[0, np.cumsum(sizes)[:-1]], sizes)
    base = distinct + np.r_[0, np.cumsum(sizes[drawn])[:-1]]
    found = np.empty(int(new_ptr[-1]), np.int64)
    step = 1 << 17
    # Piece by piece: an index of all blocks would be several times as large as the blocks.
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        lengths = np.diff(ptr)[part]
        at = int(new_ptr[start])
        begin = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        source = names[np.arange(begin[-1]) + np.repeat(ptr[part] - begin[:-1], lengths)]
        copy = np.repeat(copies[start : start + step], lengths)
        found[at : at + len(source)] = np.where(own[source], base[copy] + place[source], source)
    return found


def shifted(trace: RequestTrace, *, seed: int = 0) -> RequestTrace:
    """The same requests from a later one on, and those before it at the end.

    Parameters
    ----------
    trace
        What was recorded.
    seed
        Of the request that is the first.
    """
    n = len(trace)
    first = int(np.random.default_rng(seed).integers(0, n))
    chosen = np.r_[np.arange(first, n), np.arange(first)]
    whole = float(trace.arrival_s[-1] - trace.arrival_s[0])
    # A gap as long as they are on average lies between the last and the first.
    whole += whole / max(n - 1, 1)
    times = np.r_[trace.arrival_s[first:], trace.arrival_s[:first] + whole] - trace.arrival_s[first]
    return replace(take(trace, chosen), arrival_s=times)
