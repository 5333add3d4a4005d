"""Every relative link of the documentation leads to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / "traces" / "README.md", ROOT / "reports" / "README.md"]
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE_OR_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _anchors(page: Path) -> set[str]:
    found: dict[str, int] = {}
    made = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCED.sub("", page.read_text("utf-8")), re.MULTILINE):
        slug = _slug(heading)
        times = found.get(slug, 0)
        made.add(f"{slug}-{times}" if times else slug)
        found[slug] = times + 1
    return made


def _faults(page: Path) -> list[str]:
    text = _FENCE_OR_CODE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and there.suffix == ".md" and anchor not in _anchors(there):
            wrong.append(f"{target}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert _faults(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c!\n[ok](#a-b-c) [no](#a) [gone](none.md) `[code](x.md)` [out](https://x.y/z)\n"
    )
    assert _faults(page) == ["#a: no such heading", "none.md: no such file"]


def test_the_map_leads_to_every_page():
    """A page that the index does not name is not found."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    named = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in _LINK.findall(index)}
    missing = [
        p for p in PAGES if p.is_relative_to(ROOT / "docs") and p.name != "index.md" and p not in named
    ]
    assert [str(p.relative_to(ROOT)) for p in missing] == []
