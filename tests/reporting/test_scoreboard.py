"""The page of published systems: whole, safe, and the same data inside."""

import json

import pytest
from page_reader import LOADING, Page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from moesim.reporting import write_scoreboard
    from moesim.systems import document, reproduce

    found = document(reproduce(["QMoE", "MC-MoE", "PreMoe"]))
    path = tmp_path_factory.mktemp("page") / "board.html"
    write_scoreboard(found, path, {"moesim": "1", "python": "3", "seed": 0, "inputs": {}})
    return found, path.read_text(encoding="utf-8")


def test_every_row_is_there_and_elements_close(page):
    found, text = page
    read = Page(text)
    for row in found["rows"]:
        assert row["system"] in read.words
        assert row["row"] in read.words
        assert row["source"] in read.words
    assert read.data["rows"] == json.loads(json.dumps(found["rows"]))
    assert not any(attributes.keys() & LOADING for tag, attributes in read.tags if tag != "use")


def test_the_same_data_gives_the_same_bytes(page, tmp_path):
    from moesim.reporting import write_scoreboard

    found, text = page
    path = write_scoreboard(
        found, tmp_path / "b.html", {"moesim": "1", "python": "3", "seed": 0, "inputs": {}}
    )
    assert path.read_text(encoding="utf-8") == text


def test_what_is_in_a_row_cannot_break_the_page(page, tmp_path):
    from moesim.reporting import write_scoreboard

    found, _ = page
    evil = "</script><script>alert(1)</script>"
    rows = [{**row, "system": evil, "reason": evil} for row in found["rows"]]
    path = write_scoreboard(
        {**found, "rows": rows}, tmp_path / "b.html", {"moesim": "1", "python": "3", "seed": 0, "inputs": {}}
    )
    read = Page(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert read.data["rows"][0]["system"] == evil


def test_the_command_writes_it_and_names_every_fault(moesim, tmp_path):
    path = tmp_path / "board.html"
    code, out, _ = moesim("reproduce", "QMoE", "--no-sweep", "--html", path)
    assert code == 0
    assert str(path) in out
    assert "Published systems" in path.read_text(encoding="utf-8")
    code, _, err = moesim("reproduce", "QMoE", "--variant", "book", "--html", tmp_path / "none" / "b.html")
    assert code == 2
    assert "--variant" in err
    assert "--html" in err
