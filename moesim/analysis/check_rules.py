"""What is wrong with ids, layers and loads: one small function per rule, evidence in, findings out."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from moesim.analysis.check_evidence import Evidence
from moesim.analysis.check_types import INFO, WARNING, Example, Finding

#: Values a hole (-1) becomes in a narrower unsigned type.
_HOLES = (255, 65535)
#: Mean selections per expert below which experts without any are to be expected.
EXPECTED_BELOW = 100
#: The same for ranks.
RANK_EXPECTED_BELOW = 20
#: Share of the tokens at which an expert has taken over its layer.
COLLAPSED = 0.95
#: Fewer requests than this may well be of one kind.
_MANY_REQUESTS = 8
#: Fewest mean selections per expert at which equal loads are no accident.
_BALANCED_MEAN = 16
_SHARED = "{} is chosen by every token of {} layers: a shared expert counted as a routed one"


def check_ids(e: Evidence) -> list[Finding]:
    """Ids that are no experts: a hole's marker, a physical slot, a fused shared expert, or nonsense."""
    if not e.beyond:
        return []
    total = sum(e.beyond.values(), np.zeros(len(e.layer_ids)))
    layers, count = e.ids(total > 0), int(total.sum())
    low, high, used = min(e.beyond), max(e.beyond), len(e.beyond)
    example = e.scan.examples.get("beyond") if e.scan else _load_example(e, low)
    extra = high - e.num_experts + 1
    text = f"ids {low} to {high}" if low < high else f"id {low}"
    if low == high == e.num_experts and _tokens(e) and (total >= 0.99 * _tokens(e)).mean() > 0.5:
        message = _SHARED.format(text, len(layers))
        return [Finding("shared-expert", len(layers), message, layers, example)]
    holes = set(e.beyond) <= set(_HOLES)
    if (
        not holes
        and 1 <= extra <= e.num_experts
        and used >= 0.9 * extra
        and len(layers) >= 0.5 * len(e.layer_ids)
    ):
        message = (
            f"{text} beside {e.num_experts} experts: these look like {e.num_experts + extra} physical slots "
            f"({extra} redundant), not experts"
        )
        return [Finding("physical-ids", count, message, layers, example)]
    why = ": a hole's -1 in an unsigned type" if holes else ""
    message = f"{text} in a model of {e.num_experts} experts per layer{why}"
    return [Finding("id-out-of-range", count, message, layers, example)]


def check_shared(e: Evidence) -> list[Finding]:
    """An expert that every token chooses in most layers is a shared one."""
    if e.top_k is None or not 1 < e.top_k < e.num_experts / 2 or _tokens(e) < 32:
        return []
    every = (
        (e.loads >= 0.999 * e.selections[:, None] / e.top_k) & ~e.dead[:, None] & (e.selections[:, None] > 0)
    )
    layers_of = every.sum(axis=0)
    expert = int(layers_of.argmax())
    if len(e.layer_ids) < 2 or layers_of[expert] <= 0.5 * len(e.layer_ids):
        return []
    layers = e.ids(every[:, expert])
    message = _SHARED.format(f"expert {expert}", len(layers))
    return [
        Finding(
            "shared-expert", len(layers), message, layers, Example(layer=layers[0], value=f"expert {expert}")
        )
    ]


def check_dead(e: Evidence) -> list[Finding]:
    """Layers in which nothing is routed."""
    layers = e.ids(e.dead)
    if not layers:
        return []
    if len(layers) == len(e.layer_ids) and e.scan is not None:
        message = f"all {e.scan.tokens} tokens chose the same experts in every layer"
        code = "cyclic-routing" if e.scan.first_row is not None and e.scan.first_row.any() else "dense-layer"
        return [Finding(code, len(layers), message, layers, _constant_example(e, 0))]
    first = int(np.argmax(e.dead))
    if e.scan is not None:
        message = "every token chose the same experts there, as zero-filled rows of dense layers do"
        return [Finding("dense-layer", len(layers), message, layers, _constant_example(e, first))]
    value = f"{int((e.loads[first] > 0).sum())} experts with load"
    message = "no load, or all of it on as many experts as one token chooses"
    return [
        Finding("dense-layer", len(layers), message, layers, Example(layer=e.layer_ids[first], value=value))
    ]


def check_balanced(e: Evidence) -> list[Finding]:
    """Loads too equal for any router."""
    if e.num_experts < 2 or e.top_k == e.num_experts:
        return []
    mean = e.loads.mean(axis=1)
    spread = e.loads.max(axis=1) - e.loads.min(axis=1)
    equal = (mean >= _BALANCED_MEAN) & (spread <= 1) & ~e.dead
    layers = e.ids(equal)
    if not layers:
        return []
    value = f"every expert {mean[int(np.argmax(equal))]:,.0f} times"
    message = "all experts have the same load there, which no router brings about"
    return [Finding("balanced-load", len(layers), message, layers, Example(layer=layers[0], value=value))]


def check_copied(e: Evidence) -> list[Finding]:
    """Layers with exactly the loads of an earlier layer."""
    if e.num_experts < 4 or e.selections.max(initial=0) < 32 or e.top_k == e.num_experts:
        return []
    seen: dict[bytes, int] = {}
    copies = []
    spread = e.loads.max(axis=1) - e.loads.min(axis=1)
    for row in np.flatnonzero(~e.dead & (spread > 1)).tolist():
        original = seen.setdefault(e.loads[row].tobytes(), row)
        if original != row:
            copies.append((row, original))
    if not copies:
        return []
    layers = e.ids([row for row, _ in copies])
    value = f"as layer {e.layer_ids[copies[0][1]]}"
    message = "the load of every expert is exactly that of an earlier layer"
    return [Finding("copied-layer", len(layers), message, layers, Example(layer=layers[0], value=value))]


def check_collapsed(e: Evidence) -> list[Finding]:
    """Layers where one expert has nearly all tokens."""
    k = e.top_k or 1
    if k >= e.num_experts / 2 or e.selections.max(initial=0) < 32 * k or check_shared(e):
        return []
    tokens = e.selections / k
    share = np.divide(e.loads.max(axis=1), tokens, out=np.zeros(len(tokens)), where=tokens > 0)
    worst = (share > COLLAPSED) & ~e.dead
    layers = e.ids(worst)
    if not layers:
        return []
    row = int(np.argmax(np.where(worst, share, 0)))
    value = f"expert {int(e.loads[row].argmax())} takes {share[row]:.1%} of the tokens"
    message = f"one expert takes more than {COLLAPSED:.0%} of the tokens"
    few = e.scan is not None and e.scan.sequences.requests < _MANY_REQUESTS
    severity = INFO if few else WARNING
    return [
        Finding(
            "collapsed-router",
            len(layers),
            message,
            layers,
            Example(layer=e.layer_ids[row], value=value),
            severity,
        )
    ]


def check_unused(e: Evidence) -> list[Finding]:
    """Experts that no token chose, in layers that have load."""
    unused = (e.loads == 0) & ~e.dead[:, None] & (e.selections > 0)[:, None]
    count = int(unused.sum())
    if not count:
        return []
    layer, expert = np.argwhere(unused)[0]
    mean = float(e.selections[e.selections > 0].mean()) / e.num_experts
    short = mean < EXPECTED_BELOW
    of = e.num_experts * int((~e.dead).sum())
    message = f"{count:,} of {of:,} experts are never chosen, at {mean:,.1f} choices per expert on average"
    if short:
        message += ": the trace is short, so that is to be expected"
    severity = INFO if short else WARNING
    example = Example(layer=e.layer_ids[layer], value=f"expert {expert}")
    return [Finding("unused-expert", count, message, e.ids(unused.any(axis=1)), example, severity)]


def check_idle(e: Evidence) -> list[Finding]:
    """Ranks without load when experts stand in order, for each expert-parallel size asked for."""
    found = []
    for ranks in e.ranks:
        loads = e.loads.reshape(len(e.layer_ids), ranks, -1).sum(axis=2)
        idle = (loads == 0) & (~e.dead & (e.selections > 0))[:, None]
        count = int(idle.sum())
        if not count:
            continue
        layer, rank = np.argwhere(idle)[0]
        mean = float(e.selections[e.selections > 0].mean()) / ranks
        short = mean < RANK_EXPECTED_BELOW
        message = f"at EP {ranks}, experts in order, {count} of {idle.size} ranks never get a token"
        if short:
            message += f": {mean:,.1f} choices per rank on average, so that is to be expected"
        example = Example(layer=e.layer_ids[layer], value=f"rank {rank}")
        severity = INFO if short else WARNING
        found.append(Finding("idle-rank", count, message, e.ids(idle.any(axis=1)), example, severity))
    return found


def check_layers(e: Evidence) -> list[Finding]:
    """Layers that are missing from the trace, and layers that the model does not have."""
    found = []
    if e.shape is not None:
        missing = sorted(set(e.shape.moe_layer_ids) - set(e.layer_ids))
        strange = sorted(set(e.layer_ids) - set(e.shape.moe_layer_ids))
        if missing:
            message = (
                f"{e.shape.name} has {len(e.shape.moe_layer_ids)} MoE layers, {len(missing)} of them not here"
            )
            found.append(
                Finding("missing-layer", len(missing), message, tuple(missing), Example(layer=missing[0]))
            )
        if strange:
            message = f"{e.shape.name} has no such MoE layers"
            found.append(
                Finding("unknown-layer", len(strange), message, tuple(strange), Example(layer=strange[0]))
            )
        return found
    steps = [b - a for a, b in pairwise(e.layer_ids)]
    usual = min(steps, default=1)
    absent = [
        i
        for a, b in pairwise(e.layer_ids)
        for i in range(a + usual, b, usual)
        if (b - a) % usual == 0 and b - a > usual
    ]
    if absent:
        every = "" if usual == 1 else f" (every {usual} layers otherwise)"
        message = f"the layer ids jump{every}"
        found.append(Finding("missing-layer", len(absent), message, tuple(absent), Example(layer=absent[0])))
    return found


def check_model(e: Evidence) -> list[Finding]:
    """Ways in which the trace is not the model's."""
    if not e.differences:
        return []
    return [Finding("other-model", len(e.differences), "; ".join(e.differences))]


def check_totals(e: Evidence) -> list[Finding]:
    """Layers that saw fewer selections than the fullest one."""
    if e.counts is None:
        return []
    totals = e.counts.totals.sum(axis=1)
    most = totals.max(initial=0.0)
    short = (totals < most * (1 - 1e-9)) & ~e.dead
    if not most or not short.any():
        return []
    gap = float(1 - totals[short].min() / most)
    row = int(np.argmin(np.where(short, totals, math.inf)))
    message = f"layers differ in their selections by up to {gap:.2%}"
    example = Example(layer=e.layer_ids[row], value=f"{totals[row]:,.0f} of {most:,.0f}")
    severity = WARNING if gap > 0.01 else INFO
    return [Finding("uneven-layers", int(short.sum()), message, e.ids(short), example, severity)]


def check_steps(e: Evidence) -> list[Finding]:
    """Consecutive steps that are the same in every count."""
    if e.counts is None or len(e.counts.counts) < 2:
        return []
    steps = e.counts.counts
    same = [i for i in range(1, len(steps)) if np.array_equal(steps[i], steps[i - 1])]
    if not same:
        return []
    example = Example(value=f"step {same[0]} is step {same[0] - 1}")
    return [
        Finding(
            "repeated-step",
            len(same),
            f"{len(same)} of {len(steps)} steps repeat the one before",
            (),
            example,
        )
    ]


def _tokens(e: Evidence) -> float:
    if e.scan is not None:
        return e.scan.tokens
    return float(e.selections.max(initial=0)) / (e.top_k or 1)


def _constant_example(e: Evidence, row: int) -> Example:
    ids = e.scan.first_row[row].tolist() if e.scan is not None and e.scan.first_row is not None else ""
    return Example(layer=e.layer_ids[row], value=str(ids))


def _load_example(e: Evidence, expert: int) -> Example:
    row = int(np.argmax(e.beyond[expert] > 0))
    return Example(layer=e.layer_ids[row], value=f"id {expert}: {e.beyond[expert][row]:,.0f} selections")


RULES_FOR_BOTH = (
    check_ids,
    check_shared,
    check_dead,
    check_balanced,
    check_copied,
    check_collapsed,
    check_unused,
    check_idle,
    check_layers,
    check_model,
    check_totals,
    check_steps,
)
