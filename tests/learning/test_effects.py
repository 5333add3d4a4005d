"""Effects say by name what must agree and what they vary with."""

import pytest

from moesim.correction import CATEGORIES, VALUES
from moesim.learning.effects import AGGREGATED, DISAGGREGATED, ERRORS, effect

ALL = (*AGGREGATED, *DISAGGREGATED, *ERRORS)


def names(component):
    return {CATEGORIES[i] for i in component.categories}, {VALUES[i] for i, _ in component.scales}


def test_an_effect_has_the_names_it_was_given():
    assert names(effect("model backend", "concurrency tp")) == (
        {"model", "backend"},
        {"concurrency", "tp"},
    )
    with pytest.raises(ValueError, match="not in tuple"):
        effect("colour")


def test_campaigns_and_sources_stay_with_their_model_and_engine():
    for component in ALL:
        categories, values = names(component)
        if categories & {"campaign", "source"} or "month" in values:
            assert {"model", "backend"} <= categories


def test_all_that_is_compared_is_names_degrees_and_loads():
    loads = {"concurrency", "input", "output"}
    degrees = {"devices", "tp", "dp", "ep", "prefill_devices"}
    for component in ALL:
        assert names(component)[1] <= loads | degrees | {"month"}
        assert component.variance > 0
        assert all(scale > 0 for _, scale in component.scales)


def test_aggregated_runs_have_no_prefill_pool():
    for component in AGGREGATED:
        assert "prefill_devices" not in names(component)[1]
        assert "sizes" not in names(component)[0]
