"""How the page looks and is spoken: contrast in both schemes, narrow screens, names of controls, motion."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import SMALL, next_answer


def quoted(fragment):
    """A scenario as it stands inside a link."""
    return fragment.replace("&", "%26").replace("=", "%3D")


PINNED = f"{SMALL}&pin=A~~{quoted(SMALL.replace('tpot_limit_ms=none', 'tpot_limit_ms=5'))}"
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


def unfolded(page):
    """Everything that can be seen, when other layouts are there and all is unfolded."""
    page.locator("#layouts", has_text="fit; the most throughput first").wait_for()
    for summary in page.locator(".results summary").all():
        summary.click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(what_if, scheme):
    page = what_if(PINNED, color_scheme=scheme).page
    with next_answer(page):
        page.locator("#tpot_limit_ms-on").check()
    page.locator("#nodes").fill("x")
    unfolded(page)
    seen, bad = page.evaluate(CONTRAST)
    assert seen > 200
    assert bad == []
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]


def test_colours_may_be_chosen_and_are_kept(what_if):
    page = what_if(color_scheme="light").page
    button = page.locator("#theme")
    assert button.inner_text() == "Colours: auto"
    button.click()
    button.click()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    page.reload()
    page.wait_for_selector("body[data-answered]")
    assert button.inner_text() == "Colours: dark"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(what_if, width):
    # A machine without a price has more to say in less room.
    page = what_if(PINNED.replace("h100-sxm-8", "rtx-pro-6000-8", 1), width=width, height=844).page
    unfolded(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input:not([type=file])")]
          .filter((e) => e.checkVisibility() && !e.closest(".scroll"))
          .filter((e) => e.getBoundingClientRect().right > innerWidth)
          .map((e) => e.outerHTML)"""
    )
    assert beyond == []
    # On a phone the numbers stay in sight while a slider is moved.
    if page.locator("#concurrency").is_hidden():
        page.locator("#g-traffic > summary").click()
    page.locator("#concurrency").evaluate("(e) => e.scrollIntoView({block: 'center'})")
    box = page.locator("#strip").bounding_box()
    assert (box is not None and 0 <= box["y"] < 100) == (width < 900)


def test_every_control_has_a_name_and_every_drawing_words(what_if):
    page = what_if(PINNED).page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=img], [role=application]")]
          .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.textContent.trim() && !e.labels?.length
            && !e.hasAttribute("aria-labelledby"))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    # Every bar has its axis, every value its interval and bound.
    for kind in ("axis", "value", "interval", "bound"):
        assert page.locator(f".metric .bar:has(.{kind})").count() == 5
        assert page.locator(f".compare .bar:has(.{kind})").count() == 10
    assert page.locator("svg:not([aria-label], [aria-hidden])").count() == 0
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    referred = page.evaluate(
        """() => ["aria-labelledby", "aria-describedby", "for"]
          .flatMap((name) => [...document.querySelectorAll(`[${name}]`)].map((e) => e.getAttribute(name)))
          .flatMap((ids) => ids.split(" "))
          .filter((id) => !document.getElementById(id))"""
    )
    assert referred == []


def test_who_wants_no_motion_gets_none(what_if):
    page = what_if(reduced_motion="reduce").page
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")].map(getComputedStyle)
          .filter((s) => parseFloat(s.transitionDuration) > 0 || s.animationName !== "none").length"""
    )
    assert moving == 0
