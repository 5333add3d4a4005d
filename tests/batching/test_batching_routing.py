"""Which routing each token takes, what that loads the experts with, and batches drawn from it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.batching import (
    Batcher,
    Sequences,
    StepSource,
    batch_requests,
    nearest_sequences,
    read_steps,
    recorded_requests,
    step_counts,
    write_steps,
)
from moesim.engine.routing import RoutingSource
from moesim.errors import ConfigError, TraceError
from moesim.files import data_dir
from moesim.requests import generate_requests, parse_lengths, request_trace
from moesim.trace import RoutingTrace, load_trace

LAYERS, EXPERTS, TOP_K = 2, 16, 3


def routing(lengths, seed=0, shuffled=False):
    """A trace of sequences with (prefill, decode) tokens each."""
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(len(lengths)) * 3 + 5, [p + d for p, d in lengths])
    position = np.concatenate([np.arange(p + d) for p, d in lengths])
    phase = np.concatenate([np.repeat([0, 1], [p, d]) for p, d in lengths])
    if shuffled:  # interleave requests, each still in order
        order = np.argsort(rng.permutation(len(request))[np.lexsort((position, request))], kind="stable")
        order = np.lexsort((request, position))
        request, position, phase = request[order], position[order], phase[order]
    ids = rng.random((len(request), LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K].astype(np.uint8)
    return RoutingTrace(
        topk_ids=ids,
        request=request.astype(np.int32),
        num_experts=EXPERTS,
        moe_layer_ids=tuple(range(LAYERS)),
        position=position.astype(np.int32),
        phase=phase.astype(np.int8),
    )


lengths = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda x: sum(x) > 0), min_size=1, max_size=8
)


@given(lengths=lengths, shuffled=st.booleans())
@settings(max_examples=60, deadline=None)
def test_recorded_requests_take_every_row_once(lengths, shuffled):
    trace = routing(lengths, shuffled=shuffled)
    requests, sequence = recorded_requests(trace, "fixed:10")
    steps = batch_requests(trace, requests, Batcher(7, 3), step_time=0.05, sequence=sequence)
    assert sorted(steps.row.tolist()) == list(range(trace.num_tokens))
    names = np.unique(trace.request)
    assert (trace.request[steps.row] == names[sequence[steps.request]]).all()
    assert (trace.position[steps.row] == steps.position).all()
    assert steps.metadata["tokens_beyond_sequence"] == steps.metadata["reused_sequences"] == 0
    # Where both phases were recorded, each token runs in the phase it was recorded in.
    both = np.array([p > 0 and d > 0 for p, d in lengths])[sequence[steps.request]]
    assert (trace.phase[steps.row] == steps.phase)[both].all()


def test_a_longer_request_starts_its_sequence_over():
    trace = routing([(3, 2)])
    steps = batch_requests(trace, request_trace([0.0], [5], [6]), step_time=1.0)
    assert steps.row.tolist() == [0, 1, 2, 0, 1, 3, 4, 3, 4, 3]
    assert steps.metadata["tokens_beyond_sequence"] == 2 + 3


def test_one_recorded_phase_stands_for_both():
    decode_only = routing([(0, 4)])
    steps = batch_requests(decode_only, request_trace([0.0], [3], [4]), step_time=1.0)
    # Positions run on from prompt to output, and round.
    assert steps.row.tolist() == [0, 1, 2, 3, 0, 1]
    assert "1 of 1 sequences have no prefill: decoded tokens stand for it" in steps.warnings
    prompt_only = routing([(9, 0), (2, 2)])
    steps = batch_requests(prompt_only, request_trace([0.0], [6], [3]), step_time=1.0)
    assert steps.row.tolist() == list(range(8))
    assert "1 of 2 sequences have no decoding: prompt tokens stand for it" in steps.warnings
    assert batch_requests(routing([(2, 2)]), request_trace([0.0], [2], [2]), step_time=1.0).warnings == ()


def test_resampling_goes_on_with_other_sequences():
    trace = routing([(10, 10)] * 40)
    requests = request_trace(np.zeros(3), [400] * 3, [200] * 3)
    first, again, other = (
        batch_requests(trace, requests, step_time=1.0, overrun="resample", seed=s) for s in (1, 1, 2)
    )
    assert (first.row == again.row).all()
    assert (first.row != other.row).any()
    for r in range(3):
        own = first.row[first.request == r]
        assert own[:10].tolist() == list(range(own[0], own[0] + 10))
        # 39 draws among 40 sequences hit about 40 (1 - (1 - 1/40)^39) = 25 of them.
        assert 15 <= len(np.unique(trace.request[own[:400]])) <= 35
    assert (trace.phase[first.row] == first.phase).all()
    wrapped = batch_requests(trace, requests, step_time=1.0)
    assert len(np.unique(trace.request[wrapped.row])) == 3


@given(
    needed=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    have=st.lists(st.integers(1, 60), min_size=1, max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_nearest_sequences(needed, have):
    chosen = nearest_sequences(np.array(needed), np.array(have))
    for first in range(0, len(needed), len(have)):
        free = set(range(len(have)))
        for r in range(first, min(first + len(have), len(needed))):
            best = min(abs(have[s] - needed[r]) for s in free)
            assert abs(have[chosen[r]] - needed[r]) == best
            free.remove(int(chosen[r]))


def test_own_lengths_find_their_own_sequences():
    lengths = [(n, 2 * n) for n in range(1, 30)]
    trace = routing(lengths)
    requests, _ = recorded_requests(trace, "closed:4")
    steps = batch_requests(trace, requests, step_time=1.0)
    assert sorted(steps.row.tolist()) == list(range(trace.num_tokens))


def test_sequences_of_a_trace():
    found = Sequences.of(routing([(2, 3), (0, 4), (5, 0)]))
    assert found.parts.tolist() == [[0, 2, 2, 3], [5, 4, 5, 4], [9, 5, 9, 5]]
    assert found.tokens.tolist() == [5, 4, 5]
    assert found.one_phase.tolist() == [False, True, True]


@given(lengths=lengths, every=st.integers(1, 5), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_counts_of_steps(lengths, every, seed):
    trace = routing(lengths, seed)
    requests = generate_requests(6, "poisson:4", parse_lengths("lognormal:6:0.5"), 5, seed=seed)
    steps = batch_requests(trace, requests, Batcher(8, 4), step_time=0.1)
    loads = step_counts(steps, trace, every=every)
    expected = []
    for ids in steps.routing(trace):
        one = np.zeros((LAYERS, EXPERTS))
        for layer in range(LAYERS):
            np.add.at(one[layer], ids[:, layer].ravel(), 1)
        expected.append(one)
    merged = [sum(expected[i : i + every]) for i in range(0, len(expected), every)]
    np.testing.assert_array_equal(loads.counts, merged)
    assert loads.counts.sum() == steps.num_tokens * LAYERS * TOP_K


def test_steps_survive_parquet(tmp_path):
    trace = routing([(4, 3)] * 5)
    requests = generate_requests(9, "poisson:4", 5, 4)
    steps = batch_requests(
        trace, requests, Batcher(9, 3, "prefill-first"), step_time=lambda x: 0.1 + x.decode_tokens
    )
    write_steps(steps, tmp_path / "steps.parquet")
    again = read_steps(tmp_path / "steps.parquet")
    for name in ("step_ptr", "start_s", "seconds", "request", "position", "phase", "row"):
        a, b = getattr(steps, name), getattr(again, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert (again.batcher, again.requests, again.warnings) == (steps.batcher, 9, steps.warnings)
    assert again.metadata == steps.metadata


@pytest.mark.parametrize("change", ["drop", "gap", "phase", "request", "kind"])
def test_parquet_of_other_things(change, tmp_path):
    trace, path = routing([(4, 3)] * 5), tmp_path / "steps.parquet"
    write_steps(batch_requests(trace, generate_requests(4, "closed:2", 5, 4), step_time=1.0), path)
    table = pq.read_table(path)
    if change == "drop":
        table = table.drop_columns(["row"])
    elif change == "kind":
        table = table.replace_schema_metadata({})
    else:
        column = {"gap": "step", "phase": "phase", "request": "request"}[change]
        values = table[column].to_numpy().copy()
        values[-1] += 7
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(column), [values])
    pq.write_table(table, path)
    with pytest.raises(TraceError):
        read_steps(path)


def test_another_trace_is_noticed():
    steps = batch_requests(routing([(4, 3)] * 5), generate_requests(5, "closed:2", 5, 4), step_time=1.0)
    short = routing([(4, 3)])
    for use in (
        lambda: next(steps.routing(short)),
        lambda: step_counts(steps, short),
        lambda: StepSource(steps, short),
    ):
        with pytest.raises(ConfigError, match="another trace"):
            use()


def test_wrong_options():
    trace, requests = routing([(4, 3)]), request_trace([0.0, 0.0], [1, 1], [1, 1])
    with pytest.raises(ConfigError, match="no way to go on"):
        batch_requests(trace, requests, step_time=1.0, overrun="stop")
    with pytest.raises(ConfigError, match="sequence of each request"):
        batch_requests(trace, requests, step_time=1.0, sequence=np.array([0, 1]))
    with pytest.raises(ConfigError, match="at least 1"):
        recorded_requests(trace, "closed:1", requests=0)
    steps = batch_requests(trace, requests, step_time=1.0)
    with pytest.raises(ConfigError, match="every"):
        step_counts(steps, trace, every=0)


@pytest.fixture(scope="module")
def bundled():
    trace = load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    requests, sequence = recorded_requests(trace, "closed:16")
    return trace, batch_requests(trace, requests, Batcher(512, 16), step_time=0.02, sequence=sequence)


def test_draws_are_parts_of_steps(bundled):
    trace, steps = bundled
    source: RoutingSource = StepSource(steps, trace)
    assert (source.layers, source.num_experts, source.top_k) == (24, 32, 4)
    rng = np.random.default_rng(0)
    known = {trace.topk_ids[i].tobytes(): i for i in range(trace.num_tokens)}
    step = np.repeat(np.arange(len(steps)), steps.tokens_per_step)
    step_of_row = dict(zip(steps.row.tolist(), step.tolist(), strict=True))
    for phase in (0, 1):
        sizes = [np.count_nonzero(steps.phase[steps.step(i)] == phase) for i in range(len(steps))]
        for tokens in (1, 5, max(sizes), 3 * max(sizes)):
            draw = source.draw(tokens, phase, rng)
            assert draw.tokens == tokens
            assert draw.ids.shape == (tokens, 24, 4)
            counted = [np.bincount(draw.ids[:, layer].ravel(), minlength=32) for layer in range(24)]
            np.testing.assert_array_equal(draw.counts, counted)
            rows = [known[ids.astype(trace.topk_ids.dtype).tobytes()] for ids in draw.ids]
            if tokens <= max(sizes):
                assert len({step_of_row[row] for row in rows}) == 1


def test_large_draws_are_counted_only(bundled):
    trace, steps = bundled
    draw = StepSource(steps, trace).draw(4000, 1, np.random.default_rng(0))
    assert draw.ids is None
    assert (draw.counts.sum(axis=1) == 4000 * 4).all()


def test_a_missing_phase_is_taken_from_the_other():
    trace = routing([(20, 0)] * 4)
    requests, sequence = recorded_requests(trace, "closed:2")
    steps = batch_requests(trace, requests, step_time=1.0, sequence=sequence)
    assert not steps.decode_per_step.any()
    draw = StepSource(steps, trace).draw(7, 1, np.random.default_rng(0))
    assert draw.ids.shape == (7, LAYERS, TOP_K)


def test_mixing_requests_hits_more_experts_than_one_request_does(bundled):
    """What batching is for: 16 tokens of 16 requests choose more distinct experts than 16 of one."""
    trace, steps = bundled
    source, rng = StepSource(steps, trace), np.random.default_rng(0)
    mixed = np.mean([(source.draw(16, 1, rng).counts > 0).sum(axis=1).mean() for _ in range(30)])
    rows = np.flatnonzero(trace.phase == 1)
    same = []
    for r in np.unique(trace.request)[:30]:
        own = trace.topk_ids[rows[trace.request[rows] == r][:16]]
        same.append(np.mean([len(np.unique(own[:, layer])) for layer in range(24)]))
    assert mixed > np.mean(same)


def test_real_arrivals_over_real_routing(shared):
    trace = load_trace(shared("traces/gpt-oss-20b/decode.npz"), num_experts=32)
    from moesim.requests import load_requests

    requests = load_requests(shared("arrivals/azure-2023/AzureLLMInferenceTrace_conv.csv")).head(500)
    steps = batch_requests(trace, requests, Batcher(2048, 128), step_time=0.03)
    needed = requests.input_tokens.sum() + requests.output_tokens.sum() - 500
    assert steps.num_tokens == needed
    assert steps.metadata["reused_sequences"] == max(0, 500 - steps.metadata["sequences"])
    assert step_counts(steps, trace, every=50).counts.sum() == needed * 24 * 4
