"""Parts of a plan against brute force and closed forms: fronts, costs, stretches, dispersion, Little's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.traits import Traits
from moesim.hardware import load_hardware
from moesim.layout import Parallelism
from moesim.model import load_model
from moesim.planning.candidates import Shape, shapes
from moesim.planning.cost import Tariff
from moesim.planning.crowd import Crowd, dispersion, fresh_tokens
from moesim.planning.pace import Paces
from moesim.planning.pareto import front
from moesim.planning.rank import capacity_of, curve_of
from moesim.planning.streams import streams
from moesim.planning.types import Slo, Space, Traffic
from moesim.prediction import Engine
from moesim.requests import Lognormal, generate_requests, request_trace

ROWS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=25)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_front_is_what_nothing_beats(rows):
    values = np.array(rows, dtype=float)
    kept = front(values)
    for i, row in enumerate(values):
        beaten = any((other <= row).all() and (other < row).any() for other in values)
        first = not any((other == row).all() for other in values[:i])
        assert kept[i] == (not beaten and first)


@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_replicas_within_a_cost_are_the_most_that_cost_no_more(tp_log, nodes_log, cost, cheaper):
    machine = load_hardware("gb200-nvl72")
    world = 2**tp_log * 2**nodes_log
    nodes = max(1, world // machine.devices_per_node)
    shape = Shape(load_model("gpt-oss-20b"), machine.with_nodes(nodes), Parallelism(tp=1, dp=world), Engine())
    tariff = Tariff.of([machine], None)
    found = tariff.replicas_within(shape, float(cost), Space(), cheaper=cheaper)

    def within(replicas: int) -> bool:
        paid = tariff.cost(shape.candidate(shape.engine, replicas))
        return paid < cost * (1 - 1e-12) if cheaper else paid <= cost * (1 + 1e-12)

    assert not found or within(found)
    assert not within(found + 1)


def test_all_valid_layouts_of_a_node_are_there():
    model, machine = load_model("gpt-oss-20b"), load_hardware("h100-sxm-8")
    found = {s.layout for s in shapes([model], [machine], Space(max_devices=8))}
    every = {
        Parallelism(tp, pp, dp, ep)
        for world in (1, 2, 4, 8)
        for tp in range(1, 9)
        for pp in range(1, 9)
        for dp in range(1, 9)
        for ep in range(1, 9)
        if tp * pp * dp == world and not (dp * tp) % ep
    }
    assert found == {layout for layout in every if not layout.faults(model, machine)}


def test_stretches_keep_the_rate_and_their_lengths():
    made = generate_requests(4000, "poisson:7", Lognormal(500, 0.5), Lognormal(80, 0.5), seed=2)
    parts = streams(Traffic(made, 21.0), Slo({"ttft_s": 1.0, "tpot_s": 0.05}), 3, 0)
    for part in parts:
        requests = part.requests
        assert len(requests) / requests.arrival_s[-1] == pytest.approx(21.0, rel=0.05)
        assert part.judged.sum() == 5000
        assert not part.judged[0]
        assert not part.judged[-1]
        pairs = set(zip(requests.input_tokens.tolist(), requests.output_tokens.tolist(), strict=True))
        assert pairs <= set(zip(made.input_tokens.tolist(), made.output_tokens.tolist(), strict=True))


def test_a_second_round_knows_nothing_of_the_first():
    hashes, ptr = np.array([1, 2, 1, 3]), np.array([0, 2, 4])
    made = request_trace(
        [0.0, 1.0], [40, 40], [5, 5], prefix_hashes=hashes, prefix_ptr=ptr, prefix_block_tokens=16
    )
    assert fresh_tokens(made).tolist() == [40.0, 24.0]
    (part,) = streams(Traffic(made, 1.0), Slo({"ttft_s": 1.0}), 1, 0)
    # Every round again one prompt is new and the other shares a block with it.
    assert sorted(set(part.fresh.tolist())) == [24.0, 40.0]
    assert part.fresh.mean() == pytest.approx(32.0, abs=0.1)


@pytest.mark.parametrize(("spelled", "wanted"), [("poisson:5", 1.0), ("gamma:5:2", 4.0)])
def test_dispersion_of_renewals_is_their_squared_variation(spelled, wanted):
    made = generate_requests(200_000, spelled, 10, 10, seed=3)
    assert dispersion(made.arrival_s) == pytest.approx(wanted, rel=0.15)


def test_curve_obeys_littles_law_and_looser_limits_carry_more():
    made = generate_requests(2000, "poisson:20", Lognormal(600, 0.7), Lognormal(120, 0.6), seed=4)
    crowd = Crowd.of(Traffic(made, 20.0))
    paces = Paces(crowd, None, None, lambda _: Traits(), 256.0, (2048.0,))
    machine, engine = load_hardware("h100-sxm-8"), Engine(chunk_tokens=2048.0, max_sequences=256.0)
    pace = paces.of(Shape(load_model("gpt-oss-20b"), machine, Parallelism(dp=2, ep=2), engine))
    carried = []
    for tpot in (0.005, 0.01, 0.02, 0.1):
        curve = curve_of(pace, engine, crowd, Slo({"tpot_s": tpot, "ttft_s": 1.0}, 0.9))
        stay = crowd.output.mean() * curve.tpot_s
        assert curve.rate * stay == pytest.approx(curve.running)
        assert (np.diff(curve.share) <= 1e-9).all()
        carried.append(capacity_of(curve, 0.9).request_rate)
    assert carried == sorted(carried)
    assert carried[-1] > carried[0]
