"""Runs in time: steps, requests, hand-overs, failures and moving experts, each where it happened."""

from __future__ import annotations

import json

import numpy as np
import pytest
from timeline_checker import check

import moesim as ms
from moesim.chrome import nanoseconds
from moesim.errors import ConfigError
from moesim.files import data_dir
from moesim.requests import generate_requests, parse_lengths
from moesim.serving.export import write_timeline
from moesim.serving.failures import Failures, Shrink
from moesim.serving.handover import HandOver
from moesim.serving.periods import Window
from moesim.serving.settings import Fleet
from moesim.serving.state import LOG_REPLICA, LOG_SECONDS, LOG_START

PLAIN = "queue", "prefill", "decode"


@pytest.fixture(scope="module")
def world():
    return ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")


@pytest.fixture(scope="module")
def requests():
    lengths = parse_lengths("lognormal:900:1"), parse_lengths("lognormal:30:3")
    return generate_requests(200, "gamma:20:2", *lengths, seed=4)


@pytest.fixture(scope="module")
def outcome(world, requests):
    return ms.simulate(*world, ms.Parallelism(), requests, fleet=Fleet(2))


def drawn(outcome, tmp_path, **options):
    counted = write_timeline(outcome, tmp_path / "t.json.gz", **options)
    checked = check(tmp_path / "t.json.gz")
    assert counted == (checked.about["steps_drawn"], checked.about["requests_drawn"])
    return checked


def steps_of(checked, *processes):
    return sorted(
        (s.start, s.end)
        for (process, _), mine in checked.tracks.items()
        if process in processes
        for s in mine
        if s.kind == "step"
    )


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_every_step_and_the_first_requests_are_there(outcome, tmp_path, name):
    write_timeline(outcome, tmp_path / name, requests=50)
    checked = check(tmp_path / name)
    log = outcome.state.tally.log[: outcome.state.tally.logged[0]]
    wanted = nanoseconds(log[:, LOG_START]), nanoseconds(log[:, LOG_START] + log[:, LOG_SECONDS])
    assert steps_of(checked, "engines") == sorted(zip(*(ends.tolist() for ends in wanted), strict=True))
    assert {track for process, track in checked.tracks if process == "engines"} == {"replica 0", "replica 1"}
    assert sum(process == "requests" for process, _ in checked.tracks) == 50
    p = outcome.state.progress
    for r in range(50):
        whole, *parts = checked.of("requests", f"request {r}")
        assert (whole.start, whole.end) == tuple(nanoseconds([p.sent_s[r], p.last_s[r]]).tolist())
        # Of equal beginnings the longest comes first: those without a queue have a queue of no length.
        assert sorted(part.name for part in parts) == sorted(PLAIN)
        assert sum(part.end - part.start for part in parts) == whole.end - whole.start
        assert whole.facts["output_tokens"] == outcome.requests.output_tokens[r]


def test_counters_are_those_of_the_log(outcome, tmp_path):
    checked = drawn(outcome, tmp_path, requests=0)
    counted = [e for e in checked.events if e["ph"] == "C" and e["name"].startswith("requests of")]
    assert len(counted) == len(steps_of(checked, "engines"))
    assert max(e["args"]["running"] for e in counted) == outcome.state.tally.log[:, 5].max()
    shares = [e["args"]["share"] for e in checked.events if e["name"].startswith("KV cache")]
    assert 0 < max(shares) <= 1


def test_arrows_lead_from_requests_to_the_steps_they_began_in(outcome, tmp_path):
    checked = drawn(outcome, tmp_path, requests=30)
    arrows = [e for e in checked.events if e["ph"] == "f"]
    assert len(arrows) == 30
    starts = {start for start, _ in steps_of(checked, "engines")}
    assert {round(e["ts"] * 1000) for e in arrows} <= starts


def test_a_window_holds_what_lies_in_it(outcome, tmp_path):
    checked = drawn(outcome, tmp_path, window_s=(2.0, 3.0), requests=1000)
    assert all(end >= 2e9 and start < 3e9 for start, end in steps_of(checked, "engines"))
    p = outcome.state.progress
    inside = np.flatnonzero((p.sent_s < 3.0) & (p.last_s >= 2.0))
    assert {t for process, t in checked.tracks if process == "requests"} == {f"request {r}" for r in inside}
    with pytest.raises(ConfigError, match="--timeline-window"):
        write_timeline(outcome, tmp_path / "x.json", window_s=(3.0, 3.0))


@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_caches_cross_on_the_links_between_pools(world, requests, tmp_path, first_token):
    pools = ms.Disaggregated(ms.Workers(ms.Parallelism(), 2), ms.Workers(ms.Parallelism(tp=2), 1))
    outcome = ms.simulate(
        *world, pools, requests, hand_over=HandOver(oversubscription=4.0, first_token=first_token)
    )
    checked = drawn(outcome, tmp_path, requests=200)
    processes = {process for process, _ in checked.tracks}
    assert processes == {"prefill workers", "decode workers", "links between the pools", "requests"}
    crossed = np.flatnonzero(np.isfinite(outcome.handed_s))
    links: dict[str, list] = {}
    for (process, track), mine in checked.tracks.items():
        if process.startswith("links"):
            links.setdefault(track.split(" (")[0], []).extend(mine)
    assert set(links) == set(outcome.links.names)
    for name, number in (("spine", len(crossed)), ("decode 0.0", len(crossed))):
        assert len(links[name]) == number
    assert sum(s.facts["bytes"] for s in links["spine"]) == pytest.approx(outcome.crossed_bytes.sum())
    assert sum(len(links[f"prefill {w}.0"]) for w in range(2)) == len(crossed)
    for r in crossed[:20].tolist():
        parts = {s.name: s for s in checked.of("requests", f"request {r}")}
        assert parts["hand-over"].start == parts["prefill"].end
        assert parts["hand-over"].end == parts["decode"].start
        taken = (parts["hand-over"].end - parts["hand-over"].start) / 1e9
        assert taken == pytest.approx(outcome.handed_s[r], abs=2e-9)
    assert len(steps_of(checked, "prefill workers", "decode workers")) == outcome.state.tally.logged[0]


def test_failures_are_drawn_and_steps_end_with_them(world, requests, tmp_path):
    outcome = ms.simulate(
        *world,
        ms.Parallelism(),
        requests,
        fleet=Fleet(2),
        failures=Failures(listed=((1.5, 0, 2.0), (6.0, 1, np.inf)), reload="none"),
    )
    checked = drawn(outcome, tmp_path)
    first, second = checked.of("failures", "replica 0"), checked.of("failures", "replica 1")
    assert [(s.start, s.end) for s in first] == [(1_500_000_000, 3_500_000_000)]
    assert second[0].start == 6_000_000_000
    assert sum(s.end - s.start for s in first) / 1e9 == pytest.approx(outcome.down.down_s[0])
    assert sum(s.end - s.start for s in second) / 1e9 == pytest.approx(outcome.down.down_s[1])
    for replica, outages in ((0, first), (1, second)):
        for step in checked.of("engines", f"replica {replica}"):
            assert not any(step.start < o.end and o.start < step.end for o in outages), step


def test_what_goes_on_with_fewer_nodes_says_so(world, requests, tmp_path):
    model, hardware = world
    outcome = ms.simulate(
        model,
        hardware.with_nodes(2),
        ms.Parallelism(dp=16, ep=16),
        requests,
        failures=Failures(mtbf_s=4.0, repair_s=2.0, shrink=Shrink(0.1, 1.5), reload="none", seed=3),
    )
    assert outcome.down.resized
    checked = drawn(outcome, tmp_path)
    said = [e for e in checked.events if e["ph"] == "i"]
    assert [round(e["ts"] * 1000) for e in said] == [
        int(nanoseconds(at)) for at, _, _ in outcome.down.resized
    ]
    assert {e["name"] for e in said} <= {"goes on with 1 nodes", "goes on with 2 nodes"}


def test_experts_move_at_the_beginning_of_a_step_of_every_engine(world, requests, tmp_path):
    trace = ms.load_trace(data_dir("traces") / "gpt-oss-20b-synthetic.npz")
    stall = 0.05
    windows = [Window(trace, 40_000.0), Window(trace, 40_000.0, stall_s=stall)]
    settings = {"fleet": Fleet(2), "trace": trace}
    outcome = ms.simulate(*world, ms.Parallelism(dp=2, ep=2), requests, windows=windows, **settings)
    checked = drawn(outcome, tmp_path)
    moved = {
        track: [s for s in mine if s.kind == "stall"]
        for (process, track), mine in checked.tracks.items()
        if process == "engines"
    }
    tokens = outcome.about.period_tokens
    served = outcome.state.tally.sums[:, 2:4].sum()
    reached = int((tokens[1:] <= served).sum())
    # Every second period begins with copies.
    assert reached >= 2
    for mine in moved.values():
        assert len(mine) == (reached + 1) // 2
        assert all(s.end - s.start == int(nanoseconds(stall)) for s in mine)
    # Steps with a stall are longer by it: without stalls the same steps are not.
    calm = [Window(trace, 40_000.0), Window(trace, 40_000.0)]
    before = ms.simulate(*world, ms.Parallelism(dp=2, ep=2), requests, windows=calm, **settings)
    log, other = outcome.state.tally.log, before.state.tally.log
    rows = np.flatnonzero(log[:100_000, LOG_SECONDS] != other[:, LOG_SECONDS])
    first = int(rows[0])
    assert log[first, LOG_SECONDS] - other[first, LOG_SECONDS] == pytest.approx(stall)
    track = moved[f"replica {int(log[first, LOG_REPLICA])}"]
    assert track[0].start == int(nanoseconds(log[first, LOG_START]))


def test_the_program_draws_a_window(moesim, tmp_path):
    run = "simulate --model gpt-oss-20b --hardware h100-sxm-8 --request-rate 20 --num-requests 100".split()
    path = tmp_path / "t.json.gz"
    code, out, _ = moesim(
        *run, "--timeline", str(path), "--timeline-window", "1:2", "--timeline-requests", "5", "--json"
    )
    assert code == 0
    assert str(path) in json.loads(out)["written"]
    checked = check(path)
    assert checked.about["requests_drawn"] == 5
    assert all(end >= 1e9 and start < 2e9 for start, end in steps_of(checked, "engines"))
    for wrong in ("2:1", "2", "a:b", "-1:2"):
        code, _, err = moesim(*run, "--timeline", str(path), "--timeline-window", wrong)
        assert code == 2
        assert "--timeline-window" in err
