"""Schedules of a MoE layer against closed forms, brute force and what no schedule can break."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.timeline import Task, finish_times
from moesim.overlap import (
    SCHEDULES,
    LayerSeconds,
    backward,
    closed_form,
    exposed_seconds,
    layer_seconds,
    overlapped_fraction,
    path_seconds,
    schedule_seconds,
)
from moesim.overlap.layer import CHUNKED, STREAMS
from moesim.overlap.schedules import ONE_NETWORK, _lags
from moesim.overlap.templates import chunk_tasks, chunked_seconds, filled_seconds

times = st.floats(0.0, 10.0).map(lambda x: round(x, 2))
starts = st.floats(0.0, 1.0).map(lambda x: round(x, 2))


@st.composite
def layers(draw):
    whole = {name: draw(times) for name in CHUNKED}
    start = {f"{name}_startup": min(draw(starts), whole[name]) for name in CHUNKED}
    rest = {name: draw(times) for name in ("before", "after", "shared", "gradients")}
    return LayerSeconds(**whole, **start, **rest)


def sums(layer, degree, streams):
    found = {}
    for name in CHUNKED:
        found[streams[name]] = found.get(streams[name], 0.0) + degree * float(layer.chunk(name, degree))
    return found


@given(layers(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_chunks_take_no_less_than_any_stream_and_no_more_than_a_row(layer, degree, outer, inner):
    for streams, lags in (
        (STREAMS, {"inter": max(outer, inner), "intra": inner}),
        (ONE_NETWORK, {"network": outer}),
    ):
        seconds = float(chunked_seconds(layer, degree, streams, lags))
        chunks = {name: float(layer.chunk(name, degree)) for name in CHUNKED}
        assert seconds >= max(sums(layer, degree, streams).values()) - 1e-9
        assert seconds >= sum(chunks.values()) - 1e-9
        assert seconds <= degree * sum(chunks.values()) + 1e-9


@given(layers(), st.sampled_from(SCHEDULES), st.sampled_from(CHUNKED), st.floats(0.0, 1.0))
def test_a_faster_operation_never_slows_a_layer(layer, schedule, name, part):
    faster = {f: layer.whole(f) for f in LayerSeconds.__dataclass_fields__}
    faster[name] = part * layer.whole(name)
    faster[f"{name}_startup"] = part * layer.startup(name)
    for degree in (1, 3, 4):
        slow = schedule_seconds(layer, schedule, degree)
        assert float(schedule_seconds(LayerSeconds(**faster), schedule, degree)) <= float(slow) + 1e-9


@given(layers(), st.sampled_from(SCHEDULES))
def test_the_best_degree_is_no_worse_than_one_chunk_and_no_schedule_than_a_row(layer, schedule):
    chosen = layer_seconds(layer, schedule)
    assert float(chosen.seconds) <= float(schedule_seconds(layer, schedule, 1)) + 1e-9
    assert float(chosen.seconds) <= float(schedule_seconds(layer, "none", 1)) + 1e-9
    assert float(chosen.seconds) >= float(layer.compute()) - 1e-9
    assert float(chosen.seconds) == pytest.approx(
        float(schedule_seconds(layer, schedule, int(chosen.degree)))
    )


@given(layers(), st.sampled_from([1, 2, 4, 8]))
def test_more_streams_never_hurt(layer, degree):
    seconds = [float(schedule_seconds(layer, name, degree)) for name in ("fsmoe", "lina", "tutel")]
    assert seconds == sorted(seconds) or np.allclose(seconds, sorted(seconds))


def _brute(layer, degree, streams):
    """The shortest makespan over every order of the chunks on every stream.

    Chunks of one operation are alike, so that only the merge of outgoing and returning ones is free.
    """
    shared = {}
    for name in CHUNKED:
        shared.setdefault(streams[name], []).append(name)
    orders = {}
    for stream, names in shared.items():
        orders[stream] = list(_merges([[(n, i) for i in range(degree)] for n in names]))
    best = np.inf
    for merged in _product(list(orders.items())):
        best = min(best, _run(layer, degree, merged))
    return best


def _merges(lists):
    lists = [x for x in lists if x]
    if not lists:
        yield []
        return
    if len(lists) == 1:
        yield lists[0]
        return
    first, rest = lists[0], list(_merges(lists[1:]))
    for other in rest:
        n = len(first) + len(other)
        for places in combinations(range(n), len(first)):
            a, b, chosen = iter(first), iter(other), set(places)
            yield [next(a) if j in chosen else next(b) for j in range(n)]


def _product(items):
    if not items:
        yield {}
        return
    (stream, options), rest = items[0], items[1:]
    for option in options:
        for other in _product(rest):
            yield {stream: option, **other}


def _run(layer, degree, merged):
    """Makespan of fixed orders; infinite where they wait for each other."""
    heads = dict.fromkeys(merged, 0)
    free, done = dict.fromkeys(merged, 0.0), {}
    while any(heads[s] < len(merged[s]) for s in merged):
        moved = False
        for stream, order in merged.items():
            while heads[stream] < len(order):
                name, i = order[heads[stream]]
                place = CHUNKED.index(name)
                if place and (CHUNKED[place - 1], i) not in done:
                    break
                ready = done[(CHUNKED[place - 1], i)] if place else 0.0
                free[stream] = max(free[stream], ready) + float(layer.chunk(name, degree))
                done[(name, i)] = free[stream]
                heads[stream] += 1
                moved = True
        if not moved:
            return np.inf
    return max(done.values())


@pytest.mark.parametrize(("streams", "degree"), [(STREAMS, 2), (ONE_NETWORK, 2), (STREAMS, 3)])
def test_a_few_fixed_orders_are_near_every_order(degree, streams):
    rng = np.random.default_rng(degree)
    ratios = []
    for _ in range(25 if degree == 2 else 6):
        layer = LayerSeconds(**dict(zip(CHUNKED, rng.uniform(0.2, 5.0, 5), strict=True)))
        ours = min(float(chunked_seconds(layer, degree, streams, lags)) for lags in _lags(streams, degree))
        ratios.append(ours / _brute(layer, degree, streams))
    assert min(ratios) >= 1.0 - 1e-12
    assert np.median(ratios) < 1.02
    assert max(ratios) < 1.2


def test_links_inside_cannot_lag_more_than_those_that_feed_them():
    layer = LayerSeconds(dispatch=1.0, gather=1.0, experts=1.0, scatter=1.0, combine=1.0)
    with pytest.raises(ValueError, match="wait for each other"):
        list(chunk_tasks(layer, 3, STREAMS, {"inter": 1, "intra": 2}))


def test_a_list_of_tasks_is_what_the_timeline_makes_of_it():
    layer = LayerSeconds(dispatch=2.0, gather=1.0, experts=6.0, scatter=1.0, combine=2.0)
    tasks = list(chunk_tasks(layer, 2))
    assert all(isinstance(task, Task) for task in tasks)
    done = finish_times(tasks)
    # 1 + 0.5, then the cores are busy for 6, then 0.5 + 1.
    assert float(done["combine1"]) == pytest.approx(9.0)


@given(layers(), st.sampled_from([1, 2, 4, 8]))
def test_the_four_paths_are_lower_bounds_where_operations_have_no_start(layer, degree):
    free = {f: layer.whole(f) for f in LayerSeconds.__dataclass_fields__ if not f.endswith("_startup")}
    free.update(before=0.0, after=0.0, shared=0.0)
    plain = LayerSeconds(**free)
    paths = path_seconds(plain, degree)
    # The paper's third path lets the network rest while a chunk goes through the node, which it need not.
    bounds = paths[[0, 1, 3]]
    assert float(bounds.max()) <= float(schedule_seconds(plain, "fsmoe", degree)) + 1e-9


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (LayerSeconds(dispatch=1.0, gather=0.5, experts=40.0, scatter=0.5, combine=1.0), 1),
        (LayerSeconds(dispatch=1.0, gather=40.0, experts=0.1, scatter=40.0, combine=1.0), 3),
        (LayerSeconds(dispatch=9.0, gather=0.1, experts=0.1, scatter=0.1, combine=9.0, gradients=9.0), 0),
    ],
)
def test_the_closed_form_is_the_timeline_where_one_resource_is_the_bottleneck(layer, path):
    for degree in (2, 4, 8):
        paths = path_seconds(layer, degree)
        assert int(np.argmax(paths)) == path
        assert float(paths.max()) == pytest.approx(float(schedule_seconds(layer, "fsmoe", degree)), rel=0.02)


def test_without_starts_more_chunks_are_better_and_with_them_there_is_a_best_number():
    free = LayerSeconds(dispatch=4.0, experts=8.0, combine=4.0)
    assert int(layer_seconds(free, "fsmoe").degree) == 8
    costly = LayerSeconds(
        dispatch=4.0, experts=4.0, combine=4.0, dispatch_startup=3.9, experts_startup=3.9, combine_startup=3.9
    )
    assert int(layer_seconds(costly, "fsmoe").degree) == 1
    assert int(closed_form(costly).degree) == 1


def test_layers_are_computed_together():
    rng = np.random.default_rng(1)
    whole = {name: rng.uniform(1.0, 5.0, 50) for name in CHUNKED}
    start = {f"{name}_startup": 0.2 * whole[name] for name in CHUNKED}
    together = layer_seconds(LayerSeconds(**whole, **start), "fsmoe")
    for i in (0, 17, 49):
        one = LayerSeconds(**{n: float(v[i]) for n, v in {**whole, **start}.items()})
        alone = layer_seconds(one, "fsmoe")
        assert float(alone.seconds) == pytest.approx(together.seconds[i])
        assert int(alone.degree) == together.degree[i]


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_gaps_are_filled_before_anything_is_added(idle, used, extra):
    span = np.array([idle + used])
    filled = float(filled_seconds(span, np.array([used]), np.array([extra]))[0])
    assert filled == pytest.approx(idle + used + max(0.0, extra - idle))


def test_backward_does_what_is_computed_twice_and_what_is_sent_once():
    layer = LayerSeconds(dispatch=1.0, experts=2.0, combine=3.0, before=4.0, after=5.0, experts_startup=0.5)
    back = backward(layer, gradients=6.0)
    assert float(back.compute()) == 2 * float(layer.compute())
    assert float(back.communication()) == float(layer.communication()) + 6.0
    assert (float(back.before), float(back.after)) == (10.0, 8.0)


def test_wrong_layers_are_refused():
    with pytest.raises(ValueError, match="negative"):
        LayerSeconds(dispatch=-1.0, experts=1.0, combine=1.0)
    with pytest.raises(ValueError, match="startup"):
        LayerSeconds(dispatch=1.0, experts=1.0, combine=1.0, dispatch_startup=2.0)
    with pytest.raises(ValueError, match="none of"):
        schedule_seconds(LayerSeconds(dispatch=1.0, experts=1.0, combine=1.0), "fast", 2)


# -- shortcut


def _slots(window, dispatch, combine):
    """Exposed communication by the timeline, experts tried in every place."""
    best = np.inf
    for k in range(len(window) + 1):
        tasks = [Task("dispatch", "network", np.array([dispatch]))]
        for i, part in enumerate([*window[:k], None, *window[k:]]):
            if part is None:
                tasks.append(Task("experts", "compute", np.array([1.0]), ("dispatch",)))
            else:
                tasks.append(Task(f"part{i}", "compute", np.array([part])))
        tasks.append(Task("combine", "network", np.array([combine]), ("experts",)))
        tasks.append(Task("decode", "compute", np.array([0.0]), ("combine",)))
        best = min(best, float(finish_times(tasks)["decode"][0]))
    return best - sum(window) - 1.0


@given(st.lists(times, max_size=4), times, times)
def test_exposed_communication_is_what_the_timeline_leaves(window, dispatch, combine):
    assert float(exposed_seconds(window, dispatch, combine)) == pytest.approx(
        _slots(window, dispatch, combine), abs=1e-9
    )


@given(st.lists(times, max_size=4), times, st.floats(0.1, 10))
def test_overlap_is_between_none_and_all_and_bounded_by_the_window(window, dispatch, combine):
    fraction = float(overlapped_fraction(window, dispatch, combine))
    assert -1e-12 <= fraction <= 1.0
    assert fraction * (dispatch + combine) <= sum(window) + 1e-9
    longer = float(overlapped_fraction([*window, 1.0], dispatch, combine))
    assert longer >= fraction - 1e-12
