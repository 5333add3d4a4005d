"""What a calibration says of a deployment: closed forms, and what it never depends on."""

from dataclasses import replace
from json import dumps, loads

import numpy as np
import pytest

from moesim.correction import NOVELTY, VALUES, Calibration, Component, Family, Identity, Process
from moesim.correction.calibration import METRICS, Span
from moesim.engine.traits import Traits
from moesim.layout import Parallelism

ONE = Identity("m", "s", "vllm", "fp8", Parallelism(tp=8), source="lab", campaign="lab 1", month=3.0)
KNOWN = (
    ONE,
    replace(ONE, layout=Parallelism(tp=4)),
    replace(ONE, system="t", backend="sglang"),
    replace(ONE, model="n", system="t"),
)
LOADS = tuple(np.array([v]) for v in (1024.0, 512.0, 64.0))
SHARED, OWN = Component((), (), 0.5), Component((0, 1, 2, 3, 6), ((0, 2.0),), 0.25)


def process(identities=KNOWN, weights=(0.1, 0.2, -0.1, 0.3), components=(SHARED, OWN), offset=0.0) -> Process:
    labels = [i.labels() for i in identities]
    columns = tuple(tuple(sorted({row[c] for row in labels} - {""})) for c in range(len(labels[0])))
    codes = [[columns[c].index(v) if v else -1 for c, v in enumerate(row)] for row in labels]
    values = np.vstack([i.values(*LOADS) for i in identities])
    return Process(components, columns, np.array(codes), values, np.array(weights), offset)


def family(identities=KNOWN, trust=(1.0, 1.0), strength=0.0, low=-0.2, high=0.3) -> Family:
    span = {metric: Span(strength, low, high) for metric in METRICS}
    expected = process(identities, components=(SHARED,), offset=np.log(2.0))
    return Family(
        process(identities),
        process(identities, weights=(-0.1, 0.0, 0.2, 0.1)),
        {novelty: {"tpot": expected, "ttft": expected} for novelty in NOVELTY},
        {known: dict.fromkeys(NOVELTY, span) for known in ("campaign", "anonymous")},
        dict.fromkeys(("campaign", "anonymous"), dict.fromkeys(NOVELTY, trust)),
    )


@pytest.mark.parametrize(
    ("change", "novelty"),
    [
        ({}, "layout known"),
        ({"campaign": "", "source": ""}, "layout known"),
        ({"layout": Parallelism(tp=2)}, "layout new"),
        ({"dtype": "nvfp4"}, "layout new"),
        ({"system": "t"}, "system new"),
        ({"system": "edited"}, "system new"),
        ({"model": "other"}, "model new"),
        ({"model": "other", "system": "edited"}, "all new"),
    ],
)
def test_how_new_a_deployment_is(change, novelty):
    identity = replace(ONE, **change)
    assert family().novelty_of(identity) == novelty
    found = family().correct(identity, *LOADS)
    assert found.novelty == novelty
    assert bool(found.why) == (novelty != "layout known")


def test_an_unmeasured_device_without_kernels_of_its_own_is_new_in_all():
    edited = replace(ONE, system="edited")
    assert family().correct(edited, *LOADS).novelty == "system new"
    assert family().correct(edited, *LOADS, kernels=False).novelty == "all new"
    # What runs on it said counts more than whose kernels stand for its own.
    assert family().correct(ONE, *LOADS, kernels=False).novelty == "layout known"


def test_loads_far_beyond_the_measured_ones_are_said_and_wide():
    wide = {metric: Span(0.0, -2.0, 3.0) for metric in METRICS}
    one = family()
    spans = {known: {**by, "all new": wide} for known, by in one.spans.items()}
    near, far = (replace(one, spans=spans).correct(ONE, *(a * scale for a in LOADS)) for scale in (1.0, 1e4))
    assert near.beyond == ""
    assert near.why == ""
    for what in ("concurrency", "prompts", "outputs"):
        assert what in far.beyond
    assert "no measured run has such concurrency" in far.why
    assert far.novelty == "layout known"
    for metric in METRICS:
        assert np.log([end[0] for end in near.spans[metric]]) == pytest.approx([-0.2, 0.3])
        assert np.log([end[0] for end in far.spans[metric]]) == pytest.approx([-2.0, 3.0])


def test_drafts_that_are_said_lower_the_lower_end_alone():
    found = family().correct(ONE, *LOADS)
    lowered = found.lowered(np.array([0.5]))
    for metric in ("tpot", "e2el"):
        assert lowered.spans[metric][0] == pytest.approx(found.spans[metric][0] * 0.5)
        assert lowered.spans[metric][1] == pytest.approx(found.spans[metric][1])
    assert lowered.spans["ttft"] == found.spans["ttft"]


def test_factors_are_sums_of_effects():
    found = family().correct(ONE, *LOADS)
    # All rows share 0.5 per weight; the row itself adds its own effect at no distance.
    assert found.tpot_factor[0] == pytest.approx(np.exp(0.5 * (0.1 + 0.2 - 0.1 + 0.3) + 0.25 * 0.1))
    assert found.ttft_factor[0] == pytest.approx(np.exp(0.5 * (-0.1 + 0.2 + 0.1) - 0.25 * 0.1))


def test_trust_scales_logarithms():
    whole = family().correct(ONE, *LOADS)
    part = family(trust=(0.5, 0.25)).correct(ONE, *LOADS)
    assert part.tpot_factor == pytest.approx(whole.tpot_factor**0.5)
    assert part.ttft_factor == pytest.approx(whole.ttft_factor**0.25)
    none = family(trust=(0.0, 0.0)).correct(ONE, *LOADS)
    assert none.tpot_factor.tolist() == none.ttft_factor.tolist() == [1.0]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_spans_are_in_units_of_the_expected_error(strength):
    found = family(strength=strength).correct(ONE, *LOADS)
    unit = (2.0 * np.exp(0.5 * 0.5)) ** strength
    for low, high in found.spans.values():
        assert low[0] == pytest.approx(np.exp(-0.2 * unit))
        assert high[0] == pytest.approx(np.exp(0.3 * unit))
    assert set(found.spans) == set(METRICS)


def test_relabelling_changes_nothing():
    names = {"m": "zz", "n": "aa"}
    renamed = tuple(replace(i, model=names[i.model]) for i in KNOWN)
    for i, j in zip(KNOWN, renamed, strict=True):
        old, new = family().correct(i, *LOADS), family(renamed).correct(j, *LOADS)
        assert new.tpot_factor == pytest.approx(old.tpot_factor)
        assert new.ttft_factor == pytest.approx(old.ttft_factor)
        assert new.novelty == old.novelty


def test_many_loads_are_as_many_questions():
    loads = tuple(np.array([v, 2 * v, 4 * v]) for v in (1024.0, 512.0, 64.0))
    found = family(strength=1.0).correct(ONE, *loads)
    for i in range(3):
        alone = family(strength=1.0).correct(ONE, *(a[i : i + 1] for a in loads))
        assert found.tpot_factor[i] == pytest.approx(alone.tpot_factor[0])
        assert found.spans["ttft"][1][i] == pytest.approx(alone.spans["ttft"][1][0])


def test_values_are_octaves_of_loads_and_degrees():
    row = dict(zip(VALUES, ONE.values(*LOADS)[0], strict=True))
    assert (row["input"], row["output"], row["concurrency"], row["devices"], row["tp"]) == (10, 9, 6, 3, 3)


def calibration() -> Calibration:
    traits = {"vllm": Traits(request_s=0.01, first_steps=4.0, start_up=0.15)}
    return Calibration(traits, {"moe": family(strength=0.5, trust=(0.5, 1.0))}, 0.9, {"rows": {"moe": 4}})


def test_written_and_read_it_says_the_same():
    text = dumps(calibration().to_dict())
    again = Calibration.from_dict(loads(text))
    assert dumps(again.to_dict()) == text
    old, new = (c.families["moe"].correct(ONE, *LOADS) for c in (calibration(), again))
    assert new.tpot_factor == pytest.approx(old.tpot_factor, rel=1e-3)
    assert new.spans["ttft"][1] == pytest.approx(old.spans["ttft"][1], rel=1e-3)
    assert again.traits == calibration().traits


def test_the_family_of_a_deployment():
    known = Calibration({}, {"moe": family()})
    assert known.family_of(ONE, True) is known.families["moe"]
    assert known.family_of(ONE, False) is None
    assert known.family_of(replace(ONE, prefill=Parallelism(tp=4)), True) is None
