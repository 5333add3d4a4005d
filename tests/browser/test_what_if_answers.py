"""The page answers: quickly, in place, beside faults, without a mouse, and when the server is gone."""

from __future__ import annotations

import re

import pytest
from pages import SMALL, answered, metric, next_answer


def served_ms(page):
    """The server's milliseconds, as the page shows them."""
    return float(
        re.search(r"answered in ([\d.,]+) ms", page.locator("#served").inner_text())[1].replace(",", "")
    )


def test_the_page_loads_without_a_complaint_and_asks_nobody_else(what_if, address):
    watched = what_if("")
    page = watched.page
    assert page.title() == "deepseek-v3 on h200-sxm-8: moesim, what if?"
    assert metric(page, "ttft") != "\u2013"
    assert page.locator("#metrics .metric").count() == 5
    assert (
        page.locator("#limits .stack")
        .get_attribute("aria-label")
        .startswith("Where the time of an output token goes")
    )
    assert watched.complaints == []
    assert watched.elsewhere == []
    assert all(url.startswith(address) for url in watched.asked)
    assert watched.failed == []


def test_what_is_shown_is_what_the_server_answered(what_if):
    watched = what_if()
    page = watched.page
    with page.expect_response("**/api/answer") as waiting:
        page.locator("#concurrency").fill("100")
    answer = waiting.value.json()
    page.locator(".asked", has_text="100 requests at once").wait_for()
    found = answer["prediction"]
    label = page.locator('.metric[data-metric="tpot"] svg').get_attribute("aria-label")
    shown = [float(text) for text in re.findall(r"[\d.]+", label.replace("90 %", ""))]
    scale = 1e3 if "ms" in label else 1
    expected = [found["tpot_s"], *found["interval"]["tpot_s"], found["bounds"]["tpot_s"]]
    assert shown == pytest.approx([value * scale for value in expected], rel=6e-3)
    shares = page.locator("#limits .legend b").all_inner_texts()
    assert float(shares[0].split()[0]) == pytest.approx(found["bottleneck"][0]["share"] * 100, rel=6e-3)


def test_a_slider_changes_the_answer_while_it_moves(what_if):
    page = what_if().page
    slider = page.locator("#concurrency-slider")
    box = slider.bounding_box()
    before = metric(page, "tpot"), answered(page), page.evaluate("() => history.length")
    at = page.evaluate("() => document.querySelector('#concurrency-slider').value / 1000")
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 9 + (box["width"] - 18) * at, y)
    page.mouse.down()
    seen, times = set(), []
    for step in range(1, 13):
        with next_answer(page):
            page.mouse.move(box["x"] + 9 + (box["width"] - 18) * (at + 0.02 * step), y)
        seen.add(metric(page, "tpot"))
        times.append(served_ms(page))
    assert len(seen) > 8
    assert sorted(times)[len(times) // 2] < 100
    # Nothing is recorded until the slider rests; then it is one step.
    assert page.evaluate("() => history.length") == before[2]
    page.mouse.up()
    assert page.evaluate("() => history.length") == before[2] + 1
    assert metric(page, "tpot") != before[0]


def test_keys_move_a_slider_by_tidy_steps_and_fields_take_exact_numbers(what_if):
    page = what_if().page
    page.locator("#input_len-slider").focus()
    with next_answer(page):
        page.keyboard.press("ArrowRight")
    assert page.locator("#input_len").input_value() == "1536"
    with next_answer(page):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#input_len").input_value() == "1024"
    with next_answer(page):
        page.locator("#input_len").fill("1,337")
    assert "1,337 tokens in" in page.locator(".asked").inner_text()
    assert page.locator("#input_len-slider").get_attribute("aria-valuetext") == "1,337 tokens"


def test_a_fault_stands_beside_its_field_and_changes_nothing(what_if):
    page = what_if().page
    before = metric(page, "ttft"), page.url
    faults = {
        "abc": "not a whole number",
        "-5": "is not from",
        "": "whole number",
        "1e12": "is not from",
        "3.5": "whole",
    }
    for text, fault in faults.items():
        page.locator("#output_len").fill(text)
        page.locator("#output_len").press("Tab")
        assert fault in page.locator("#output_len-fault").inner_text()
        assert page.locator("#output_len").get_attribute("aria-invalid") == "true"
        assert (metric(page, "ttft"), page.url) == before
    with next_answer(page):
        page.locator("#output_len").fill("300")
    assert page.locator("#output_len-fault").inner_text() == ""


def test_what_the_server_refuses_is_said_beside_the_field(what_if):
    watched = what_if(expects=("422",))
    page = watched.page

    def refuse(route):
        route.fulfill(
            status=422,
            json={
                "error": "1 fault",
                "faults": [{"where": "tp", "message": "<b>is odd</b>", "value": "1", "allowed": "2"}],
            },
        )

    page.route("**/api/answer", refuse)
    page.locator("#input_len").fill("2000")
    page.locator("#tp-fault", has_text="<b>is odd</b>; allowed: 2").wait_for()
    assert page.locator("#tp-fault b").count() == 0
    page.unroute("**/api/answer")
    with next_answer(page):
        page.locator("#input_len").fill("2001")
    assert page.locator("#tp-fault").inner_text() == ""


def test_what_does_not_fit_says_why_and_what_would(what_if):
    page = what_if(SMALL.replace("gpt-oss-20b", "deepseek-v3").replace("h100-sxm-8", "a100-sxm-40gb-8")).page
    assert page.locator("#verdict h2").inner_text() == "It does not fit."
    assert "short" in page.locator("#verdict .reason").inner_text()
    assert page.locator("#memory .legend").inner_text().count("GB") == 2
    with next_answer(page):
        page.locator(".offers button").first.click()
    assert page.locator("#verdict.impossible").count() == 0
    assert metric(page, "ttft") != "\u2013"


def test_only_layouts_that_can_be_laid_out_are_offered(what_if):
    page = what_if().page
    options = page.locator("#tp option").all_inner_texts()
    assert options == ["1", "2", "4", "8"]
    with next_answer(page):
        page.locator("#tp").select_option("8")
    assert page.locator("#dp").input_value() == "1"
    assert page.locator("#dp option").all_inner_texts() == ["1"]
    assert page.locator("#layout-facts").inner_text() == "8 of 8 devices"
    with next_answer(page):
        page.get_by_role("button", name="Data + experts").click()
    assert [page.locator(f"#{name}").input_value() for name in ("tp", "pp", "dp", "ep")] == [
        "1",
        "1",
        "8",
        "8",
    ]


def test_another_layout_is_one_click_away(what_if):
    page = what_if().page
    page.locator("#layouts", has_text="fit; the most throughput first").wait_for()
    rows = page.locator(".layouts tbody tr")
    assert rows.count() > 5
    assert page.locator(".layouts tr.here").count() == 1
    throughput = [
        float(text.replace(",", ""))
        for text in page.locator(".layouts tbody td.n:nth-child(2)").all_inner_texts()
    ]
    assert throughput == sorted(throughput, reverse=True)
    label = rows.nth(0 if rows.nth(0).get_attribute("aria-current") is None else 1).locator("button")
    name = label.get_attribute("aria-label").removeprefix("Take ")
    label.focus()
    with next_answer(page):
        page.keyboard.press("Enter")
    assert name in page.locator(".asked").inner_text()


def test_focus_stays_near_what_was_pressed(what_if):
    page = what_if().page
    page.locator("#layouts", has_text="fit; the most throughput first").wait_for()
    first = page.locator(".layouts button").first
    name = first.get_attribute("aria-label").removeprefix("Take ")
    first.focus()
    with next_answer(page):
        page.keyboard.press("Enter")
    page.locator(".layouts tr.here", has_text=name).wait_for()
    assert page.evaluate("() => document.activeElement.closest('#layouts') !== null")
    page.locator("#pin").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "pin"


def test_limits_are_judged_and_drawn(what_if):
    page = what_if().page
    with next_answer(page):
        page.locator("#tpot_limit_ms-on").check()
    with next_answer(page):
        page.locator("#tpot_limit_ms").fill("0.1")
    assert "cannot be met: no schedule beats the bound" in page.locator(".badge.bad").inner_text()
    with next_answer(page):
        page.locator("#tpot_limit_ms").fill("100000")
    assert "met, surely" in page.locator(".badge.good").inner_text()
    assert page.locator("#curve .chart .limit").count() == 1
    with next_answer(page):
        page.locator("#tpot_limit_ms-on").uncheck()
    assert page.locator(".badge").count() == 0
    assert page.locator("#curve .chart .limit").count() == 0


def test_a_rate_instead_of_a_crowd(what_if):
    page = what_if().page
    with next_answer(page):
        page.get_by_label("requests/s", exact=True).first.check()
    assert page.locator("#concurrency").is_hidden()
    with next_answer(page):
        page.locator("#request_rate").fill("2.5")
    assert "2.5 requests/s" in page.locator(".asked").inner_text()
    page.locator("#take pre", has_text="--request-rate 2.5").wait_for()


def test_back_undoes_and_forward_redoes(what_if):
    page = what_if().page
    assert page.locator("#undo").is_disabled()
    for backend in ("sglang", "trtllm"):
        with next_answer(page):
            page.locator("#backend").select_option(backend)
    with next_answer(page):
        page.go_back()
    assert page.locator("#backend").input_value() == "sglang"
    with next_answer(page):
        page.locator("#undo").click()
    assert page.locator("#backend").input_value() == "vllm"
    assert page.locator("#undo").is_disabled()
    with next_answer(page):
        page.go_forward()
    assert page.locator("#backend").input_value() == "sglang"


def test_a_lost_server_is_said_and_asked_again(what_if):
    watched = what_if(expects=("ERR_CONNECTION_REFUSED", "ERR_FAILED"))
    page = watched.page
    page.route("**/api/answer", lambda route: route.abort("connectionrefused"))
    page.locator("#input_len").fill("2000")
    page.locator('[data-notice="gone"]', has_text="The server does not answer").wait_for()
    assert page.locator("#answer.stale").count() == 1
    page.unroute("**/api/answer")
    page.locator(".asked", has_text="2,000 tokens in").wait_for()
    assert page.locator('[data-notice="gone"]').count() == 0
    assert page.locator("#answer.stale").count() == 0


def test_only_the_newest_of_many_questions_counts(what_if):
    page = what_if().page
    for length in range(1000, 1040):
        page.locator("#input_len").fill(str(length))
    page.locator(".asked", has_text="1,039 tokens in").wait_for()
    page.wait_for_timeout(400)
    assert "1,039 tokens in" in page.locator(".asked").inner_text()


def test_everything_can_be_done_without_a_mouse(what_if):
    page = what_if().page
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "skip"
    reached, forms = [], []
    for _ in range(90):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
              const a = document.activeElement;
              return [a.id || a.dataset.key || a.tagName, getComputedStyle(a).outlineStyle];
            }"""
        )
        if name in {"BODY", "HTML"}:
            break
        reached.append(name)
        forms.append(outline)
    for name in (
        "model",
        "hardware",
        "nodes-slider",
        "tp",
        "concurrency",
        "trace",
        "trace-file",
        "tpot_limit_ms-on",
        "backend",
        "pin",
        "take-report",
        "copy-command",
    ):
        assert name in reached, name
    assert all(style != "none" for name, style in zip(reached, forms, strict=True) if name != "trace-file")
    page.locator(".chart").focus()
    page.keyboard.press("ArrowRight")
    here = page.locator("#curve-readout").inner_text()
    assert "here, 64 requests at once" in here
    page.keyboard.press("ArrowRight")
    assert page.locator("#curve-readout").inner_text() != here
    with next_answer(page):
        page.keyboard.press("Enter")
    assert "64 requests at once" not in page.locator(".asked").inner_text()
    page.locator("#pin").focus()
    page.keyboard.press("Enter")
    assert page.locator("table.compare").count() == 1


def test_the_answer_is_heard_once_the_slider_rests(what_if):
    page = what_if().page
    for length in range(2000, 2010):
        page.locator("#input_len").fill(str(length))
    page.locator("#spoken", has_text="The first token after").wait_for(state="attached")
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"
