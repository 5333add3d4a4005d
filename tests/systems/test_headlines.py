"""One headline to a system, as it was published."""

import csv

import pytest

from moesim.systems import headlines, rows, systems

#: Rows of the shared file that training brings: other systems of the same paper.
TRAINING = "training"


def test_every_system_has_exactly_one_headline_and_it_is_that_of_the_table():
    for system in systems():
        found = [row for row in rows() if row.system == system and row.headline]
        assert len(found) == 1, system
        assert found[0].figure is headlines()[system]


def test_rows_are_told_apart_and_explained():
    names = [(row.system, row.name) for row in rows()]
    assert len(names) == len(set(names))
    for row in rows():
        assert row.figure.source or row.figure.value is None, row
        assert row.figure.metric or row.figure.value is None, row
        assert len({a.name for a in row.assumed}) == len(row.assumed)
        assert all(a.why for a in row.assumed)
        assert row.variant in ("paper", "code")
        if row.compute is None:
            assert row.reason, (row.system, row.name)


def _lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _frozen():
    from importlib import resources

    text = resources.files("moesim.systems").joinpath("headlines.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("line", _frozen(), ids=lambda line: line["system"])
def test_published_values_equal_the_shared_table(line, shared):
    if line["file"] in ("measurements.md", "system_specs.md", "text"):
        pytest.skip("the figure is in a text, not in a table")
    found = [
        other for other in _lines(shared(f"published/{line['file']}")) if other["system"] == line["listed_as"]
    ]
    assert found
    if line["file"] == "headlines.csv":
        # The first of the system that is not about training.
        first = next((o for o in found if o["kind"] != TRAINING and o["value_low"]), found[0])
        assert line["value"] == first["value_low"] or float(line["value"]) == float(first["value_low"])
        high = first["value_high"]
        assert not line["high"] or float(line["high"]) == float(high)
    else:
        assert any(float(o["value"]) == float(line["value"]) for o in found if _number(o["value"]))


def _number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_table_is_whole():
    assert len(headlines()) == len(_frozen()) == 61
    assert set(systems()) <= set(headlines())


def test_claims_are_those_of_the_shared_table(shared):
    from moesim.systems import claims

    lines = _lines(shared("published/headlines.csv"))
    assert len(claims()) == len(lines)
    for claim, line in zip(claims().values(), lines, strict=True):
        assert claim.metric == line["metric"]
        assert claim.source == line["source"]
        assert (claim.low, claim.high) == tuple(
            float(line[end]) if line[end] else None for end in ("value_low", "value_high")
        )
    assert {claim.system for claim in claims().values()} <= set(headlines())
