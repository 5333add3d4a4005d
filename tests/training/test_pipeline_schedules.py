"""Schedules against closed forms of their bubbles, and against an evaluation in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.timeline import Task, finish_times
from moesim.training import (
    Schedule,
    StageTimes,
    dualpipe,
    in_flight,
    interleaved,
    one_forward_one_backward,
    run_schedule,
)
from moesim.training.schedule import BACKWARD, BOTH, FORWARD, INPUT, WEIGHT


def plain(schedule: Schedule, times: StageTimes) -> np.ndarray:
    """The same by `moesim.engine.timeline`: tasks by name, made ready in any order that works."""
    waiting = [
        list(map(tuple, rows[:n].tolist())) for rows, n in zip(schedule.order, schedule.tasks, strict=True)
    ]
    tasks: list[Task] = []
    known: set[str] = set()
    ends: dict[int, str] = {}
    hop = times.hop_s

    def needs(kind, stage, micro):
        found = []
        if kind == FORWARD and not schedule.first[stage]:
            found.append((f"f{stage - 1}.{micro}", schedule.rank_of[stage - 1] != schedule.rank_of[stage]))
        if kind in (BACKWARD, INPUT):
            found.append((f"f{stage}.{micro}", False))
            if not schedule.last[stage]:
                found.append(
                    (f"b{stage + 1}.{micro}", schedule.rank_of[stage + 1] != schedule.rank_of[stage])
                )
        return found

    moving = True
    while moving:
        moving = False
        for rank, rows in enumerate(waiting):
            while rows:
                kind, stage, micro, other, behind = rows[0]
                pieces = (
                    [(FORWARD, stage, micro), (BACKWARD, other, behind)]
                    if kind == BOTH
                    else [(kind, stage, micro)]
                )
                after = [need for piece in pieces for need in needs(*piece)]
                if any(name not in known for name, _ in after):
                    break
                seconds = 0.0
                for what, s, _ in pieces:
                    seconds += {
                        FORWARD: times.forward_s[s],
                        BACKWARD: times.backward_s[s],
                        INPUT: times.backward_s[s] - times.weight_s[s],
                        WEIGHT: times.weight_s[s],
                    }[what]
                name = f"r{rank}.{len(tasks)}"
                waits = []
                for need, far in after:
                    if far and hop:
                        wire = f"w{len(tasks)}"
                        tasks.append(Task(wire, wire, np.array([hop]), (need,)))
                        need = wire
                    waits.append(need)
                tasks.append(Task(name, f"rank{rank}", np.array([seconds]), tuple(waits)))
                ends[rank] = name
                for what, s, m in pieces:
                    if what != WEIGHT:
                        label = f"{'f' if what == FORWARD else 'b'}{s}.{m}"
                        # A mark of no length, on a stream of its own.
                        tasks.append(Task(label, label, np.array([0.0]), (name,)))
                        known.add(label)
                rows.pop(0)
                moving = True
    assert not any(waiting)
    done = finish_times(tasks)
    return np.array([float(done[ends[rank]][0]) for rank in range(len(waiting))])


@pytest.mark.parametrize(("pp", "micro"), [(1, 1), (2, 2), (4, 8), (8, 64), (16, 16), (6, 3)])
def test_one_forward_one_backward_takes_what_the_formula_says(pp, micro):
    done, busy = run_schedule(one_forward_one_backward(pp, micro), StageTimes.even(pp, 1.0, 2.0))
    assert done.max() == pytest.approx((micro + pp - 1) * 3.0)
    assert busy == pytest.approx(micro * 3.0)


@pytest.mark.parametrize(
    ("pp", "vpp", "micro"), [(2, 2, 2), (4, 2, 8), (4, 3, 12), (8, 7, 32), (8, 2, 8), (16, 5, 64)]
)
def test_interleaving_divides_the_bubble_by_the_virtual_stages(pp, vpp, micro):
    times = StageTimes.even(pp * vpp, 1.0 / vpp, 2.0 / vpp)
    done, _ = run_schedule(interleaved(pp, vpp, micro), times)
    # Narayanan et al., arXiv:2104.04473, section 2.2: (p-1)/(v m) of the work.
    assert done.max() == pytest.approx(micro * 3.0 + (pp - 1) * 3.0 / vpp)


@pytest.mark.parametrize(("pp", "micro"), [(2, 4), (4, 8), (4, 20), (8, 16), (8, 40), (16, 32)])
def test_dualpipe_takes_what_its_report_says(pp, micro):
    forward, backward, weight = 1.0, 2.0, 1.0
    done, busy = run_schedule(dualpipe(pp, micro), StageTimes.even(2 * pp, forward, backward, weight))
    assert busy == pytest.approx(micro * (forward + backward))
    # DeepSeek-V3 report, table 2: bubble (p/2 - 1)(F&B + B - 3W), with F&B = F + B where nothing is hidden.
    bubble = (pp / 2 - 1) * (forward + backward + backward - 3 * weight)
    assert done.max() == pytest.approx(micro * (forward + backward) + bubble)


def test_dualpipe_holds_one_micro_batch_more_than_stages_and_does_each_once():
    pp, micro = 8, 24
    schedule = dualpipe(pp, micro)
    assert in_flight(schedule).sum(axis=1).max() == pp + 1
    seen = {}
    for rows, n in zip(schedule.order, schedule.tasks, strict=True):
        for kind, stage, m, other, behind in rows[:n].tolist():
            pieces = [(FORWARD, stage, m), (BACKWARD, other, behind)] if kind == BOTH else [(kind, stage, m)]
            for piece in pieces:
                seen[piece] = seen.get(piece, 0) + 1
    assert set(seen.values()) == {1}
    forwards = {(s, m) for k, s, m in seen if k == FORWARD}
    backwards = {(s, m) for k, s, m in seen if k in (BACKWARD, INPUT)}
    assert forwards == backwards == {(s, m) for s in range(2 * pp) for m in range(micro // 2)}


def test_activations_in_flight_are_those_of_the_papers():
    assert in_flight(one_forward_one_backward(8, 32)).sum(axis=1).tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    # Interleaved, the first rank holds p(1 + (p-1)/(p v)) micro-batches' worth (arXiv:2205.05198, 4.2.3).
    pp, vpp = 8, 4
    held = in_flight(interleaved(pp, vpp, 32)).sum(axis=1).max() / vpp
    assert held == pytest.approx(pp * (1 + (pp - 1) / (pp * vpp)))


stage_seconds = st.floats(0.1, 5.0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_kernel_agrees_with_the_timeline(data):
    kind = data.draw(st.sampled_from(["1f1b", "interleaved", "dualpipe"]))
    pp = data.draw(st.sampled_from([2, 4]))
    if kind == "1f1b":
        schedule = one_forward_one_backward(pp, data.draw(st.integers(1, 9)))
    elif kind == "interleaved":
        schedule = interleaved(pp, data.draw(st.integers(2, 3)), pp * data.draw(st.integers(1, 3)))
    else:
        schedule = dualpipe(pp, 2 * pp + 2 * data.draw(st.integers(0, 3)))
    stages = schedule.stages
    each = st.lists(stage_seconds, min_size=stages, max_size=stages).map(np.array)
    forward, backward = data.draw(each), data.draw(each)
    times = StageTimes(forward, backward, backward / 2, np.zeros(stages), data.draw(st.floats(0.0, 1.0)))
    done, busy = run_schedule(schedule, times)
    assert done == pytest.approx(plain(schedule, times))
    assert np.all(busy <= done + 1e-9)


def test_a_slower_stage_is_never_made_up_for():
    pp, micro = 4, 12
    even, _ = run_schedule(one_forward_one_backward(pp, micro), StageTimes.even(pp, 1.0, 2.0))
    for stage in range(pp):
        times = StageTimes.even(pp, 1.0, 2.0)
        times.forward_s[stage] *= 2
        slow, _ = run_schedule(one_forward_one_backward(pp, micro), times)
        # It works on every micro-batch itself, behind one that fills the pipeline.
        assert slow.max() >= max(even.max(), micro * 4.0 + stage * 1.0) - 1e-9


def test_orders_that_wait_for_each_other_are_found():
    schedule = one_forward_one_backward(2, 2)
    order = schedule.order.copy()
    # The last rank wants its backward pass before its forward pass.
    order[1, [0, 1]] = order[1, [1, 0]]
    broken = Schedule(order, schedule.tasks, schedule.rank_of, schedule.first, schedule.last, 2)
    with pytest.raises(ValueError, match="wait for each other"):
        run_schedule(broken, StageTimes.even(2, 1.0, 1.0))
    with pytest.raises(ValueError, match="no multiple"):
        interleaved(4, 2, 6)
    with pytest.raises(ValueError, match="over 3 ranks"):
        dualpipe(3, 8)
