"""Documents and pages from strangers: text stays text, sizes stay small, every error says why."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_access import Access
from page_reader import Page

from moesim.errors import ConfigError
from moesim.reporting import downloads, export_html, read_documents, relabelled, report, write_page
from moesim.reporting.documents import ReportDocument, checked
from moesim.reporting.embedded import data_in_page
from moesim.reporting.figures import Figure
from moesim.reporting.gather import placement_document, prediction_document
from moesim.reporting.pages import inside
from tests.program import run_here

_TEXT = st.text(max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
BAD = (
    "javascript:alert(1)", "</script><script>alert(1)</script>", "<!-- ", "]]>", "{{ 7 * 7 }}", "{% raw %}",
    "../../etc/passwd", "=HYPERLINK(\"http://x\")", "\u202eevil", "' onload='alert(1)", "&lt;b&gt;", "%00",
)  # fmt: skip


def _named(prediction, name):
    """A prediction's document with one name everywhere that a name can be."""
    raw = prediction_document(prediction).model_dump(mode="json")
    for key in ("model", "hardware"):
        raw[key] = name
    for line in raw["breakdown"]:
        line["op"] = line["bound_by"] = name + line["op"]
    for part in raw["bottleneck"]:
        part["resource"] = name
    raw["interval"]["basis"] = name
    raw["warnings"] = [name]
    raw["provenance"]["inputs"] = {name: name}
    return raw


def _report(documents, name, sources=()):
    hardware = [{"name": name, "title": name, "sources": dict(sources)}]
    raw = {"title": name, "notes": [name], "results": documents, "hardware": hardware}
    return checked(ReportDocument, raw)


@pytest.mark.parametrize("name", BAD)
def test_names_are_text_wherever_they_stand(predictions, name, monkeypatch):
    if name is not BAD[1]:
        monkeypatch.setattr(export_html, "_drawn", lambda sections: [[] for _ in sections])
    document = _report([_named(p, name) for p in predictions[:2]], name, {name: f"{name} [assumed]"})
    raw = export_html.render_page(document)
    page = Page(raw)
    assert raw.count("<script") == 1
    assert page.data["results"][0]["model"] == name
    assert " ".join(name.split()) in page.words
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), tag
        assert re.match(r"#[\w-]+$|data:(text/csv|application/json);base64,", attributes.get("href", "#a"))
        assert re.fullmatch(r"[\w.-]+", attributes.get("download", "a"))
    assert Access(raw).faults == []


@given(name=st.text(min_size=1, max_size=30).filter(str.strip))
@settings(max_examples=12, deadline=None)
def test_any_name_is_shown_as_it_is(predictions, name):
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]", "", name.encode("utf-8", "ignore").decode()) or "a"
    document = _report([_named(predictions[0], name)], name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_html, "_drawn", lambda sections: [[] for _ in sections])
        page = Page(export_html.render_page(document))
    assert page.data["title"] == name
    assert " ".join(name.split()) in page.words


@given(value=_JSON)
@settings(max_examples=100, deadline=None)
def test_data_comes_out_of_a_page_as_it_went_in(value):
    text = json.dumps(value, ensure_ascii=True)
    page = f'<p>x</p><script type="application/json" id="moesim-data">{inside(text)}</script>'
    assert json.loads(data_in_page(page)) == value


@pytest.mark.parametrize(
    "page",
    [
        "<p>nothing</p>",
        '<script type="application/json" id="moesim-data">{}',
        2 * '<script type="application/json" id="moesim-data">{}</script>',
        '<script id="moesim-data">alert(1)</script>',
        "<" * 1_000_000,
        "<a " * 1_000_000,
        '<script type="application/json" id="moesim-data"' * 50_000,
    ],
)
def test_pages_of_others_hold_no_data(page):
    with pytest.raises(ValueError, match="where a page of moesim has it once"):
        data_in_page(page)


def test_a_page_without_its_data_says_so():
    with pytest.raises(ValueError, match="data was left out"):
        data_in_page('<script type="application/json" id="moesim-data"> </script>')


def test_a_page_is_read_again(predictions, tmp_path):
    first = report(predictions[:2], tmp_path / "first.html", labels=["<b>", "b"])
    again = write_page(read_documents([first]), tmp_path / "again.html")
    assert again.read_bytes() == first.read_bytes()
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<!doctype html><title>x</title>")
    with pytest.raises(ConfigError, match="page of moesim"):
        read_documents([wrong])


def test_long_tables_are_thinned_evenly():
    rows = 200_000
    columns = {"level": [i / rows for i in range(rows)], "name": ["=1+1"] * rows}
    figure = Figure("f", "t", "c", "m", "s", "n", None, columns, print)
    found = downloads.csv_download(figure, "f.csv", 1_000_000)
    text, kept, all_rows = downloads.thinned_csv(figure, downloads.MOST_CSV_BYTES)
    assert len(text.encode()) <= downloads.MOST_CSV_BYTES
    assert len(found.href) < downloads.MOST_CSV_BYTES * 1.4
    assert found.note == f"{kept:,} of {all_rows:,} rows, evenly spaced"
    read = list(csv.DictReader(io.StringIO(text)))
    levels = [float(row["level"]) for row in read]
    assert len(read) == kept > 1000
    assert levels[0] == 0.0
    assert levels[-1] == columns["level"][-1]
    assert len({round((b - a) * rows) for a, b in pairwise(levels[:-1])}) == 1
    # A spreadsheet must not take a name for a formula.
    assert {row["name"] for row in read} == {"'=1+1"}
    assert downloads.csv_download(figure, "f.csv", 100) is None


def test_heavy_data_is_lightened_by_the_stated_rule(placed, trace, predictions):
    document = checked(
        ReportDocument,
        {
            "results": [
                placement_document(placed, trace).model_dump(mode="json"),
                prediction_document(predictions[0]).model_dump(mode="json"),
            ]
        },
    )
    full, nothing = downloads.lightened(document, 10**9)
    assert nothing == ()
    smaller = len(full) - 10
    text, left_out = downloads.lightened(document, smaller)
    assert len(text) <= smaller
    assert len(left_out) == 1
    # The smallest part that is enough.
    assert len(text) > smaller - 200
    for most in (len(full) * 3 // 4, len(full) // 2, len(full) // 4, 100):
        text, left_out = downloads.lightened(document, most)
        assert len(text) <= most
        if text:
            again = checked(ReportDocument, json.loads(text)).model_dump(mode="json")
            for path in left_out:
                assert _at(document.model_dump(mode="json"), path)
            whole = document.model_dump(mode="json")
            assert again["results"][1]["tpot_s"] == whole["results"][1]["tpot_s"]
    assert (text, left_out) == ("", ("everything",))


def _at(tree, path):
    for key in path.split("."):
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


def test_a_light_page_says_what_it_lacks(placed, trace, monkeypatch, tmp_path):
    monkeypatch.setattr(export_html, "_DATA_BYTES", 25_000)
    page = Page(report(placed, tmp_path / "a.html", routing=trace).read_text("utf-8"))
    said = re.search(r"To keep the page small, the data inside lacks: ([\w.-]+)", page.words)
    assert _at(page.data, said[1].rstrip(".")) in (None, [], {})
    assert page.data["results"][0]["load_imbalance"]["plan"]


def test_figures_without_room_are_pixels_or_left_out(predictions, monkeypatch, tmp_path):
    whole = report(predictions[:1], tmp_path / "whole.html").read_text("utf-8")
    monkeypatch.setattr(export_html, "_ONE_SVG_BYTES", 1000)
    pixels = report(predictions[:1], tmp_path / "pixels.html").read_text("utf-8")
    assert whole.count("<svg") == pixels.count("<img") > 0
    assert "Drawn as pixels" in pixels
    assert Access(pixels).faults == []
    monkeypatch.setattr(export_html, "_SVG_BYTES", 1000)
    none = report(predictions[:1], tmp_path / "none.html").read_text("utf-8")
    assert "<img" not in none
    assert "Not drawn: the page has no room" in none
    assert "Save its data" in none


def test_no_page_is_larger_than_it_may_be(predictions):
    raw = _named(predictions[0], "x" * 1000)
    raw["warnings"] = [f"{i} " + "<" * 1990 for i in range(200)]
    heavy = [raw | {"model": f"{i}" + "y" * 1000} for i in range(2)]
    sources = {f"{i}": "&" * 1990 for i in range(2000)}
    with pytest.raises(ConfigError, match=r"the page would be too big.*fewer results"):
        export_html.render_page(_report(heavy, "x", sources))
    # Many results with names of usual length do fit.
    usual = _report([prediction_document(p).model_dump(mode="json") for p in predictions * 5], "usual")
    page = export_html.render_page(usual)
    assert len(page.encode()) <= export_html.MAX_BYTES
    assert Access(page).faults == []


def test_labels(predictions):
    document = _report([prediction_document(p).model_dump(mode="json") for p in predictions[:2]], "t")
    assert relabelled(document, ["a", "b\x07"]).labels == ["a", "b\ufffd"]
    with pytest.raises(ConfigError, match="1 for 2 results"):
        relabelled(document, ["a"])
    with pytest.raises(ConfigError, match="not all different"):
        relabelled(document, ["a", "a"])
    with pytest.raises(ConfigError, match="at most 2000"):
        relabelled(document, ["a", "x" * 2001])


@pytest.fixture
def file(predictions, tmp_path):
    path = tmp_path / "in.json"
    path.write_text(prediction_document(predictions[0]).model_dump_json())
    return path


def test_command_names_every_wrong_use_at_once(file, tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    done = run_here(
        "report", "in.json", "gone.json", ".", "deep.json", "-o", "in.json", "--theme", "blue", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for expected in (
        "--output: has a suffix of no report", ".html, .pdf, .png", "--output: is also read",
        "--theme: is no theme", "gone.json: cannot be read", ".: is no file", "deep.json: ",
    ):  # fmt: skip
        assert expected in done.stderr, expected
    assert json.loads(file.read_text())["kind"] == "prediction"


def test_command_with_wrong_labels_or_theme(file, tmp_path):
    done = run_here("report", file.name, "-o", "a.html", "--label", "a", "--label", "b", cwd=tmp_path)
    assert (done.returncode, "2 for 1 results" in done.stderr) == (2, True)
    done = run_here("report", file.name, "-o", "a.pdf", "--theme", "dark", cwd=tmp_path)
    assert (done.returncode, "is of an image, not of .pdf" in done.stderr) == (2, True)
    done = run_here("report", *[file.name] * 65, "-o", "a.pdf", cwd=tmp_path)
    assert (done.returncode, "too many results" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def test_command_writes_every_format(file, tmp_path):
    for suffix, start in (("html", b"<!doctype html>"), ("pdf", b"%PDF-"), ("png", b"\x89PNG")):
        done = run_here("report", file.name, "-o", f"out.{suffix}", "--label", "mine", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"out.{suffix}").read_bytes().startswith(start)
    done = run_here("report", "out.html", "-o", "again.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "out.html").read_bytes()
