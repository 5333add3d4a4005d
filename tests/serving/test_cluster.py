"""Fleets that fail and pools that hand over, against plain processes of SimPy, conservation and theory."""

from __future__ import annotations

import numpy as np
import pytest
from cluster_oracle import Request, aggregated, handed

from moesim.serving.cluster import Cluster, Pool, simulate_failing
from moesim.serving.failures import Failures, Shrink
from moesim.serving.handing import Pools
from moesim.serving.handover import HandOver, Wires
from moesim.serving.kernel.fleet import CURSOR, run
from moesim.serving.pricing import constant_prices
from moesim.serving.settings import ROUTERS
from moesim.serving.state import AHEAD, DONE, HELD, LOST, RESERVED, Asked, Rules, new_state


def rules_of(**changed):
    plain = {
        "lanes": 1, "budget": 512, "most": 8, "block": 16, "hash_tokens": 0, "chunked": True,
        "prefill_first": False, "order": 0, "admission": 0, "share": 0.7, "swap_s": 0.0, "drafts": 0,
        "acceptance": 0.0, "seed": 0, "router": ROUTERS.index("round-robin"), "closed": 0,
    }  # fmt: skip
    return Rules(**(plain | changed))


def asked_of(arrival, prompt, output):
    n = len(arrival)
    return Asked(
        np.asarray(arrival, float),
        np.asarray(prompt, np.int32),
        np.asarray(output, np.int32),
        np.zeros(n, np.int32),
        np.zeros(0, np.int64),
        np.zeros(n + 1, np.int64),
    )


def traffic(n, rate, seed=0, prompt=900, output=40):
    """Times are sums of powers of two, so that adding them is exact; no two end in the same bits."""
    rng = np.random.default_rng(seed)
    arrival = (
        np.floor(np.cumsum(rng.exponential(1 / rate, n)) * 2**12) / 2**12 + (1 + np.arange(n)) * 2.0**-24
    )
    return asked_of(arrival, rng.integers(1, prompt, n), rng.integers(1, output, n))


def fleet(asked, engines=2, step_s=2.0**-6, blocks=10_000, **changed):
    rules = rules_of(**changed)
    state = new_state(asked, engines, rules.lanes, rules.most, blocks, 1000, rules)
    return Pool(state, rules, constant_prices(step_s))


def wires_for(senders, receivers, bytes_per_s=1e9, token_bytes=1e5, spine=0.0, layers=10, latency_s=1e-5):
    capacity = [bytes_per_s] * (senders + receivers) + ([spine] if spine else [])
    return Wires(
        np.array(capacity),
        tuple(map(str, range(len(capacity)))),
        np.arange(senders),
        senders + np.arange(receivers),
        len(capacity) - 1 if spine else -1,
        latency_s,
        np.arange(2000) * token_bytes,
        block=1,
        layers=layers,
    )


def pools_of(asked, engines=(2, 2), steps_s=(2.0**-6, 2.0**-7), how=None, failures=None, wires=None,
             closed=0, blocks=10_000, most=8, **more):  # fmt: skip
    never = asked._replace(arrival_s=np.full(len(asked.arrival_s), np.inf))
    prefill = fleet(asked, engines[0], steps_s[0], blocks, prefill_only=True, closed=closed, most=most)
    decode = fleet(never, engines[1], steps_s[1], blocks, most=most)
    return Pools(prefill, decode, wires or wires_for(*engines), how, failures, **more)


def requests_of(asked):
    return [
        Request(i, *row)
        for i, row in enumerate(
            zip(asked.arrival_s.tolist(), asked.prompt.tolist(), asked.output.tolist(), strict=True)
        )
    ]


def same(state, other):
    for name in state.progress.dtype.names:
        np.testing.assert_array_equal(state.progress[name], other.progress[name], err_msg=name)
    np.testing.assert_array_equal(state.tally.gaps, other.tally.gaps)
    np.testing.assert_array_equal(state.tally.sums, other.tally.sums)
    np.testing.assert_array_equal(state.tally.log, other.tally.log)


@pytest.mark.parametrize("closed", [0, 5])
@pytest.mark.parametrize(
    "failures", [None, Failures(listed=((1e6, 0, 1.0),)), Failures(mtbf_s=1e9, repair_s=1.0)]
)
def test_without_a_failure_all_is_as_without_simpy(failures, closed):
    asked = traffic(300, 60.0)
    plain, pool = fleet(asked, closed=closed), fleet(asked, closed=closed)
    run(plain.state, plain.rules, plain.prices, np.zeros(CURSOR, np.int64), np.inf, False)
    down = simulate_failing(pool.state, pool.rules, pool.prices, failures)
    same(plain.state, pool.state)
    assert not down.down_s.any()
    assert down.availability == 1.0


def test_looking_at_the_clock_changes_nothing():
    # Nodes that fail in a replica nobody uses cut the run into pieces.
    asked = traffic(300, 60.0)
    plain, pool = fleet(asked), fleet(asked)
    run(plain.state, plain.rules, plain.prices, np.zeros(CURSOR, np.int64), np.inf, False)
    cluster = Cluster(pool)
    for k in range(2000):
        cluster.env.timeout(k * 0.00307)
    cluster.run()
    same(plain.state, pool.state)


OUTAGES = {
    "none": (),
    "one": ((1.0 + 2**-16, 1, 1.5),),
    "all-gone": ((0.5 + 2**-16, 0, 2.0), (1.0 + 2**-16, 1, 0.25)),
}


@pytest.mark.parametrize("outages", OUTAGES.values(), ids=OUTAGES)
def test_a_fleet_is_exactly_that_of_plain_processes(outages):
    asked = traffic(150, 40.0, seed=1)
    pool = fleet(asked)
    down = simulate_failing(pool.state, pool.rules, pool.prices, Failures(listed=outages))
    expected = aggregated(requests_of(asked), 2, 2.0**-6, 512, 8, outages)
    progress = pool.state.progress
    assert progress["first_s"].tolist() == [one.first for one in expected]
    assert progress["last_s"].tolist() == [one.last for one in expected]
    assert down.down_s.sum() == pytest.approx(sum(seconds for *_, seconds in outages))
    assert (down.sent_again.sum() > 0) == bool(outages)


@pytest.mark.parametrize(("token_bytes", "exact"), [(0.0, True), (2.0e4, False)], ids=["no-bytes", "shared"])
def test_pools_are_those_of_plain_processes(token_bytes, exact):
    # The sender is the bottleneck: its link is shared by all that are on their way.
    asked = traffic(150, 30.0, seed=2)
    wires = wires_for(1, 3, 1e9, token_bytes, latency_s=2.0**-11)
    # Steps of odd length: a cache never comes exactly where a step ends.
    steps_s = 2.0**-6, 2.0**-7 + 2.0**-20
    pools = pools_of(asked, (1, 3), steps_s, wires=wires)
    pools.run()
    expected = handed(requests_of(asked), 3, steps_s, 512, 8, token_bytes / 1e9, 2.0**-11)
    progress = pools.decode.state.progress
    if exact:
        assert progress["first_s"].tolist() == [one.first for one in expected]
        assert progress["last_s"].tolist() == [one.last for one in expected]
    else:
        np.testing.assert_allclose(progress["first_s"], [one.first for one in expected], rtol=1e-12)
        np.testing.assert_allclose(progress["last_s"], [one.last for one in expected], rtol=1e-12)


HOWS = [
    HandOver(),
    HandOver(overlap=True),
    HandOver(first_token="decode"),
    HandOver(overlap=True, first_token="decode"),
]


MISHAPS = {
    "none": None,
    "repaired": Failures(mtbf_s=1.0, repair_s=0.3),
    "one-retry": Failures(mtbf_s=1.5, repair_s=0.2, retries=1),
}


@pytest.mark.parametrize("how", HOWS, ids=["pull", "overlap", "decode-first", "both"])
@pytest.mark.parametrize("blocks", [80, 10_000])
@pytest.mark.parametrize("failures", MISHAPS.values(), ids=MISHAPS)
@pytest.mark.parametrize("closed", [0, 6])
def test_everyone_ends_and_nothing_is_left_behind(how, blocks, failures, closed):
    asked = traffic(60, 40.0, seed=3)
    pools = pools_of(asked, how=how, failures=failures, closed=closed, blocks=blocks, wires=wires_for(2, 2))
    down = pools.run()
    progress = pools.decode.state.progress
    done = progress["stage"] == DONE
    assert np.all(done | (progress["stage"] == LOST))
    assert np.all(progress["generated"][done] == asked.output[done])
    assert np.all(progress["last_s"][done] >= progress["first_s"][done])
    assert np.all(progress["first_s"][done] > pools.prefill.state.progress["sent_s"][done])
    if failures is None:
        assert done.all()
        tokens = asked.prompt[(asked.output > 1) | (how.first_token == "decode")]
        # A prompt that is thrown out while it crosses has to cross again.
        again = pools.links.carried[:2].sum() / (tokens.sum() * 1e5) - 1.0
        assert again == pytest.approx(0.0, abs=1e-9) or (how.overlap and blocks == 80 and again > 0.0)
        assert not down.sent_again.any()
    if failures is None or failures.repair_s is not None:
        lanes = np.concatenate([pool.state.lanes["used"] for pool in pools.pools])
        stages = np.concatenate([pool.state.progress["stage"] for pool in pools.pools])
        assert not lanes.any()
        assert not np.isin(stages, [HELD, RESERVED]).any()
        assert not pools.crossing
    # What was sent is what was carried, at both ends.
    assert pools.crossed.sum() == pytest.approx(pools.links.carried[:2].sum())
    assert pools.links.carried[:2].sum() == pytest.approx(pools.links.carried[2:].sum())


def test_a_closed_loop_never_has_more_in_flight():
    asked = traffic(80, 1e5)
    pools = pools_of(asked, closed=7)
    pools.run()
    sent, last = pools.prefill.state.progress["sent_s"], pools.decode.state.progress["last_s"]
    for t in sent:
        assert np.sum((sent <= t) & (t < last)) <= 7
    assert np.sum((sent <= 0.5) & (last > 0.5)) == 7


@pytest.mark.parametrize("how", HOWS[:3], ids=["pull", "overlap", "decode-first"])
def test_faster_links_hand_over_earlier(how):
    asked = traffic(200, 30.0, seed=3)
    means = []
    for bytes_per_s in (3e8, 1e9, 3e9, 1e12):
        pools = pools_of(asked, how=how, wires=wires_for(2, 2, bytes_per_s))
        pools.run()
        progress = pools.decode.state.progress
        means.append((np.nanmean(pools.handed_s), (progress["last_s"] - asked.arrival_s).mean()))
    assert np.all(np.diff(means, axis=0) < 0.0)


def test_a_spine_that_blocks_delays_everyone():
    asked = traffic(200, 30.0, seed=3)
    handed = []
    for spine in (0.0, 5e8):
        pools = pools_of(asked, wires=wires_for(2, 2, spine=spine))
        pools.run()
        handed.append(np.nanmean(pools.handed_s))
    assert handed[1] > handed[0]


def test_overlap_leaves_the_last_layer():
    # One request alone: all but a layer crosses while it is computed, where the link is fast enough.
    asked = asked_of([0.0], [400], [5])
    wires = wires_for(1, 1, 1e10, layers=10, latency_s=0.0)
    for overlap, part in ((False, 1.0), (True, 0.1)):
        pools = pools_of(asked, (1, 1), how=HandOver(overlap=overlap), wires=wires)
        pools.run()
        assert pools.handed_s[0] == pytest.approx(part * 400 * 1e5 / 1e10, rel=1e-6)
        assert pools.crossed[0] == pytest.approx(400 * 1e5)


def test_who_gives_the_first_token():
    asked = asked_of([0.0], [400], [5])
    ends = {}
    for who in ("prefill", "decode"):
        pools = pools_of(asked, (1, 1), how=HandOver(first_token=who), wires=wires_for(1, 1, 1e10))
        pools.run()
        progress, there = pools.decode.state.progress, 2.0**-6 + pools.handed_s[0]
        ends[who] = progress["last_s"][0]
        first = 2.0**-6 if who == "prefill" else there + 2.0**-7
        assert progress["first_s"][0] == pytest.approx(first)
    # The decode worker has one step more to make.
    assert ends["decode"] - ends["prefill"] == pytest.approx(2.0**-7)


def test_blocks_of_the_decode_worker_hold_hand_overs_back():
    # Room for two at a time: the third waits for the first to end, in its prefill worker's cache.
    asked = asked_of([0.0, 2.0**-10, 2.0**-9], [20, 20, 20], [6, 11, 11])
    pools = pools_of(asked, (1, 1), blocks=4, wires=wires_for(1, 1, 1e10))
    pools.run()
    last, waited = pools.decode.state.progress["last_s"], pools.waited_s
    assert waited[:2].tolist() == [0.0, 0.0]
    read = pools.decode.state.progress["first_s"][2]
    assert read + waited[2] == pytest.approx(last[0])


def test_a_request_longer_than_any_decode_worker_holds_is_lost():
    asked = asked_of([0.0, 1.0], [100, 30], [5, 5])
    never = asked._replace(arrival_s=np.full(2, np.inf))
    pools = Pools(fleet(asked, 1, prefill_only=True), fleet(never, 1, blocks=4), wires_for(1, 1))
    pools.run()
    assert pools.decode.state.progress["stage"].tolist() == [LOST, DONE]
    assert not pools.prefill.state.lanes["used"].any()


def test_a_lost_sender_has_its_prompts_read_again_and_tokens_stay():
    asked = asked_of([0.0], [400], [5])
    # Prefill takes 1/64 s, the transfer 0.04 s; its sender fails in the middle of it.
    pools = pools_of(asked, (2, 1), failures=Failures(listed=((0.03, 0, 1.0),)), wires=wires_for(2, 1))
    pools.run()
    progress = pools.decode.state.progress
    assert pools.sent_again.tolist() == [1]
    assert progress["first_s"][0] == 2.0**-6
    assert progress["generated"][0] == 5
    # Read again from 0.03 s on with the token that was given, which yields the second.
    assert pools.handed_s[0] == pytest.approx(401 * 1e5 / 1e9 + 1e-5)
    assert progress["last_s"][0] == pytest.approx(0.03 + 2.0**-6 + pools.handed_s[0] + 3 * 2.0**-7)
    assert pools.links.carried[0] == pytest.approx((0.03 - 2.0**-6 - 1e-5) * 1e9)


def test_a_lost_receiver_has_the_cache_sent_elsewhere():
    asked = asked_of([0.0], [400], [5])
    pools = pools_of(asked, (1, 2), failures=Failures(listed=((0.03, 1, 1.0),)), wires=wires_for(1, 2))
    pools.run()
    assert not pools.sent_again.any()
    assert pools.decode.state.progress["lane"][0] == 1
    assert pools.handed_s[0] == pytest.approx(0.03 - 2.0**-6 + 400 * 1e5 / 1e9 + 1e-5)


def test_what_a_decode_worker_had_generated_is_read_again_with_the_prompt():
    asked = asked_of([0.0], [400], [50])
    pools = pools_of(asked, (1, 2), failures=Failures(listed=((0.2, 1, 9.0),)), wires=wires_for(1, 2))
    pools.run()
    progress = pools.decode.state.progress
    given = 1 + int((0.2 - 2.0**-6 - 0.04001) / 2.0**-7)
    assert progress["generated"][0] == 50
    assert pools.crossed[0] == pytest.approx((400 + 400 + given) * 1e5)
    assert progress["first_s"][0] == 2.0**-6
    assert pools.decode.state.tally.gaps.sum() + pools.prefill.state.tally.gaps.sum() == 49


def test_given_up_after_so_many_retries():
    asked = traffic(40, 200.0, seed=5)
    pool = fleet(asked, 1)
    down = simulate_failing(
        pool.state, pool.rules, pool.prices, Failures(mtbf_s=0.05, repair_s=0.01, retries=2)
    )
    lost = pool.state.progress["stage"] == LOST
    assert lost.any()
    assert np.all(down.sent_again[lost] == 3)
    assert np.all(down.sent_again[~lost] <= 2)


def test_where_nobody_is_left_requests_are_lost():
    asked = traffic(40, 20.0, seed=5)
    pool = fleet(asked, 2)
    simulate_failing(pool.state, pool.rules, pool.prices, Failures(mtbf_s=0.5, seed=1))
    stage = pool.state.progress["stage"]
    assert set(stage.tolist()) == {DONE, LOST}
    assert not np.isin(stage, [AHEAD]).any()


def test_down_time_of_a_fleet_is_that_of_its_nodes():
    asked = traffic(3000, 20.0, seed=6, prompt=30, output=5)
    pool = fleet(asked, 8)
    down = simulate_failing(
        pool.state, pool.rules, pool.prices, Failures(mtbf_s=4.0, repair_s=1.0, retries=None)
    )
    assert np.all(pool.state.progress["stage"] == DONE)
    # 8 x 150 s are 240 cycles of 5 s: three standard errors of the share are about 0.05.
    assert down.availability == pytest.approx(0.8, abs=0.05)


def test_an_elastic_replica_goes_on_slower():
    asked = traffic(60, 30.0, seed=7)
    shrink = Shrink(stall_s=0.5, slowdown=2.0)
    calm, failing = fleet(asked, 1), fleet(asked, 1)
    simulate_failing(calm.state, calm.rules, calm.prices)
    down = simulate_failing(
        failing.state, failing.rules, failing.prices,
        Failures(mtbf_s=1.0, repair_s=1e6, shrink=shrink, seed=2), nodes=[(0,), (0,)],
    )  # fmt: skip
    assert np.all(failing.state.progress["stage"][down.sent_again <= 10] == DONE)
    first = down.failures[0]
    assert first >= 1
    assert failing.state.progress["last_s"].max() > calm.state.progress["last_s"].max() + 0.5
