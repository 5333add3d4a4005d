"""Constants of engines that were put in are found."""

from dataclasses import replace

import numpy as np
import pytest
from known_runs import ROW

from moesim.engine.traits import Traits
from moesim.layout import Parallelism
from moesim.learning.traits_fit import fit_traits, probes_of
from moesim.validate.physics import physics_of

TRUTH = {
    "vllm": Traits(host_s=5e-5, communication=1.3, request_s=0.004, first_steps=5.0, start_up=0.15),
    "sglang": Traits(host_s=1e-3, communication=2.0, request_s=0.05, first_steps=16.0, start_up=0.5),
}


@pytest.fixture(scope="module")
def rows():
    found = [
        replace(ROW, model=model, backend=backend, layout=Parallelism(tp=tp), isl=isl, concurrency=load)
        for model in ("gpt-oss-120b", "qwen3-235b-a22b")
        for backend in TRUTH
        for tp in (8, 4)
        for isl in (1024.0, 8192.0)
        for load in (4.0, 16.0, 64.0, 128.0)
    ]
    physics = physics_of(found, TRUTH)
    tpot = physics.tpot_s
    ttft = physics.ttft_fixed_s + physics.ttft_steps * tpot
    return [
        replace(row, tpot_ms=1e3 * float(a), ttft_ms=1e3 * float(b))
        for row, a, b, ok in zip(found, tpot, ttft, physics.predicted, strict=True)
        if ok
    ]


@pytest.fixture(scope="module")
def probes(rows):
    return probes_of(rows)


def test_constants_are_found(probes):
    found = fit_traits([probes])
    for backend, truth in TRUTH.items():
        # The priors pull: within a fifth, from twice and three times as far.
        for name in ("communication", "first_steps", "start_up"):
            assert getattr(found[backend], name) == pytest.approx(getattr(truth, name), rel=0.2)
    assert found["sglang"].host_s == pytest.approx(1e-3, rel=0.2)


def test_times_are_linear_in_the_constants(rows, probes):
    exact, linear = physics_of(rows, TRUTH), probes.physics(TRUTH)
    assert linear.tpot_s == pytest.approx(exact.tpot_s, rel=0.01)
    assert linear.ttft_fixed_s == pytest.approx(exact.ttft_fixed_s, rel=0.03)
    assert linear.ttft_steps == pytest.approx(exact.ttft_steps)


def test_rows_not_used_have_no_say(rows, probes):
    def use(row):
        return row.model != "gpt-oss-120b"

    changed = [row if use(row) else replace(row, ttft_ms=50.0 * row.ttft_ms) for row in rows]
    other = replace(probes, rows=tuple(changed))
    assert fit_traits([other], use) == fit_traits([probes], use)
    assert fit_traits([other]) != fit_traits([probes])


def test_repeated_runs_change_nothing_but_against_the_prior(probes):
    many = replace(
        probes,
        rows=probes.rows * 2,
        none=probes.none.part(np.tile(np.arange(len(probes.rows)), 2)),
        fixed={name: np.tile(slope, 2) for name, slope in probes.fixed.items()},
        step={name: np.tile(slope, 2) for name, slope in probes.step.items()},
        queue={name: np.tile(slope, 2) for name, slope in probes.queue.items()},
    )
    once, twice = fit_traits([probes]), fit_traits([many])
    for backend in TRUTH:
        # All runs twice weigh as once against each other, and the prior grows along.
        assert twice[backend].first_steps == pytest.approx(once[backend].first_steps, rel=0.03)


def test_nothing_measured_nothing_found(probes):
    assert fit_traits([]) == {}
    assert fit_traits([probes], lambda _: False) == {}
