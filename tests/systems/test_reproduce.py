"""The command: its document, its table, and what it says of names it does not know."""

import json

import pytest

from moesim.systems import VERDICTS, find, reproduce, systems

FIELDS = set("system headline metric published ours ratio grade source assumed verdict".split())


def test_the_document_has_what_it_should(moesim):
    code, out, _ = moesim("reproduce", "QMoE", "mc-moe", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["schema_version"] == 1
    assert {row["system"] for row in found["rows"]} == {"QMoE", "MC-MoE"}
    for row in found["rows"]:
        assert set(row) >= FIELDS
        assert row["verdict"] in VERDICTS
        if row["ours"] is None:
            assert row["cause"]
        else:
            assert row["ratio"] == pytest.approx(row["ours"] / row["published"])
        for a in row["assumed"]:
            assert a["range"][0] <= a["value"] <= a["range"][1]
    assert sum(row["headline"] for row in found["rows"]) == 2
    whole = found["summary"]
    assert whole["n"] == len(found["rows"]) == sum(whole["verdicts"].values())
    assert found["summary"]["headlines"]["n"] == 2
    assert whole["median_abs_log_ratio"] >= 0


def test_unknown_names_are_all_named_with_the_nearest(moesim):
    code, _, err = moesim("reproduce", "qmoo", "fidler", "QMoE")
    assert code == 2
    assert "qmoo" in err
    assert "fidler" in err
    assert "nearest: QMoE" in err


@pytest.mark.parametrize("wrong", [["--variant", "book"], ["--trace", "nothing-here.parquet"]])
def test_wrong_options_end_with_two(moesim, wrong):
    code, _, err = moesim("reproduce", "QMoE", *wrong)
    assert code == 2
    assert err.startswith("error: ")


def test_a_name_shows_all_rows_and_none_shows_headlines(moesim):
    _, out, _ = moesim("reproduce", "QMoE", "--no-sweep")
    assert "size-c2048" in out
    assert "assumed zeros = 0.885 (0.865 to 0.905)" in out
    _, out, _ = moesim("reproduce", "QMoE", "--headlines", "--no-sweep")
    assert "size-c2048" not in out


def test_names_are_found_however_they_are_written():
    assert find(["q-moe", "QMOE", "mc moe", "ktrans"]) == ("QMoE", "MC-MoE", "KTransformers")
    assert find(["Faster MoE", "fastermoe"]) == ("Faster MoE", "FasterMoE")


def test_without_a_sweep_nothing_is_bound_by_assumptions():
    for judged in reproduce([systems()[0], "QMoE"], sweep=False):
        assert judged.swept == ()
        assert judged.verdict != "assumption-bound"


def test_a_given_trace_is_used_where_it_fits_and_named_where_it_does_not():
    from moesim.systems import rows, run_row
    from moesim.trace import load_trace

    trace = load_trace("traces/gpt-oss-20b-synthetic.npz")
    found = {row.name: row for row in rows() if row.system in ("Fiddler", "AdapMoE", "KTransformers")}
    fits = run_row(found["hits-56"], sweep=False, trace=trace)
    assert fits.routing == "given"
    assert fits.ours != run_row(found["hits-56"], sweep=False).ours
    other = run_row(found["speedup"], sweep=False, trace=trace)
    assert other.routing.endswith("does not fit its model")
    assert run_row(found["decode-dual-8"], sweep=False, trace=trace).routing == ""


def test_processes_change_nothing():
    alone = reproduce(["QMoE", "MC-MoE"], sweep=False)
    together = reproduce(["QMoE", "MC-MoE"], sweep=False, processes=2)
    assert [(j.row.name, j.ours, j.verdict) for j in alone] == [
        (j.row.name, j.ours, j.verdict) for j in together
    ]
