"""Who computes each expert: published rules against brute force and what must hold for any costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim as ms
from moesim.cost import ExpertShape, expert_times
from moesim.errors import ConfigError
from moesim.hardware.types import Device
from moesim.policy import token_steps
from moesim.policy.executors import (
    CPU,
    DEFERRED,
    KINDS,
    LOADED,
    RESIDENT,
    Executor,
    assign,
    deferrable,
    makespan,
)

NUMBERS = st.floats(0.0, 10.0, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def cells(draw, most=6):
    n = draw(st.integers(1, most))
    column = st.lists(NUMBERS, min_size=n, max_size=n).map(np.array)
    return {
        "tokens": np.array(draw(st.lists(st.integers(1, 40), min_size=n, max_size=n)), np.int32),
        "resident": np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        "gpu_s": draw(column),
        "cpu_s": draw(column),
        "load_s": draw(column),
        "near_s": draw(column),
        "free": np.array(draw(st.lists(NUMBERS, min_size=4, max_size=4))),
    }


def decide(kind, cell, parameters=None, *, start=0.0, top_k=2, marked=()):
    n = len(cell["tokens"])
    where = np.full(n, -1, np.int8)
    where[list(marked)] = DEFERRED
    order = np.full(n, -1, np.int64)
    executor = Executor(kind, parameters or {})
    end = assign(executor.code, *cell.values(), executor.vector(top_k=top_k, cpu_start_s=start), where, order)
    return where, order, end


def cell_of(gpu, cpu, load, resident, tokens=None):
    n = len(gpu)
    return {
        "tokens": np.ones(n, np.int32) if tokens is None else np.array(tokens, np.int32),
        "resident": np.array(resident, bool),
        "gpu_s": np.array(gpu, float),
        "cpu_s": np.array(cpu, float),
        "load_s": np.array(load, float),
        "near_s": np.full(n, np.inf),
        "free": np.zeros(4),
    }


@pytest.mark.parametrize("kind", KINDS)
@given(cell=cells(), start=NUMBERS)
def test_every_access_is_assigned_once_and_its_end_is_what_the_makespan_says(kind, cell, start):
    where, order, end = decide(kind, cell, start=start)
    assert sorted(order) == list(range(len(where)))
    assert set(where) <= {0, 1, 2, 3, 4}
    assert not np.any(cell["resident"] & (where == LOADED))
    assert not np.any(~cell["resident"] & (where == RESIDENT))
    columns = [cell[name] for name in ("gpu_s", "cpu_s", "load_s", "near_s", "free")]
    assert end == makespan(where, order, *columns, start)


def test_gpu_loads_misses_while_it_computes_what_it_has():
    cell = cell_of([1, 1, 1], [9, 9, 9], [2, 2, 2], [False, True, False])
    where, order, end = decide("gpu", cell)
    assert where.tolist() == [LOADED, RESIDENT, LOADED]
    assert order.tolist() == [1, 0, 2]
    assert end == 2 + 2 + 1  # the second load ends at 4


def test_a_busy_link_and_gpu_hold_the_cell_up():
    cell = cell_of([1], [9], [2], [False])
    cell["free"] = np.array([0.0, 0.0, 5.0, 0.0])
    assert decide("gpu", cell)[2] == 8
    cell["free"] = np.array([10.0, 0.0, 5.0, 0.0])
    assert decide("gpu", cell)[2] == 11


@given(cell=cells())
def test_cheapest_has_the_least_sum_of_seconds_of_all_assignments(cell):
    where, _, _ = decide("cheapest", cell)
    misses = np.flatnonzero(~cell["resident"])
    gpu = (cell["load_s"] + cell["gpu_s"])[misses]
    cpu = cell["cpu_s"][misses]
    least = min(
        sum(gpu[i] if on_gpu else cpu[i] for i, on_gpu in enumerate(choice))
        for choice in itertools.product((True, False), repeat=len(misses))
    )
    assert np.where(where[misses] == LOADED, gpu, cpu).sum() == pytest.approx(least)


def test_mask_loads_nothing_until_the_step_is_large():
    cell = cell_of([1, 1], [2, 2], [3, 3], [True, False], tokens=[3, 3])
    assert decide("mask", cell, top_k=2)[0].tolist() == [RESIDENT, CPU]
    # llama.cpp takes weights to the GPU from 32 tokens on; here from 3: six selections of two each
    assert decide("mask", cell, {"load_from_tokens": 3}, top_k=2)[0].tolist() == [RESIDENT, LOADED]
    assert decide("mask", cell, {"load_from_tokens": 4}, top_k=2)[0].tolist() == [RESIDENT, CPU]


def test_deferred_misses_are_not_waited_for_and_residents_never_wait():
    cell = cell_of([1, 1, 1], [4, 4, 4], [9, 9, 9], [True, False, False])
    where, _, end = decide("defer", cell, marked=(0, 2))
    assert where.tolist() == [RESIDENT, CPU, DEFERRED]
    assert end == 4
    assert Executor("defer").changes_numerics
    assert not Executor("defer", {"deferred": 0}).changes_numerics


def test_the_first_expert_on_the_cpu_pays_its_start_once():
    cell = cell_of([1, 1], [2, 2], [9, 9], [False, False])
    assert decide("mask", cell, start=0.5)[2] == 4.5


def test_faults_of_an_executor_are_told_together():
    with pytest.raises(ConfigError, match="three-clock"):
        Executor("three-clocks")
    with pytest.raises(ConfigError) as caught:
        Executor("split", {"beta": 1, "alpha": -1})
    assert [fault.where for fault in caught.value.faults] == ["executor.beta", "executor.alpha"]
    with pytest.raises(ConfigError, match="no parameters"):
        Executor("gpu", {"alpha": 1})


def test_kinds_have_distinct_numbers():
    assert [Executor(kind).code for kind in KINDS] == list(range(len(KINDS)))


def brute(cell, start=0.0, *, near=False):
    """Least makespan over every assignment and every order, by another road: plain loops."""
    n = len(cell["tokens"])
    gpu_free, cpu_free, link_free, near_free = cell["free"]
    best = np.inf
    for choice in itertools.product("gcn" if near else "gc", repeat=n):
        on_cpu = [i for i in range(n) if choice[i] == "c"]
        on_near = [i for i in range(n) if choice[i] == "n"]
        end = 0.0
        if on_cpu:
            end = cpu_free + start + sum(cell["cpu_s"][i] for i in on_cpu)
        if on_near:
            end = max(end, near_free + sum(cell["near_s"][i] for i in on_near))
        shortest = np.inf
        for queue in itertools.permutations([i for i in range(n) if choice[i] == "g"]):
            gpu, link = gpu_free, link_free
            for i in queue:
                if not cell["resident"][i]:
                    link += cell["load_s"][i]
                    gpu = max(gpu, link)
                gpu += cell["gpu_s"][i]
            shortest = min(shortest, gpu if queue else 0.0)
        best = min(best, max(end, shortest))
    return best


@given(cell=cells(4), start=NUMBERS, near=st.booleans())
def test_the_optimum_is_the_least_over_all_assignments_and_orders(cell, start, near):
    if not near:
        cell["near_s"] = np.full(len(cell["tokens"]), np.inf)
    assert decide("optimum", cell, start=start)[2] == pytest.approx(brute(cell, start, near=near), abs=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("defer", "optimum")])
@given(cell=cells(), start=NUMBERS)
def test_nothing_beats_the_optimum(kind, cell, start):
    assert decide(kind, cell, start=start)[2] >= decide("optimum", cell, start=start)[2] - 1e-9


@given(cell=cells(), start=NUMBERS)
def test_balanced_is_no_longer_than_what_it_starts_from(cell, start):
    end = decide("balanced", cell, start=start)[2]
    assert end <= decide("three-clock", cell, start=start)[2] + 1e-9
    assert end <= decide("cheapest", cell, start=start)[2] + 1e-9


@given(
    cell=cells(),
    start=NUMBERS,
    factor=st.floats(0.0, 1.0),
    what=st.sampled_from(("gpu_s", "cpu_s", "load_s")),
)
def test_faster_hardware_never_lengthens_the_optimum(cell, start, factor, what):
    before = decide("optimum", cell, start=start)[2]
    assert decide("optimum", {**cell, what: cell[what] * factor}, start=start)[2] <= before + 1e-9


@given(cell=cells(), start=NUMBERS)
def test_all_rules_scale_with_the_unit_of_time(cell, start):
    slower = {**cell, **{name: cell[name] * 4 for name in ("gpu_s", "cpu_s", "load_s", "near_s", "free")}}
    for kind in KINDS:
        where, order, end = decide(kind, cell, start=start)
        where_slow, order_slow, end_slow = decide(kind, slower, start=start * 4)
        assert where.tolist() == where_slow.tolist()
        assert order.tolist() == order_slow.tolist()
        assert end_slow == end * 4


@given(cell=cells())
def test_the_longer_of_both_sums_is_least(cell):
    where, _, _ = decide("cheapest-max", cell)
    gpu = np.where(cell["resident"], cell["gpu_s"], cell["gpu_s"] + cell["load_s"])
    misses = np.flatnonzero(~cell["resident"])

    def longer(on_cpu):
        return max(np.delete(gpu, on_cpu).sum(), cell["cpu_s"][on_cpu].sum())

    least = min(
        longer(list(some)) for size in range(len(misses) + 1) for some in itertools.combinations(misses, size)
    )
    assert longer(np.flatnonzero(where == CPU)) == pytest.approx(least, abs=1e-9)


def test_many_misses_are_divided_by_their_ratio():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 60, 14).tolist()
    cell = cell_of([0.2] * 14, [0.1 * t for t in tokens], [1.0] * 14, [False] * 14, tokens)
    where, _, _ = decide("cheapest-max", cell)
    longest = max(1.2 * (where == LOADED).sum(), cell["cpu_s"][where == CPU].sum())
    least = min(
        max(1.2 * len(rest), cell["cpu_s"][[i for i in range(14) if i not in rest]].sum())
        for size in range(15)
        for rest in map(set, itertools.combinations(range(14), size))
    )
    assert longest == pytest.approx(least)


def test_three_clocks_by_hand():
    # GPU 1 s, link 2 s, CPU 1.5 s per token. t=1: GPU ends the cached one. t=1.5: CPU ends the lightest.
    # t=2: the link has moved the heaviest. t=3: GPU ends it. CPU would end the last at 1.5+3; the link has
    # it by 4, so it moves first, and the CPU, which ends at 4.5, takes it before the GPU does at 5.
    cell = cell_of([1] * 4, [1.5, 1.5, 3.0, 4.5], [2] * 4, [True, False, False, False], [1, 1, 2, 3])
    where, order, end = decide("three-clock", cell, top_k=4)
    assert where.tolist() == [RESIDENT, CPU, CPU, LOADED]
    assert order.tolist() == [0, 1, 3, 2]
    assert end == 4.5


def test_the_cpu_takes_light_cached_experts_when_nothing_else_is_left():
    cell = cell_of([2, 2, 2], [1, 5, 5], [9, 9, 9], [True] * 3, [1, 5, 5])
    where, _, end = decide("three-clock", cell)
    assert where.tolist() == [CPU, RESIDENT, RESIDENT]
    assert end == 4


def released(tokens, resident, gpu, per_token, intercept, move):
    """The scheduling of HybriMoE's released code for one cell, written from its description."""
    cached = sorted((i for i in range(len(tokens)) if resident[i]), key=lambda i: -tokens[i])
    others = sorted((i for i in range(len(tokens)) if not resident[i]), key=lambda i: -tokens[i])
    todo, ends, moved = cached + others, {"gpu": 0.0, "cpu": 0.0}, 0.0
    placed = {}
    while todo:
        head, tail = todo[0], todo[-1]
        gpu_end = ends["gpu"] + gpu
        if not resident[head]:
            gpu_end = max(ends["gpu"], moved + move) + gpu
        cpu_end = ends["cpu"] + per_token * tokens[tail] + (intercept if ends["cpu"] == 0 else 0)
        if gpu_end <= cpu_end:
            moved += 0 if resident[head] else move
            placed[head] = RESIDENT if resident[head] else LOADED
            ends["gpu"] = gpu_end
            todo.pop(0)
        else:
            placed[tail] = CPU
            ends["cpu"] = cpu_end
            todo.pop()
    return [placed[i] for i in range(len(tokens))], max(ends.values())


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.sampled_from((1.0, 0.2, 0.8)))
def test_the_released_list_with_the_constants_in_its_source(resident, per_token):
    n = len(resident)
    tokens = [1] * n
    expected, end = released(tokens, resident, 0.5, per_token, 0.79, 0.41791011235117914)
    cell = cell_of([0.5] * n, [per_token] * n, [0.41791011235117914] * n, resident, tokens)
    where, _, ours = decide("three-clock-code", cell, start=0.79, top_k=n)
    assert where.tolist() == expected
    assert ours == pytest.approx(end)


def test_the_released_code_loads_every_miss_for_more_than_one_token():
    cell = cell_of([1, 1], [0.1, 0.1], [5, 5], [True, False], [1, 2])
    assert decide("three-clock-code", cell, top_k=2)[0].tolist() == [RESIDENT, LOADED]
    apart = cell_of([1, 1], [0.1, 0.1], [5, 5], [True, False], [1, 1])
    assert decide("three-clock-code", apart, top_k=1)[0].tolist() == [RESIDENT, LOADED]
    assert CPU in decide("three-clock-code", apart, top_k=2)[0]


def test_monde_loads_the_published_share_of_the_hottest():
    n = 51
    tokens = list(range(1, n + 1))
    cell = cell_of([1] * n, [9] * n, [2] * n, [False] * n, tokens)
    cell["near_s"] = np.array(tokens, float)
    # 32 GB/s against 512 GB/s: 32 / 544 of 51 experts are three
    where, _, _ = decide("split", cell)
    assert np.flatnonzero(where == LOADED).tolist() == [48, 49, 50]
    assert (where == 3).sum() == 48
    assert (decide("split", cell, {"alpha": 100})[0] == LOADED).all()
    assert (decide("split", cell, {"alpha": 0})[0] == 3).all()


@given(cell=cells())
def test_duplex_keeps_the_best_prefix_of_the_coldest(cell):
    cell["resident"][:] = True
    where, _, end = decide("prefix", cell)
    n = len(where)
    coldest = sorted(range(n), key=lambda i: (cell["tokens"][i], -i))
    least = min(
        max(cell["gpu_s"][coldest[m:]].sum(), cell["near_s"][coldest[:m]].sum()) for m in range(n + 1)
    )
    assert max(cell["gpu_s"][where == 0].sum(), cell["near_s"][where == 3].sum()) == pytest.approx(least)
    assert set(np.flatnonzero(where == 3)) == set(coldest[: (where == 3).sum()])
    assert end >= 0


def test_the_exhaustive_optimum_refuses_what_it_cannot_finish():
    n = 30
    with pytest.raises(ValueError, match="too many"):
        decide("optimum", cell_of([1] * n, [1] * n, [1] * n, [False] * n))


def tables():
    """Costs of one expert by tokens, and of a load, in seconds: two boxes, and HybriMoE's source."""
    for box in ("a6000-xeon-10core", "rtx-4090-64core"):
        hardware, model = ms.load_hardware(box), ms.load_model("mixtral-8x7b")
        shape = ExpertShape(model.hidden, model.moe.intermediate, model.moe.matrices, "int4")
        host = Device("host", "", (hardware.host.processor,), (hardware.host.memory,))
        link = hardware.host_link
        load = link.latency_s + shape.weight_bytes / (link.bandwidth_bytes_per_s * link.efficiency)

        def times(tokens, device, shape=shape):
            return expert_times(tokens[:, None].astype(float), shape, device).seconds

        yield (
            box,
            (lambda t, d=hardware.device, f=times: f(t, d)),
            (lambda t, d=host, f=times: f(t, d)),
            load,
            0.0,
        )
    yield "source", (lambda t: np.full(len(t), 0.5)), (lambda t: 1.0 * t), 0.41791011235117914, 0.79


@pytest.mark.parametrize("batch", [False, True])
def test_three_clocks_are_within_a_hundredth_of_the_optimum_over_a_thousand_layers(batch):
    rng = np.random.default_rng(7)
    layers = []
    for number in range(1000):
        n = int(rng.integers(2, 9))
        tokens = np.floor(np.exp(rng.uniform(0, np.log(65), n))) if batch else np.ones(n)
        layers.append((tokens.astype(np.int32), rng.random(n) < (0.25, 0.5, 0.75)[number % 3]))
    for _, gpu, cpu, load, start in tables():
        ratios = {"three-clock": [], "balanced": [], "cheapest": []}
        for tokens, resident in layers:
            cell = cell_of(gpu(tokens), cpu(tokens), [load] * len(tokens), resident, tokens)
            best = decide("optimum", cell, start=start, top_k=0)[2]
            for kind, found in ratios.items():
                found.append(decide(kind, cell, start=start, top_k=0)[2] / best)
        assert np.mean(ratios["three-clock"]) < 1.01
        assert np.mean(ratios["balanced"]) < 1.001
        assert np.mean(ratios["cheapest"]) > 1.01  # so that the layers are no trivial ones


def test_what_a_token_may_put_off_is_what_no_token_protects():
    rng = np.random.default_rng(3)
    tokens, layers, top_k, num_experts = 24, 3, 4, 10
    ids = np.stack([[rng.permutation(num_experts)[:top_k] for _ in range(layers)] for _ in range(tokens)])
    weights = rng.random(ids.shape).astype(np.float16)
    trace = ms.RoutingTrace(
        ids.astype(np.uint8),
        np.zeros(tokens, np.int32),
        num_experts,
        (0, 1, 2),
        np.arange(tokens, dtype=np.int32),
        np.ones(tokens, np.int8),
        weights,
    )
    kept = rng.random(ids.shape) < 0.8
    kept[..., 0] = True
    for used in (None, kept):
        steps = token_steps(trace, used)
        marks = deferrable(trace, steps, 2, used)
        for cell in range(len(steps.starts) - 1):
            row, layer = divmod(cell, layers)
            slots = [j for j in range(top_k) if used is None or used[row, layer, j]]
            best = sorted(slots, key=lambda j: (-weights[row, layer, j], j))[: top_k - 2]
            wanted = [layer < layers - 1 and j not in best for j in slots]
            assert marks[steps.starts[cell] : steps.starts[cell + 1]].tolist() == wanted
    assert not deferrable(trace, token_steps(trace), 0).any()
    whole = deferrable(trace, token_steps(trace), top_k).reshape(tokens, layers, top_k)
    assert whole[:, :-1].all()
    assert not whole[:, -1].any()
