"""What is wrong with the tokens of a routing trace, and with their order."""

from __future__ import annotations

import numpy as np

from moesim.analysis.check_evidence import Evidence
from moesim.analysis.check_period import period
from moesim.analysis.check_types import INFO, WARNING, Example, Finding

#: Share of tokens in known prefixes from which on it matters.
TEMPLATE_SHARE = 0.05


def check_duplicates(e: Evidence) -> list[Finding]:
    """Rows that name an expert twice, in layers that route at all."""
    if e.scan is None:
        return []
    rows = np.where(e.dead, 0, e.scan.duplicates)
    count = int(rows.sum())
    if not count:
        return []
    first = int(np.argmax(rows > 0))
    message = f"{count:,} rows (a token in a layer) name an expert twice"
    return [Finding("duplicate-ids", count, message, e.ids(rows > 0), e.scan.duplicate_examples.get(first))]


def check_padding(e: Evidence) -> list[Finding]:
    """Tokens of zeros, and identical tokens at the very start."""
    if e.scan is None or e.dead.all():
        return []
    found = []
    if e.scan.padding:
        message = f"{e.scan.padding:,} tokens have expert 0 in every slot of every layer"
        found.append(Finding("padding-tokens", e.scan.padding, message, (), e.scan.examples.get("padding")))
    # In a layer or two, one word repeated gives identical tokens as well.
    fewest = 2 if (~e.dead).sum() >= 4 else 8
    one_request = len(e.scan.leading_requests) < e.scan.leading
    row = e.scan.first_row
    if fewest <= e.scan.leading < e.scan.tokens and one_request and row is not None and row.any():
        value = str(row[int(np.argmin(e.dead))].tolist())
        message = f"the first {e.scan.leading:,} tokens of the file chose the same experts in every layer"
        example = Example(layer=e.layer_ids[int(np.argmin(e.dead))], value=value)
        found.append(Finding("dummy-rows", e.scan.leading, message, (), example))
    return found


def check_cyclic(e: Evidence) -> list[Finding]:
    """Layers whose choices repeat with a period."""
    if e.scan is None or e.top_k == e.num_experts or e.num_experts < 2:
        return []
    hashes, request, places = e.scan.window()
    periods = {}
    for row in np.flatnonzero(~e.dead).tolist():
        found = period(np.ascontiguousarray(hashes[:, row]), request, places)
        if found is not None:
            periods[row] = found
    if not periods:
        return []
    layers = e.ids(list(periods))
    lags = sorted(set(periods.values()))
    text = f"period {lags[0]}" if len(lags) == 1 else f"periods {lags[0]} to {lags[-1]}"
    message = f"choices repeat with {text} tokens"
    example = Example(layer=layers[0], value=f"period {periods[min(periods)]}")
    return [Finding("cyclic-routing", len(layers), message, layers, example)]


def check_requests(e: Evidence) -> list[Finding]:
    """Copies of requests, and tokens inside prefixes that earlier requests had."""
    if e.scan is None or e.dead.all():
        return []
    sequences, found = e.scan.sequences, []
    copies = sequences.repeated()
    if copies:
        copy, original = next(iter(copies.items()))
        message = (
            f"{len(copies):,} of {sequences.requests:,} requests are copies of earlier ones, token by token"
        )
        example = Example(request=copy, value=f"as request {original}")
        found.append(Finding("repeated-request", len(copies), message, (), example))
    inside, place = sequences.template(copies)
    if inside and place is not None:
        share = inside / sequences.tokens
        message = f"{share:.1%} of the tokens lie inside a prefix that an earlier request has already had"
        example = Example(place.request, place.position)
        severity = WARNING if share >= TEMPLATE_SHARE else INFO
        found.append(Finding("template-prefix", inside, message, (), example, severity))
    return found


def check_order(e: Evidence) -> list[Finding]:
    """Positions that jump, phases that go back, and requests without one of the phases."""
    if e.scan is None:
        return []
    s, found = e.scan.sequences, []
    if s.gaps and s.first_gap is not None:
        message = f"{s.gaps:,} tokens do not stand one after the token before them in their request"
        found.append(
            Finding("position-gap", s.gaps, message, (), Example(s.first_gap.request, s.first_gap.position))
        )
    if s.backward and s.first_backward is not None:
        message = f"{s.backward:,} tokens are prefill right after decode in their request"
        place = Example(s.first_backward.request, s.first_backward.position)
        found.append(Finding("phase-order", s.backward, message, (), place))
    prefill_only, decode_only = s.phases()
    for count, missing in ((prefill_only, "decode"), (decode_only, "prefill")):
        if count:
            everywhere = count == s.requests
            message = f"{count:,} of {s.requests:,} requests have no {missing} tokens"
            severity = INFO if everywhere or missing == "decode" else WARNING
            found.append(Finding("phase-missing", count, message, severity=severity))
    return found


RULES_FOR_TOKENS = (check_duplicates, check_padding, check_cyclic, check_requests, check_order)
