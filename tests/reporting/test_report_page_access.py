"""Pages for everybody: structure for ears and keyboards, contrast for eyes, sheets for printers."""

from __future__ import annotations

import dataclasses
import re

import pytest
from page_access import Access, contrast, variables

from moesim.reporting import report

PAGE = """<!doctype html><html lang="en"><head><title>t</title></head><body><a href="#m">skip</a>
<header><h1>one</h1></header><main id="m">{}</main></body></html>"""


@pytest.fixture(scope="session")
def pages(predictions, placed, trace, tmp_path_factory):
    """One result, several of a kind, and kinds together."""
    folder = tmp_path_factory.mktemp("access")
    made = {
        "one": report(predictions[0], folder / "one.html"),
        "three": report(predictions, folder / "three.html"),
        "mixed": report(
            [*predictions[:2], placed, placed], folder / "mixed.html", routing=trace, notes=["n"]
        ),
    }
    return {name: path.read_text(encoding="utf-8") for name, path in made.items()}


@pytest.mark.parametrize("name", ["one", "three", "mixed"])
def test_no_page_shuts_anybody_out(pages, name):
    assert Access(pages[name]).faults == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<h3>a</h3>", "level 1 is followed by 3"),
        ("<h1>again</h1>", "2 of h1"),
        ("<h2> </h2>", "h2 says nothing"),
        ('<img src="data:,">', "img without alt"),
        ('<svg role="img"></svg>', "svg without a name"),
        ("<table><tr><td>1</td></tr></table>", "table without caption"),
        ("<table><caption>c</caption><tr><th>1</th></tr></table>", "th without scope"),
        ('<div class="scroll">wide</div>', "what scrolls is not reached by the keyboard"),
        ('<div class="scroll" role="region" tabindex="0">wide</div>', "div without a name"),
        ('<a href="#gone">x</a>', "href of 'gone', which is nowhere"),
        ('<section aria-labelledby="gone">x</section>', "aria-labelledby of 'gone', which is nowhere"),
        ('<p id="m">x</p>', "id m twice"),
        ('<p tabindex="3">x</p>', "focus is led astray"),
        ('<a href="data:,"></a>', "a says nothing"),
        ("<ul><p>x</p></ul>", "p in ul"),
        ("<nav>x</nav>", "nav without a name"),
    ],
)
def test_the_checker_sees(body, fault):
    assert Access(PAGE.format("<p>fine</p>")).faults == []
    assert fault in Access(PAGE.format(body)).faults


def test_text_stands_out_in_both_schemes(pages):
    css = re.search(r"<style>(.*?)</style>", pages["one"], re.DOTALL)[1]
    used = set(re.findall(r"(?<![\w-])color: var\(--([\w-]+)\)", css))
    assert {"ink", "dim", "accent", "warn", "good"} == used
    for scheme, colours in variables(css).items():
        for ground in ("paper", "card"):
            for name in used:
                ratio = contrast(colours[name], colours[ground])
                assert ratio >= 4.5, (scheme, name, ground, ratio)
        # What shows where the keyboard is.
        assert contrast(colours["accent"], colours["paper"]) >= 3
    assert variables(css)["light"]["paper"] != variables(css)["dark"]["paper"]
    assert ":focus-visible { outline: 3px solid var(--accent)" in css


def test_figures_are_said_in_words(pages):
    for text in pages.values():
        said = re.findall(r'<svg[^>]*role="img" aria-label="([^"]*)"', text)
        assert said
        assert all(len(alt) > 30 and re.search(r"\d", alt) for alt in said), said


def test_one_drawing_serves_both_schemes(pages):
    for drawing in re.findall(r"<svg.*?</svg>", pages["mixed"], re.DOTALL):
        assert "var(--ink)" in drawing


def test_first_screen_comes_before_the_evidence(pages):
    for text in pages.values():
        order = [
            text.index(part)
            for part in ("<h1>", 'class="lead"', 'class="value"', "<figure ", 'id="provenance"')
        ]
        assert order == sorted(order)
    # A list of contents only where there is much.
    assert "<nav" not in pages["one"]
    assert "<nav" in pages["mixed"]


def test_contents_name_every_figure(pages):
    nav = re.search(r"<nav.*?</nav>", pages["mixed"], re.DOTALL)[0]
    assert len(re.findall(r'href="#s\d+-f\d+"', nav)) == pages["mixed"].count("<figure ")


def test_differences_are_marked(pages):
    table = pages["three"][pages["three"].index("differs)") :]
    marks = []
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)[1:]:
        values = re.findall(r"<td[^>]*>([^<]*)</td>", row)
        assert len(values) == 3
        marks.append("mark" in row)
        assert marks[-1] == (len(set(values)) > 1)
    assert set(marks) == {True, False}


def test_print_is_light_and_whole(pages):
    css = re.search(r"<style>(.*?)</style>", pages["one"], re.DOTALL)[1]
    # Dark colours are for screens only, so paper stays white.
    assert css.count("prefers-color-scheme") == css.count("screen and (prefers-color-scheme")
    printed = css[css.index("@media print") :]
    assert "break-inside: avoid" in printed
    assert "size: A4" in css


def test_large_numbers_are_written_out(predictions, tmp_path):
    slow = dataclasses.replace(predictions[0], ttft_s=104.4)
    text = report(slow, tmp_path / "slow.html").read_text(encoding="utf-8")
    assert '<p class="value"><b>104,400</b> ms</p>' in text
    assert not re.search(r"<b>[^<]*e\+", text)
