"""Scenarios from anywhere: every fault at once, the nearest names, and never a fault of the server's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.ui.scenario import CHOICES, RANGES, Scenario, read_scenario
from tests.ui.conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")


def faults(page, document):
    found = page.post("/api/answer", json=document)
    assert found.status_code == 422, found.text
    return {row["where"]: row for row in found.json()["faults"]}


def test_every_fault_is_told_at_once(page):
    wrong = {
        "model": "gpt-oss-20",
        "hardware": "h100-smx-8",
        "nodes": "4",
        "tp": 0,
        "ep": True,
        "colour": "red",
    }
    wrong |= {"output_len": 1e9, "dtype": "bf17", "backend": "vlm", "trace": "none-such", "request_rate": -1}
    found = faults(page, wrong)
    assert set(found) == set(wrong)
    assert "gpt-oss-20b" in found["model"]["message"]
    assert "h100-sxm-8" in found["hardware"]["message"]
    assert "nearest: vllm" in found["backend"]["message"]
    assert found["dtype"]["allowed"] == ", ".join(CHOICES["dtype"])


def test_what_does_not_go_together_is_told_by_field(page):
    found = faults(
        page, SMALL | {"tp": 3, "dp": 1, "ep": 2, "redundant": 40, "trace": "deepseek-v3-synthetic"}
    )
    assert set(found) == {"tp", "ep", "redundant", "trace"}
    assert "64 attention heads" in found["tp"]["message"]
    assert "deepseek-v3-synthetic.json is not of gpt-oss-20b" in found["trace"]["message"]
    assert faults(page, SMALL | {"model": "llama-3.1-8b", "ep": 1, "redundant": 1}).keys() == {"model"}
    dense = faults(page, SMALL | {"model": "llama-3.1-8b", "ep": 1, "trace": "tiny-moe"})
    assert "no experts" in dense["trace"]["message"]
    assert faults(
        page, SMALL | {"hardware": "rtx-4090-workstation", "dp": 1, "ep": 1, "nodes": 2}
    ).keys() == {"nodes"}


def test_a_layout_that_cannot_be_is_answered_with_the_nearest_that_can(page):
    found = page.post("/api/answer", json=SMALL | {"dp": 16, "ep": 16}).json()
    (one,) = found["suggestions"]
    again = page.post("/api/answer", json=SMALL | one["change"])
    assert again.status_code == 200
    assert again.json()["feasible"]
    layout = again.json()["prediction"]["layout"]
    assert (layout["world"], layout["tp"], layout["ep"]) == (8, 1, 8)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"tp": NaN}', "application/json", 400),
        (b'{"tp": Infinity}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b'{"tp": 1e999}', "application/json", 422),
        (b'{"tp": ' + b"9" * 4000 + b"}", "application/json", 422),
        (b'{"input_len": ' + b"9" * 4000 + b"}", "application/json", 422),
        (b'{"model": "\\ud800"}', "application/json", 422),
        (b'{"model": "../../../etc/passwd"}', "application/json", 422),
        (
            b'{"model": "/etc/passwd", "hardware": "/etc/hostname", "trace": "/etc/group"}',
            "application/json",
            422,
        ),
        (b'{"trace": "' + b"<script>" * 1000 + b'"}', "application/json", 422),
        (b'{"model": "' + b"m" * 200_000 + b'"}', "application/json", 422),
    ],
)
def test_what_is_no_scenario_is_refused_in_json(page, content, kind, status):
    found = page.post("/api/answer", content=content, headers={"content-type": kind})
    assert found.status_code == status, found.text
    assert found.json()["error"]
    assert len(found.content) < 20_000
    for path in ("/etc/passwd", "/etc/hostname", "/etc/group"):
        assert all("cannot be read" not in row["message"] for row in found.json()["faults"]), path


_NUMBERS = st.one_of(
    st.integers(-2, 70), st.sampled_from([0, 1, 2, 4, 8, 16, 2**31, 2**63, 10**400, 0.5, 8.0, 1e-3, 1e308])
)
_VALUES = st.one_of(
    _NUMBERS, st.none(), st.booleans(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)
_DEGREES = st.sampled_from([1, 2, 4, 8])
_FIELDS = {
    **{name: st.one_of(_DEGREES, _VALUES) for name in RANGES},
    **{name: st.one_of(st.sampled_from(list(allowed)), _VALUES) for name, allowed in CHOICES.items()},
    "model": st.one_of(st.sampled_from(["gpt-oss-20b", "tiny-moe", "llama-2-7b", "olmoe"]), _VALUES),
    "hardware": st.one_of(st.sampled_from(["h100-sxm-8", "rtx-4090-workstation", "m4-max"]), _VALUES),
    "trace": st.one_of(st.none(), st.sampled_from(["tiny-moe", "gpt-oss-20b-synthetic"]), _VALUES),
}


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=_FIELDS))
def test_whatever_is_asked_the_server_answers_or_says_why_not(page, changes):
    found = page.post(
        "/api/answer", content=json.dumps(SMALL | changes), headers={"content-type": "application/json"}
    )
    assert found.status_code in (200, 422), found.text
    document = json.loads(found.content, parse_constant=pytest.fail)
    if found.status_code == 422:
        assert document["faults"]
        assert all(row["message"] for row in document["faults"])
    else:
        assert document["feasible"] is (document["prediction"] is not None)
        assert document["feasible"] or document["reason"]


def test_ranges_hold_the_defaults_and_bound_the_fields(library):
    default = Scenario().to_dict()
    assert read_scenario({}, library).scenario.to_dict() == default
    for name, row in RANGES.items():
        if default[name] is not None:
            assert row.min <= default[name] <= row.max
        for value in (row.min - 1, row.max * 2):
            with pytest.raises(ConfigError) as raised:
                read_scenario({name: value}, library)
            assert name in [fault.where for fault in raised.value.faults]
