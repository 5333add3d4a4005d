"""When nodes fail and come back, against the closed forms of machine repair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simpy

from moesim.errors import ConfigError
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.prediction import Engine
from moesim.prediction.kept import deployment_of
from moesim.serving.failures import Failures, Nodes, Shrink, reload_s, replicas_on


def lived(failures, on, end, reload=0.0):
    """Nodes after so long, and what they told."""
    env, told = simpy.Environment(), []
    replicas = 1 + max(r for node in on for r in node)

    def tell(what):
        return lambda *which: told.append((env.now, what, *which))

    nodes = Nodes(env, failures, on, np.full(replicas, reload), tell("down"), tell("up"), tell("fits"))
    env.run(until=end)
    return nodes, told


def test_known_failures_happen_when_they_are_told():
    nodes, told = lived(Failures(listed=((3.0, 1, 4.0), (20.0, 0, 5.0))), [(0,), (1,)], 100.0, reload=2.0)
    assert told == [(3.0, "down", 1), (9.0, "up", 1), (20.0, "down", 0), (27.0, "up", 0)]
    assert nodes.until(100.0).tolist() == [7.0, 6.0]


def test_failures_that_overlap_are_one_outage():
    _, told = lived(Failures(listed=((3.0, 0, 4.0), (5.0, 0, 10.0))), [(0,)], 100.0)
    assert told == [(3.0, "down", 0), (15.0, "up", 0)]


def test_a_failure_while_weights_are_loaded_starts_over():
    _, told = lived(Failures(listed=((0.0, 0, 1.0), (2.0, 0, 1.0))), [(0,)], 100.0, reload=5.0)
    assert told == [(0.0, "down", 0), (8.0, "up", 0)]


def test_what_is_not_repaired_stays_away():
    nodes, told = lived(Failures(mtbf_s=1.0, seed=1), [(0,), (1,)], 1e3)
    assert [what for _, what, _ in told] == ["down", "down"]
    assert not nodes.works.any()
    assert lived(Failures(listed=((1.0, 0, math.inf),)), [(0,)], 1e3)[1] == [(1.0, "down", 0)]


def test_replicas_of_one_node_fail_together_and_one_of_two_nodes_with_either():
    _, told = lived(Failures(mtbf_s=10.0, repair_s=1.0, seed=2), [(0, 1), (2,), (2,)], 500.0)
    downs = [(t, which) for t, what, which in told if what == "down"]
    assert {t for t, r in downs if r == 0} == {t for t, r in downs if r == 1}
    assert sum(r == 2 for _, r in downs) > 1.5 * sum(r == 0 for _, r in downs)


@pytest.mark.parametrize("nodes", [1, 3])
def test_availability_is_that_of_independent_nodes(nodes):
    # Each node works MTBF / (MTBF + repair) of the time; a replica needs all of its own.
    many, end = 40, 4e3
    on = [(r,) for r in range(many) for _ in range(nodes)]
    lasted, _ = lived(Failures(mtbf_s=20.0, repair_s=5.0, seed=3), on, end)
    up = 1.0 - lasted.until(end).mean() / end
    # A cycle is 25 s, so there are 40 x 160 of them: 1 % is more than four standard errors.
    assert up == pytest.approx((20.0 / 25.0) ** nodes, abs=0.01)


@pytest.mark.parametrize("crews", [1, 2])
def test_few_crews_are_the_machine_repair_queue(crews):
    # M/M/c//N: nodes that are down are born at (N - k) / mtbf and leave at min(k, c) / repair.
    n, mtbf, repair, end = 6, 10.0, 4.0, 2e5
    weights = [1.0]
    for k in range(n):
        weights.append(weights[-1] * (n - k) / mtbf / (min(k + 1, crews) / repair))
    p = np.array(weights) / sum(weights)
    down = float(p @ np.arange(n + 1)) / n
    lasted, _ = lived(
        Failures(mtbf_s=mtbf, repair_s=repair, crews=crews, seed=4), [(r,) for r in range(n)], end
    )
    assert lasted.until(end).mean() / end == pytest.approx(down, rel=0.02)


def test_an_elastic_replica_loses_a_node_and_goes_on():
    shrink = Shrink(stall_s=3.0, slowdown=1.5)
    _, told = lived(Failures(mtbf_s=50.0, repair_s=10.0, shrink=shrink, seed=5), [(0,)] * 4, 400.0)
    fits = [entry for entry in told if entry[1] == "fits"]
    assert {has for *_, has, _ in fits} <= {3, 4}
    assert any(has == 3 for *_, has, _ in fits)
    # Down only where two are gone at once: far less often than one of four is.
    assert 0 < sum(what == "down" for _, what, *_ in told) < len(fits)


def test_the_same_seed_fails_alike_and_nodes_do_not_depend_on_each_other():
    failures = Failures(mtbf_s=10.0, repair_s=1.0, seed=6)
    _, two = lived(failures, [(0,), (1,)], 100.0)
    _, again = lived(failures, [(0,), (1,)], 100.0)
    _, three = lived(failures, [(0,), (1,), (2,)], 100.0)
    assert two == again
    assert [entry for entry in three if entry[2] < 2] == two


def test_replicas_lie_one_after_the_other():
    assert replicas_on([8, 8], 8) == ((0,), (1,))
    assert replicas_on([2] * 5, 4) == ((0, 1), (2, 3), (4,))
    assert replicas_on([6, 6], 4) == ((0,), (0, 1), (1,))


def test_weights_come_from_storage_or_host_memory():
    model = load_model("qwen3-30b-a3b")
    engine = Engine()
    small, big = load_hardware("rtx-4090-64core"), load_hardware("h200-sxm-8")
    one = deployment_of(model, big, Parallelism(tp=8), engine, None, None, 0)
    weights = one.memory(engine.chunk_tokens, engine.memory_utilisation).weights_bytes
    link = big.host_link
    expected = link.latency_s + weights / (link.bandwidth_bytes_per_s * link.efficiency)
    assert reload_s(one, "auto", engine) == reload_s(one, "host", engine) == pytest.approx(expected)
    assert reload_s(one, "none", engine) == 0.0
    with pytest.raises(ConfigError, match="describes no storage"):
        reload_s(one, "storage", engine)
    with_disk = deployment_of(model, small, Parallelism(), engine, None, None, 0)
    weights = with_disk.memory(engine.chunk_tokens, engine.memory_utilisation).weights_bytes
    disk = small.host.storage.bandwidth_bytes_per_s
    assert reload_s(with_disk, "auto", engine) == pytest.approx(weights / disk)


def test_every_wrong_setting_is_named():
    wrong = Failures(
        mtbf_s=-1.0, repair_s=math.inf, crews=0, reload="floppy", retries=-1,
        listed=((1.0, 9, 1.0), (-1.0, 0, 0.0)), shrink=Shrink(-1.0, 0.5),
    )  # fmt: skip
    where = [fault.where for fault in wrong.faults(replicas=4)]
    assert where == ["--mtbf", "--repair", "--crews", "--retries", "--reload", "--fail", "--fail", "--shrink"]
    assert not Failures(mtbf_s=1.0, repair_s=1.0).faults(4)
