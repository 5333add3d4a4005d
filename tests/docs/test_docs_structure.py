"""Guides have the same parts, and the floor plan of the contributing guide has every room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.stem)
def test_a_guide_asks_answers_and_says_how_sure(guide):
    text = guide.read_text(encoding="utf-8")
    assert re.match(r"# .+", text)
    assert text.count("\n$ moesim ") >= 1
    assert "\n## How sure\n" in text
    assert "\nWhere next: " in text


def test_every_room_is_in_the_floor_plan():
    plan = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    plan = plan[plan.index("## Floor plan") : plan.index("## Add a machine")]
    rooms = {p.stem for p in (ROOT / "moesim").iterdir() if not p.name.startswith(("_", "py"))}
    assert rooms - set(re.findall(r"`(\w+)`", plan)) == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_nothing_is_left_to_fill_in(page):
    assert re.findall(r"@@|\bTODO\b|\bTBD\b|\bFIXME\b", page.read_text(encoding="utf-8")) == []
