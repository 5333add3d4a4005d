"""The page as a whole: one file, no network, nothing of a name is markup, same results same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from page_reader import LOADING, Page

import moesim as ms
from moesim.errors import ConfigError
from moesim.reporting import read_documents, report, write_page, write_placement_report

NASTY = '</script><script>alert("1")</script><img src=x onerror=y> & $\\frac{$ 专家 \x07'


@pytest.fixture(scope="session")
def placement_page(placed, trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "placement.html"
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    assert write_placement_report(placed, trace, model, hardware, path, seed=7, notes=["made up"]) == path
    return path


@pytest.fixture(scope="session")
def nasty_page(predictions, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "nasty.html"
    named = [dataclasses.replace(p, model=NASTY, hardware=NASTY) for p in predictions]
    return report(named, path, title=NASTY, notes=[NASTY], labels=[f"{i} {NASTY}" for i in range(3)])


@pytest.fixture(params=["placement_page", "nasty_page"])
def page_path(request):
    return request.getfixturevalue(request.param)


def test_page_is_well_formed_and_loads_nothing(page_path):
    page = Page(page_path.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        if tag == "script":
            assert attributes == {"type": "application/json", "id": "moesim-data"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in LOADING:
                assert (value or "").startswith(("#", "data:")), (tag, name, value[:80])
    style = " ".join(data for tag, data in page.text if tag == "style")
    assert "url(" not in style.replace("url(#", "")
    assert "@import" not in style


def test_figures_are_xml_with_ids_of_their_own(page_path):
    text = page_path.read_text(encoding="utf-8")
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(figures) == text.count("<figure ") >= 2
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.get("viewBox")
    ids = [attributes["id"] for _, attributes in Page(text).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', " ".join(figures)))
    assert {one or other for one, other in used} <= set(ids)


def test_numbers_of_copies_and_other_traffic_are_on_the_page(planned, trace, tmp_path):
    model, hardware = ms.load_model("gpt-oss-20b"), ms.load_hardware("h100-sxm-8")
    path = write_placement_report(planned, trace, model, hardware, tmp_path / "r.html")
    page = Page(path.read_text("utf-8"))
    (found,) = page.data["results"]
    assert found["redundancy"]["best"] == planned.redundancy.best.redundant
    for words in ("How many redundant experts", "on the other traffic", "chosen"):
        assert words in page.words
    for choice in planned.redundancy.choices:
        assert f"{choice.output_throughput:,.0f}" in page.words


def test_names_are_text(nasty_page):
    raw = nasty_page.read_text(encoding="utf-8")
    page = Page(raw)
    assert "alert" not in "".join(tag for tag, _ in page.tags)
    assert "img" not in {tag for tag, _ in page.tags}
    assert raw.count("<script") == 1
    assert "\x07" not in raw
    shown = NASTY.replace("\x07", "\ufffd")
    assert " ".join(shown.split()) in page.words
    assert page.data["results"][0]["model"] == shown


def test_data_in_the_page_makes_the_page_again(placement_page, tmp_path):
    page = Page(placement_page.read_text(encoding="utf-8"))
    assert page.data == page.linked
    saved = tmp_path / "moesim-report.json"
    saved.write_text(json.dumps(page.data), encoding="utf-8")
    again = write_page(read_documents([saved]), tmp_path / "again.html")
    assert again.read_bytes() == placement_page.read_bytes()


def test_data_holds_what_the_command_prints(placed, trace, placement_page):
    (found,) = Page(placement_page.read_text(encoding="utf-8")).data["results"]
    expected = placed.to_dict()
    assert found["gap"] == pytest.approx(expected["gap"])
    assert found["lower_bound"]["per_layer"] == pytest.approx(expected["lower_bound"]["per_layer"])
    for name, judged in expected["load_imbalance"].items():
        assert found["load_imbalance"][name]["fitted"]["per_layer"] == judged["fitted"]["per_layer"]
    assert found["details"]["loads"] == trace.load_counts().totals.tolist()
    for name, answer in placed.predicted.items():
        assert found["predicted"][name]["tpot_s"] == answer.tpot_s
        assert found["details"]["predicted"][name]["output_throughput"] == answer.output_throughput


def test_first_screen_answers(placed, placement_page):
    words = Page(placement_page.read_text(encoding="utf-8")).words
    answer = words[: words.index("Figures")]
    assert placed.verdict[0] in answer
    assert f"{placed.judged['contiguous'].fitted.worst:.3f}" in answer
    assert f"{float(placed.solution.gap.max()):.3%}" in answer
    assert "made up" in answer
    for heading in ("Gained", "What limits it", "Proven", "Uncertain"):
        assert heading in answer


def test_provenance(placed, placement_page):
    hardware = placed.predicted["after"].decode.hardware
    page = Page(placement_page.read_text(encoding="utf-8"))
    found = page.data["provenance"]
    assert found["moesim"] == ms.__version__
    assert found["seed"] == 7
    digest = hashlib.sha256(Path(hardware.path).read_bytes()).hexdigest()
    assert found["inputs"]["h100-sxm-8.yaml"] == digest
    assert "gpt-oss-20b.json" in found["inputs"]
    unsure = [path for path, source in hardware.sources.items() if "[assumed]" in source]
    assert unsure
    assert all(path in page.words for path in unsure)
    (machine,) = page.data["hardware"]
    assert machine["sources"] == dict(hardware.sources)


def test_same_results_same_bytes(predictions, tmp_path):
    one, two = (report(predictions[:1], tmp_path / name) for name in ("one.html", "two.html"))
    assert one.read_bytes() == two.read_bytes()


def test_one_and_three_predictions(predictions, tmp_path):
    alone = Page(report(predictions[0], tmp_path / "one.html").read_text(encoding="utf-8"))
    assert f"{predictions[0].output_throughput:,.0f} output tokens/s" in alone.words
    side = Page(report(predictions, tmp_path / "three.html").read_text(encoding="utf-8"))
    assert len(side.data["results"]) == 3
    # They differ in nothing a label is made of, so they are numbered.
    assert [t for tag, t in side.text if tag == "th" and t in "123"] == ["1", "2", "3"] * 3
    for prediction in predictions:
        assert f"{prediction.output_throughput:,.0f}" in side.words


def test_placement_without_loads_or_price_says_so(trace, tmp_path):
    plan = ms.place(trace, ms.load_model("gpt-oss-20b"), ep=4, method="greedy")
    words = Page(report(plan, tmp_path / "bare.html").read_text(encoding="utf-8")).words
    assert "No hardware was named, so nothing is priced" in words
    assert "map of expert load: the data holds no load" in words
    assert "Every price: no hardware was named" in words
    assert "TPOT" not in words


def test_wrong_arguments(predictions, tmp_path):
    with pytest.raises(ConfigError, match="at least one result"):
        report([], tmp_path / "x.html")
    with pytest.raises(ConfigError, match="2 labels for 1 results"):
        report(predictions[:1], tmp_path / "x.html", labels=["a", "b"])
    with pytest.raises(ConfigError, match="cannot be written"):
        report(predictions[:1], tmp_path / "none" / "x.html")
    assert not list(tmp_path.iterdir())
