"""Scenarios are kept, compared, linked to and taken along; what comes from files is only ever text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pages import SMALL, metric, next_answer
from program import run_here

from moesim.trace import load_trace, write_trace

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A trace whose file and words are markup."""
    found = load_trace(ROOT / "traces" / "gpt-oss-20b-synthetic.npz")
    path = tmp_path_factory.mktemp("traces") / "<b onclick=alert(1)>&amp; 'x'.parquet"
    write_trace(replace(found, model=HOSTILE, source=HOSTILE, warnings=(HOSTILE,)), path)
    return path


def upload(page, path):
    """Upload a trace, which is then chosen: its id."""
    with next_answer(page):
        page.locator("#trace-file").set_input_files(path)
    return page.locator("#trace").input_value()


def saved(page, button):
    """What a button downloads."""
    with page.expect_download() as waiting:
        button.click()
    return waiting.value


def test_two_scenarios_are_compared_and_the_link_restores_them(what_if):
    page = what_if().page
    page.locator("#pin").click()
    with next_answer(page):
        page.locator("#hardware").select_option("b200-sxm-8")
    with next_answer(page):
        page.locator("#concurrency").fill("128")
    page.locator("#concurrency").press("Enter")
    table = page.locator("table.compare")
    inputs = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in table.locator("tr.input").all()
    }
    assert {name: [text.removeprefix("≠ ") for text in cells] for name, cells in inputs.items()} == {
        "hardware": ["b200-sxm-8", "h100-sxm-8"],
        "concurrency": ["128", "64"],
    }
    assert table.locator("td.differs").count() == 2
    assert table.locator("tbody tr[data-metric]").count() == 5
    current, pinned = (table.locator('tr[data-metric="tpot"] .value b').nth(k).inner_text() for k in (0, 1))
    assert current.split() == metric(page, "tpot").replace("✓", "").split()
    assert pinned != current
    words = table.locator('tr[data-metric="ttft"] .against').inner_text()
    assert (
        "intervals overlap: not decided" in words
        or table.locator('tr[data-metric="ttft"] .against.open').count() == 0
    )
    assert page.locator("#curve .curve").count() == 2
    page.get_by_label("Name of scenario A").fill("Hopper & <co>")
    page.get_by_label("Name of scenario A").press("Enter")

    again = what_if(page.url.partition("#")[2]).page
    again.locator("table.compare div.value").nth(9).wait_for()
    assert again.get_by_label("Name of scenario A").input_value() == "Hopper & <co>"
    assert again.locator("table.compare tbody").inner_text() == table.locator("tbody").inner_text()
    assert again.url == page.url
    with next_answer(again):
        again.get_by_role("button", name="Take scenario A").click()
    assert again.locator("#hardware").input_value() == "h100-sxm-8"
    again.get_by_role("button", name="Remove scenario A").click()
    assert again.locator("table.compare").count() == 0
    # Removing is a step of history too.
    again.go_back()
    again.locator("table.compare").wait_for()


def test_six_scenarios_are_most(what_if):
    page = what_if().page
    for _ in range(6):
        page.locator("#pin").click()
    assert page.locator("#pin").is_disabled()
    assert page.locator(".letter").all_inner_texts() == ["●", *"ABCDEF"]
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_junk_in_a_link_is_left_out_and_said(what_if):
    page = what_if(f"{SMALL}&%3Cscript%3Ealert(1)%3C/script%3E=1&backend=nobody&pin=A~~tp%3Dx&pin=%00").page
    said = page.locator('[data-notice="link"]').inner_text()
    assert "<script>alert(1)</script>" in said
    assert "is there twice" in said
    assert "a pinned scenario cannot be read" in said
    assert page.locator('[data-notice="link"] script').count() == 0
    assert page.locator("#backend").input_value() == "vllm"
    page.get_by_role("button", name="Dismiss").click()
    assert page.locator('[data-notice="link"]').count() == 0


def test_a_hostile_trace_is_shown_as_text(what_if, trace):
    watched = what_if()
    page = watched.page
    assert upload(page, trace).startswith("upload-")
    assert trace.name in page.locator("#trace option:checked").inner_text()
    assert f"of {HOSTILE}" in page.locator("#trace-hint").inner_text()
    assert HOSTILE in page.locator("#warnings").inner_text()
    page.locator("#pin").click()
    with next_answer(page):
        page.locator("#trace").select_option("none")
    assert trace.name in page.locator("table.compare").inner_text()
    assert page.title() == "gpt-oss-20b on h100-sxm-8: moesim, what if?"
    assert page.locator("img, main b[onclick], main script").count() == 0


def test_what_is_no_trace_is_refused_beside_the_field(what_if, tmp_path):
    page = what_if(expects=("422",)).page
    path = tmp_path / "<i>junk.npz"
    path.write_bytes(b"no trace")
    page.locator("#trace-file").set_input_files(path)
    page.locator("#trace-fault:not(:empty)").wait_for()
    assert page.locator("#trace-fault i").count() == 0
    assert page.locator("#trace").input_value() == "none"


def test_an_exported_plan_is_accepted_by_place_check(what_if, trace, tmp_path):
    page = what_if().page
    assert page.locator("#take-plan").is_disabled()
    upload(page, trace)
    page.locator("#plan-format").select_option("sglang")
    plan = saved(page, page.locator("#take-plan"))
    path = tmp_path / "plan.json"
    plan.save_as(path)
    assert plan.suggested_filename in page.locator("#take-said").inner_text()
    checked = run_here(
        "place", trace, "--check", path, "--model", "gpt-oss-20b", "--ep", "8", "--dispatch", "sglang-static"
    )
    assert checked.returncode == 0, checked.stderr
    plan_map = json.loads(path.read_text())["physical_to_logical_map"]
    assert all(sorted(layer) == list(range(32)) for layer in plan_map)


def test_an_exported_report_opens_offline(what_if, open_page, tmp_path):
    page = what_if().page
    page.locator("#pin").click()
    page.get_by_label("Name of scenario A").fill("<u>first</u>")
    page.get_by_label("Name of scenario A").press("Enter")
    with next_answer(page):
        page.locator("#input_len").fill("4000")
    path = tmp_path / "report.html"
    saved(page, page.locator("#take-report")).save_as(path)
    report = open_page()
    report.page.context.set_offline(True)
    report.page.goto(path.as_uri())
    assert report.page.locator("figure svg").count() >= 2
    assert "<u>first</u>" in report.page.inner_text("body")
    assert report.page.locator("u").count() == 0
    assert report.failed == []
    assert report.complaints == []


def test_answers_and_lines_to_copy_are_those_shown(what_if, tmp_path):
    page = what_if(permissions=["clipboard-read", "clipboard-write"]).page
    page.locator("#pin").click()
    with next_answer(page):
        page.locator("#tp").select_option("2")
    path = tmp_path / "answers.json"
    saved(page, page.locator("#take-json")).save_as(path)
    rows = json.loads(path.read_text())["answers"]
    assert [(row["label"], row["answer"]["scenario"]["tp"]) for row in rows] == [("current", 2), ("A", 1)]
    page.locator("#take pre", has_text="--tp 2").wait_for()
    page.locator("#copy-command").click()
    page.locator("#take-said", has_text="copied").wait_for()
    words = page.evaluate("() => navigator.clipboard.readText()").split()
    ran = run_here(*words[1:], "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["tpot_s"] == pytest.approx(
        rows[0]["answer"]["prediction"]["tpot_s"], rel=1e-12
    )
    page.locator("#share").click()
    page.locator('[data-notice="share"]').wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == page.url
    page.get_by_text("Start the engine so").click()
    page.locator("#copy-launch-vllm").click()
    page.locator("#take-said", has_text="Launch command copied").wait_for()
    assert "vllm serve" in page.evaluate("() => navigator.clipboard.readText()")
