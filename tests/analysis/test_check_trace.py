"""One fault at a time: each is found, counted exactly, and nothing else is called an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_traces import LENGTH, REQUESTS, SHAPE, TOKENS, clean, clean_counts, planted
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.analysis.check import check_trace
from moesim.analysis.check_types import ERROR, INFO, RULES, WARNING, ranges
from moesim.errors import ConfigError
from moesim.trace import DECODE, PREFILL, Shape

CLEAN = clean()
LAYERS, EXPERTS, TOP_K = 6, 32, 4
rng = np.random.default_rng


def errors(report):
    return [f.code for f in report.of(ERROR)]


def only(report, code):
    """The finding of a code, which must be the only error or warning."""
    loud = [f.code for f in report.findings if f.severity != INFO]
    assert loud == [code], report.findings
    return report.find(code)


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_trace_has_no_finding(seed):
    report = check_trace(clean(seed), shape=SHAPE, ranks=[8, 32])
    assert report.findings == ()
    assert (report.ok, report.tokens, report.examined_tokens) == (True, TOKENS, TOKENS)


@pytest.mark.parametrize("seed", range(3))
def test_clean_counts_have_no_finding(seed):
    assert check_trace(clean_counts(seed, steps=3), shape=SHAPE, ranks=[8]).findings == ()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.tuples(st.integers(0, TOKENS - 1), st.integers(0, LAYERS - 1)), min_size=1, max_size=40))
def test_duplicate_ids(rows):
    def plant(ids):
        for token, layer in rows:
            ids[token, layer, 3] = ids[token, layer, 0]

    found = only(check_trace(planted(CLEAN, plant)), "duplicate-ids")
    assert found.count == len(rows)
    assert set(found.layers) == {SHAPE.moe_layer_ids[layer] for _, layer in rows}
    first = min(layer for _, layer in rows)
    token = min(t for t, layer in rows if layer == first)
    assert (found.example.request, found.example.position) == divmod(token, LENGTH)
    assert found.example.layer == SHAPE.moe_layer_ids[first]


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, TOKENS - 1), st.integers(0, 2)), min_size=1, max_size=20),
    st.integers(EXPERTS, 254),
)
def test_ids_out_of_range(places, strange):
    def plant(ids):
        for token, layer in places:
            ids[token, layer, 1] = strange

    report = check_trace(planted(CLEAN, plant))
    code = (
        "physical-ids" if strange == EXPERTS and len({row for _, row in places}) == 3 else "id-out-of-range"
    )
    assert errors(report) == [code]
    assert report.find(code).count == len(places)
    assert f"id {strange}" in report.find(code).message


def test_holes_in_an_unsigned_type_are_named():
    def plant(ids):
        ids[5, 2, :] = 255

    report = check_trace(planted(CLEAN, plant))
    found = report.find("id-out-of-range")
    assert found.count == 4
    assert "hole" in found.message
    assert (found.example.layer, found.example.value) == (4, "id 255")


def test_physical_ids():
    """Four redundant copies of the first experts take half of their tokens, as engines spread them."""

    def plant(ids):
        spare = (ids < 4) & (rng(1).random(ids.shape) < 0.5)
        ids[spare] += EXPERTS
        planted_ids.append(int(spare.sum()))

    planted_ids = []
    report = check_trace(planted(CLEAN, plant))
    assert errors(report) == ["physical-ids"]
    assert report.find("physical-ids").count == planted_ids[0]
    assert "36 physical slots (4 redundant)" in report.find("physical-ids").message


def test_physical_counts():
    loads = clean_counts()
    wide = np.concatenate([loads.counts, loads.counts[:, :, :4]], axis=2)
    report = check_trace(replace(loads, counts=wide), shape=SHAPE)
    assert errors(report) == ["physical-ids"]
    assert report.find("physical-ids").count == int(loads.counts[:, :, :4].sum())


def test_a_fused_shared_expert_beyond_the_routed_ones():
    ids = np.concatenate([CLEAN.topk_ids, np.full((TOKENS, LAYERS, 1), EXPERTS, np.uint8)], axis=2)
    report = check_trace(replace(CLEAN, topk_ids=ids))
    assert errors(report) == ["shared-expert"]
    assert report.find("shared-expert").count == LAYERS


def test_a_shared_expert_among_the_routed_ones():
    def plant(ids):
        ids[ids == 7] = 9
        ids[:, :, 3] = np.where((ids[:, :, :3] == 9).any(axis=2), ids[:, :, 3], 9)
        ids[:, :, 0] = np.where((ids[:, :, 1:] == 7).any(axis=2), ids[:, :, 0], 7)

    ids = CLEAN.topk_ids.copy()
    plant(ids)
    report = check_trace(replace(CLEAN, topk_ids=ids))
    found = report.find("shared-expert")
    assert found.count == LAYERS
    assert "expert 7" in found.message


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, LAYERS - 1), min_size=1, max_size=LAYERS - 1), st.booleans())
def test_dense_layers(layers, zeros):
    def plant(ids):
        for layer in layers:
            ids[:, layer] = 0 if zeros else [3, 1, 4, 15]

    found = only(check_trace(planted(CLEAN, plant)), "dense-layer")
    assert found.count == len(layers)
    assert found.layers == tuple(SHAPE.moe_layer_ids[layer] for layer in sorted(layers))
    assert found.example.value == ("[0, 0, 0, 0]" if zeros else "[1, 3, 4, 15]")


@pytest.mark.parametrize("experts", [0, 1, 4])
def test_dense_layers_of_counts(experts):
    loads = clean_counts()
    counts = loads.counts.copy()
    counts[:, 2] = 0
    counts[:, 2, :experts] = 40_000 / max(experts, 1)
    found = only(check_trace(replace(loads, counts=counts)), "dense-layer")
    assert (found.count, found.layers) == (1, (4,))


def test_everything_constant_is_one_finding():
    def plant(ids):
        ids[:] = [0, 1, 2, 3]

    report = check_trace(planted(CLEAN, plant))
    assert errors(report) == ["cyclic-routing"]
    assert report.find("cyclic-routing").count == LAYERS


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 39))
def test_dummy_rows_at_the_start(rows):
    def plant(ids):
        ids[:rows] = ids[0]

    found = only(check_trace(planted(CLEAN, plant)), "dummy-rows")
    assert found.count == rows


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, TOKENS - 1), min_size=1, max_size=30))
def test_padding_tokens(tokens):
    def plant(ids):
        ids[sorted(tokens)] = 0

    report = check_trace(planted(CLEAN, plant))
    assert errors(report) == ["padding-tokens"]
    found = report.find("padding-tokens")
    assert found.count == len(tokens)
    assert (found.example.request, found.example.position) == divmod(min(tokens), LENGTH)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.sets(st.integers(0, LAYERS - 1), min_size=1), st.integers(0, 99))
def test_cyclic_routing(lag, layers, seed):
    lag += lag % LENGTH == 0  # a period of whole requests is told as copies of requests
    pattern = clean(seed).topk_ids[:lag]

    def plant(ids):
        for layer in layers:
            ids[:, layer] = pattern[np.arange(TOKENS) % lag, layer]

    report = check_trace(planted(CLEAN, plant))
    if lag == 1 and len(layers) < LAYERS:
        assert errors(report) == ["dense-layer"]
        return
    found = report.find("cyclic-routing")
    assert found.layers == tuple(SHAPE.moe_layer_ids[layer] for layer in sorted(layers))
    assert lag == 1 or found.example.value == f"period {lag}"


def test_a_round_robin_router_is_cyclic_and_balanced():
    token = np.arange(TOKENS)[:, None, None]
    ids = (token * TOP_K + np.arange(TOP_K)) % EXPERTS + np.zeros((1, LAYERS, 1), int)
    report = check_trace(replace(CLEAN, topk_ids=ids.astype(np.uint8)))
    assert set(errors(report)) == {"cyclic-routing", "balanced-load"}
    assert report.find("cyclic-routing").example.value == "period 8"
    assert report.find("balanced-load").count == LAYERS


def test_balanced_counts():
    loads = clean_counts()
    counts = loads.counts.copy()
    counts[:, 3] = 1250
    found = only(check_trace(replace(loads, counts=counts)), "balanced-load")
    assert (found.count, found.layers) == (1, (5,))


@pytest.mark.parametrize("of_counts", [False, True])
def test_copied_layers(of_counts):
    def plant(ids):
        ids[:, 4] = ids[:, 1]
        ids[:, 5] = ids[:, 1]

    trace = planted(CLEAN, plant)
    found = only(check_trace(trace.load_counts() if of_counts else trace), "copied-layer")
    assert (found.count, found.layers, found.example.value) == (2, (6, 7), "as layer 3")


def test_a_collapsed_router():
    def plant(ids):
        takes = (rng(2).random(TOKENS) < 0.99) & ~(ids[:, 3] == 11).any(axis=1)
        ids[takes, 3, 0] = 11

    report = check_trace(planted(CLEAN, plant))
    found = only(report, "collapsed-router")
    assert (found.count, found.layers, found.severity) == (1, (5,), WARNING)
    assert "expert 11" in found.example.value


def test_one_request_may_well_need_one_expert():
    trace = clean(requests=1, length=400)
    ids = trace.topk_ids.copy()
    takes = ~(ids[:, 3] == 11).any(axis=1)
    ids[takes, 3, 0] = 11
    ids[0, 3, 0] = np.setdiff1d(np.arange(EXPERTS), ids[0, 3])[0]
    found = check_trace(replace(trace, topk_ids=ids)).find("collapsed-router")
    assert (found.layers, found.severity) == ((5,), INFO)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.tuples(st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1)), min_size=1, max_size=20))
def test_unused_experts_of_a_long_trace(cells):
    loads = clean_counts()
    counts = loads.counts.copy()
    for layer, expert in cells:
        counts[0, layer, expert] = 0
    report = check_trace(replace(loads, counts=counts))
    found = report.find("unused-expert")
    assert (found.count, found.severity) == (len(cells), WARNING)


def test_unused_experts_of_a_short_trace_are_to_be_expected():
    trace = clean(requests=1, length=40)
    used = trace.load_counts().totals > 0
    found = check_trace(trace).find("unused-expert")
    assert (found.count, found.severity) == (int((~used).sum()), INFO)
    assert "to be expected" in found.message


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([4, 8, 16, 32]), st.data())
def test_idle_ranks(ranks, data):
    idle = data.draw(st.sets(st.integers(0, ranks - 1), min_size=1, max_size=ranks // 2))
    loads = clean_counts()
    counts = loads.counts.copy()
    for rank in idle:
        width = EXPERTS // ranks
        counts[0, 1, rank * width : (rank + 1) * width] = 0
    report = check_trace(replace(loads, counts=counts), ranks=[ranks])
    found = report.find("idle-rank")
    assert (found.count, found.layers, found.severity) == (len(idle), (3,), WARNING)
    assert found.example.value == f"rank {min(idle)}"


def test_ranks_must_divide_the_experts():
    with pytest.raises(ConfigError, match=r"divisor of 32: 1, 2, 4, 8, 16, 32"):
        check_trace(CLEAN, ranks=[7])


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.integers(10, 19), st.integers(0, 9), min_size=1))
def test_repeated_requests(copies):
    def plant(ids):
        for copy, original in copies.items():
            ids[copy * LENGTH : (copy + 1) * LENGTH] = ids[original * LENGTH : (original + 1) * LENGTH]

    found = only(check_trace(planted(CLEAN, plant)), "repeated-request")
    assert found.count == len(copies)
    copy = min(copies)
    assert (found.example.request, found.example.value) == (copy, f"as request {copies[copy]}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, LENGTH - 1), min_size=1, max_size=REQUESTS - 1))
def test_template_prefixes(lengths):
    def plant(ids):
        for i, n in enumerate(lengths, start=1):
            ids[i * LENGTH : i * LENGTH + n] = ids[:n]

    report = check_trace(planted(CLEAN, plant))
    assert report.find("template-prefix").count == sum(lengths)
    assert report.find("template-prefix").severity == (WARNING if sum(lengths) >= 0.05 * TOKENS else INFO)
    assert report.ok


def test_prefixes_are_of_tokens_where_token_ids_are_known():
    """Routing alike, words different: no prefix is shared. And the other way round."""

    def plant(ids):
        ids[LENGTH : LENGTH + 12] = ids[:12]

    alike = planted(CLEAN, plant)
    different = replace(alike, token_id=np.arange(TOKENS, dtype=np.int32))
    assert check_trace(different).findings == ()
    words = np.arange(TOKENS, dtype=np.int32)
    words[LENGTH : LENGTH + 12] = words[:12]
    assert check_trace(replace(CLEAN, token_id=words)).find("template-prefix").count == 12


def test_order_inside_a_row_does_not_matter_to_prefixes():
    def plant(ids):
        ids[LENGTH : LENGTH + 12] = ids[:12, :, ::-1]

    assert check_trace(planted(CLEAN, plant)).find("template-prefix").count == 12


def test_interleaved_requests_are_followed_one_by_one():
    """The same tokens in the order in which a server would have run them."""

    def plant(ids):
        ids[LENGTH : LENGTH + 12] = ids[:12]

    trace = planted(CLEAN, plant)
    order = np.lexsort((trace.request, trace.position))
    mixed = replace(
        trace,
        topk_ids=trace.topk_ids[order],
        request=trace.request[order],
        position=trace.position[order],
        phase=trace.phase[order],
    )
    report = check_trace(mixed)
    assert [f.code for f in report.findings] == ["template-prefix"]
    assert report.find("template-prefix").count == 12


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, TOKENS - 1), min_size=1, max_size=30))
def test_position_gaps(missing):
    keep = np.setdiff1d(np.arange(TOKENS), list(missing))
    trace = replace(
        CLEAN,
        topk_ids=CLEAN.topk_ids[keep],
        request=CLEAN.request[keep],
        position=CLEAN.position[keep],
        phase=CLEAN.phase[keep],
    )
    jumps = (np.diff(trace.position) != 1) & (np.diff(trace.request) == 0)
    found = check_trace(trace).find("position-gap")
    assert (found.count if found else 0) == int(jumps.sum())


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, REQUESTS - 1), min_size=1, max_size=10))
def test_phases_out_of_order(requests):
    phase = CLEAN.phase.copy()
    for request in requests:
        phase[request * LENGTH + 30] = PREFILL
    found = only(check_trace(replace(CLEAN, phase=phase)), "phase-order")
    assert found.count == len(requests)
    assert (found.example.request, found.example.position) == (min(requests), 30)


def test_requests_without_one_of_the_phases():
    phase = CLEAN.phase.copy()
    phase[: 3 * LENGTH] = DECODE
    found = only(check_trace(replace(CLEAN, phase=phase)), "phase-missing")
    assert found.count == 3
    everything = check_trace(replace(CLEAN, phase=np.full(TOKENS, DECODE, np.int8)))
    assert [(f.code, f.count, f.severity) for f in everything.findings] == [("phase-missing", REQUESTS, INFO)]


def test_missing_and_unknown_layers():
    fewer = replace(CLEAN, topk_ids=CLEAN.topk_ids[:, :4], moe_layer_ids=(2, 3, 4, 5))
    found = only(check_trace(fewer, shape=SHAPE), "missing-layer")
    assert (found.count, found.layers) == (2, (6, 7))
    shifted = replace(CLEAN, moe_layer_ids=tuple(range(6)))
    report = check_trace(shifted, shape=SHAPE)
    assert errors(report) == ["unknown-layer"]
    assert report.find("unknown-layer").layers == (0, 1)
    assert report.find("missing-layer").layers == (6, 7)


def test_a_jump_in_layer_ids_without_a_model():
    found = only(check_trace(replace(CLEAN, moe_layer_ids=(2, 3, 4, 6, 7, 9))), "missing-layer")
    assert found.layers == (5, 8)
    every_second = replace(CLEAN, moe_layer_ids=(1, 3, 5, 7, 9, 11))
    assert check_trace(every_second).findings == ()


def test_another_models_top_k():
    report = check_trace(CLEAN, shape=Shape("other", 8, SHAPE.moe_layer_ids, 32, 2))
    assert errors(report) == ["other-model"]
    assert "top-k 4, other has 2" in report.find("other-model").message


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(1, 9), min_size=1))
def test_repeated_steps(steps):
    loads = clean_counts(steps=10)
    counts = loads.counts.copy()
    for step in sorted(steps):
        counts[step] = counts[step - 1]
    found = only(check_trace(replace(loads, counts=counts)), "repeated-step")
    assert found.count == len(steps)


@pytest.mark.parametrize(("factor", "severity"), [(0.9, WARNING), (0.999, INFO)])
def test_uneven_layers(factor, severity):
    loads = clean_counts()
    counts = loads.counts.copy()
    counts[:, 2] *= factor
    found = check_trace(replace(loads, counts=counts)).find("uneven-layers")
    assert (found.count, found.layers, found.severity) == (1, (4,), severity)


def test_warnings_of_the_reader_are_notes():
    report = check_trace(replace(CLEAN, warnings=("dropped 3 of 9 tokens",)))
    assert [(f.code, f.message) for f in report.findings] == [("note", "dropped 3 of 9 tokens")]


def test_dense_routing_is_no_fault():
    """Top-k of all experts: constant, balanced and alike in every layer, and right."""
    every = Shape("all", 4, (0, 1, 2, 3), 4, 4)
    assert check_trace(clean(shape=every)).ok


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "shape", [Shape("top1", 6, tuple(range(6)), 16, 1), Shape("few", 6, tuple(range(6)), 8, 2)]
)
def test_small_models_raise_no_false_alarm(shape, seed):
    assert check_trace(clean(seed, shape, 30, 60)).of(ERROR) == ()


def test_severities_come_in_order_and_every_rule_says_what_to_do():
    def plant(ids):
        ids[0, 0, 1] = ids[0, 0, 0]
        ids[LENGTH : 2 * LENGTH] = ids[2 * LENGTH : 3 * LENGTH]

    report = check_trace(replace(planted(CLEAN, plant), warnings=("x",)))
    assert [f.severity for f in report.findings] == [ERROR, WARNING, INFO]
    assert all(rule.action and rule.unit for rule in RULES.values())
    assert ranges([9, 0, 3, 4, 5]) == "0, 3-5, 9"


def test_first_tokens_of_several_requests_are_no_dummies():
    """A batch that starts with the same word in every request."""
    order = np.lexsort((CLEAN.request, CLEAN.position))
    ids = CLEAN.topk_ids[order].copy()
    ids[:5] = ids[0]
    mixed = replace(
        CLEAN,
        topk_ids=ids,
        request=CLEAN.request[order],
        position=CLEAN.position[order],
        phase=CLEAN.phase[order],
    )
    report = check_trace(mixed)
    assert [(f.code, f.count) for f in report.findings] == [("template-prefix", 4)]
