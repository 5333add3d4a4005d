"""Statistics of one layer by definition, in plain numpy and loops: what `moesim.analysis` must agree with."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np


def chosen(x, experts):
    """Who chooses whom, bool [tokens, experts]."""
    table = np.zeros((len(x), experts), bool)
    table[np.arange(len(x))[:, None], x] = True
    return table


def load_statistics(load):
    """Statistics of a load vector."""
    load = np.asarray(load, float)
    e, p = len(load), load / load.sum()
    rising = sorted(p.tolist())
    above = load[load > 0]
    return {
        "max_over_mean": load.max() / (load.sum() / e),
        "entropy_normalised": -sum(q * np.log(q) for q in p if q > 0) / np.log(e),
        "gini": sum(abs(a - b) for a in p for b in p) / (2 * e * e * p.mean()),
        "top10_share": sum(rising[-max(1, round(0.1 * e)) :]),
        "top20_share": sum(rising[-max(1, round(0.2 * e)) :]),
        "sigma_log_load": np.std(np.log(above)),
    }


def lag_overlap(who, request, lag, k):
    """Share of a token's experts that the token `lag` before it in its request has too."""
    same = request[lag:] == request[:-lag]
    both = (who[lag:] & who[:-lag]).sum(1)[same]
    return both.sum() / (len(both) * k) if len(both) else None


def windows(who, request, size):
    """Times each expert is chosen in each full window of one request, [windows, experts]."""
    if len(who) < size:
        return np.zeros((0, who.shape[1]), int)
    total = np.vstack([np.zeros((1, who.shape[1]), np.int64), who.cumsum(0)])
    inside = request[size - 1 :] == request[: len(request) - size + 1]
    return (total[size:] - total[:-size])[inside]


def distinct(who, request, size):
    seen = windows(who, request, size)
    return (seen > 0).mean() if len(seen) else None


def srp(counts, m):
    """Best F1 score of "resident for the window if chosen at least t times", and the size that implies."""
    if not len(counts):
        return None, None
    actual = counts.sum()
    best = (-1.0, None)
    cells = np.bincount(counts.ravel(), minlength=m + 1)
    for t in range(m + 1):
        matches = sum(c * int(cells[c]) for c in range(t, m + 1))
        predicted = m * int(cells[t:].sum())
        score = 2 * matches / (predicted + actual)
        if score > best[0]:
            best = (score, predicted / actual)
    return best


def segment_cover(counts, size):
    if not len(counts):
        return None
    return np.sort(counts, 1)[:, -size:].sum() / counts.sum()


def next_layer(a, b):
    """Conditional entropy over ln E, mutual information in bits, cover by the best fifth."""
    e = a.shape[1]
    joint = a.astype(float).T @ b.astype(float)
    joint /= joint.sum()
    pa, pb = joint.sum(1), joint.sum(0)
    nz = joint > 0
    mutual = (joint[nz] * np.log2(joint[nz] / np.outer(pa, pb)[nz])).sum()
    conditional = -(joint[nz] * np.log(joint[nz] / np.broadcast_to(pa[:, None], joint.shape)[nz])).sum()
    return conditional / np.log(e), mutual, cover(joint)


def cover(joint):
    top = max(1, round(0.2 * len(joint)))
    return sum(np.sort(row)[-top:].sum() for row in joint) / joint.sum()


def next_token(who, request):
    same = request[1:] == request[:-1]
    return who[:-1][same].astype(float).T @ who[1:][same].astype(float)


def pair_share(who):
    e = who.shape[1]
    joint = who.astype(float).T @ who.astype(float)
    pairs = sorted((joint[i, j] for i in range(e) for j in range(i + 1, e)), reverse=True)
    return sum(pairs[: max(1, int(0.1 * len(pairs)))]) / sum(pairs)


def recall(a, b, request, k, take, smoothing=0.5):
    """Naive Bayes with binary tables, learnt on even requests and judged on odd ones."""
    learn = request % 2 == 0
    if learn.all() or not learn.any():
        return None, None
    e = a.shape[1]
    before, after = a[learn].astype(float), b[learn].astype(float)
    prior = after.sum(0) + smoothing
    prior /= prior.sum()
    like = before.T @ after + smoothing
    like /= like.sum(0)
    score = np.log(prior) + a[~learn].astype(float) @ np.log(like)
    # Ties are broken by number, lower first.
    best = np.argsort(-score.round(9), axis=1, kind="stable")[:, :take]
    named = np.zeros((len(best), e), bool)
    np.put_along_axis(named, best, True, 1)
    popular = np.argsort(-after.sum(0), kind="stable")[:k]
    judged = b[~learn]
    return (named & judged).sum() / judged.sum(), judged[:, popular].sum() / judged.sum()


def lru(x, size):
    """Hit ratio of a least-recently-used cache, one selection after the other."""
    cache, hits = OrderedDict(), 0
    for e in x.ravel().tolist():
        if e in cache:
            hits += 1
            cache.move_to_end(e)
        else:
            if len(cache) == size:
                cache.popitem(last=False)
            cache[e] = None
    return hits / x.size


def segment_cache(x, m, size):
    """Hits of one cache that keeps what the next tokens use most, then what was used last.

    A token's experts are looked up before any is moved; an expert's first time is a hit while the cache is
    not yet full.
    """
    cache, ever, recent, hits, clock = set(), set(), {}, 0, 0
    for t, token in enumerate(x.tolist()):
        full = len(ever)
        for e in token:
            if e in ever:
                hits += e in cache
            else:
                hits += full < size
                full += 1
        for j, e in enumerate(token):
            rest = token[j:] + [other for later in x[t + 1 : t + m].tolist() for other in later]
            if e not in cache:
                if len(cache) == size:
                    cache.remove(min(cache, key=lambda c: (rest.count(c), recent[c])))
                cache.add(e)
            ever.add(e)
            clock += 1
            recent[e] = clock
    return hits
