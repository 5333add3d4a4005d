"""Other layouts of the same devices, and what to change where nothing fits."""

from __future__ import annotations

import pytest

from tests.ui.conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore::moesim.errors.OutOfDomainWarning")


@pytest.fixture
def alternatives(page):
    """All layouts, asked for until none is left."""

    def asked(**changes):
        rows, considered, total = [], -1, 0
        while considered < total:
            found = page.post("/api/alternatives", json=SMALL | changes).json()
            assert found["considered"] == len(found["layouts"])
            assert found["considered"] > considered or found["considered"] == found["total"]
            rows, considered, total = found["layouts"], found["considered"], found["total"]
        return rows

    return asked


def test_layouts_are_those_of_all_devices_each_with_its_own_answer(alternatives, ask):
    rows = alternatives()
    degrees = [tuple(row[name] for name in ("tp", "pp", "dp", "ep")) for row in rows]
    assert len(set(degrees)) == len(degrees) > 10
    assert all(tp * pp * dp == 8 for tp, pp, dp, _ in degrees)
    assert [row["current"] for row in rows] == [True] + [False] * (len(rows) - 1)
    for row in rows[:: len(rows) // 4]:
        own = {name: row[name] for name in ("tp", "pp", "dp", "ep", "redundant")}
        alone = ask(**own)
        assert row["feasible"] == alone["feasible"]
        for name in ("ttft_s", "tpot_s", "output_throughput"):
            assert row[name] == pytest.approx(alone["prediction"][name], rel=1e-9)


def test_spares_go_where_they_can(alternatives):
    rows = alternatives(redundant=8)
    assert {row["redundant"] for row in rows if row["ep"] == 8} == {8}
    assert {row["redundant"] for row in rows if row["ep"] == 1} == {0}


def test_layouts_are_offered_where_the_own_one_cannot_be(alternatives, page):
    rows = alternatives(tp=3, dp=100, ep=7)
    assert rows
    assert not any(row["current"] for row in rows)
    assert page.post("/api/alternatives", json=SMALL | {"model": "none"}).status_code == 422


def test_the_reason_stands_where_a_layout_cannot_serve(alternatives):
    full = alternatives(model="deepseek-v3", input_len=100_000)
    assert {row["reason"] for row in full} == {"does not fit in memory"}
    assert all(row["tpot_s"] is None for row in full)
    fast = alternatives(request_rate=1e5)
    assert {row["reason"] for row in fast} == {"does not keep up with the requests"}


def test_what_is_suggested_fits(ask):
    cases = [
        {"model": "deepseek-v3"},
        {"model": "llama-2-7b", "dp": 8, "ep": 1, "input_len": 110_000},
        {"model": "llama-3.1-70b", "dp": 8, "ep": 1},
        {"request_rate": 1e5},
    ]
    changed = set()
    for case in cases:
        found = ask(**case)
        assert not found["feasible"]
        assert found["suggestions"], case
        for one in found["suggestions"]:
            assert one["message"]
            changed |= set(one["change"])
            assert ask(**(case | one["change"]))["feasible"], (case, one)
    assert {"nodes", "tp", "kv_cache_dtype", "request_rate"} <= changed
    assert ask()["suggestions"] == []
