"""Every kind of result has a page for everybody, small, and a PDF."""

from __future__ import annotations

import json

from page_access import Access
from page_reader import Page

from moesim.reporting import read_documents, write_page
from moesim.reporting.export_html import MAX_BYTES
from moesim.reporting.sections import sections

#: Kinds whose figures together are all that there are.
DRAWN = ("plan", "simulation", "trace-statistics", "replay-curve", "scoreboard", "validation-reference")


def test_every_kind(printed_kinds, tmp_path):
    for name, path in printed_kinds.items():
        # The document of a study names its table, which is what has a page.
        table = json.loads(path.read_text()).get("table") if name == "study" else None
        report = read_documents([path.parent / table if table else path])
        text = write_page(report, tmp_path / f"{name}.html").read_text("utf-8")
        assert Access(text).faults == [], name
        assert len(text.encode()) <= MAX_BYTES / 2, name
        words = Page(text).words
        (first, *_) = sections(report)
        # The first screen: the answer, and numbers in large.
        assert " ".join(first.answer.lead.split()) in words, name
        assert first.tiles, name
        assert all(number.text in words for tile in first.tiles for number in tile.numbers), name
        assert text.count('download="s') == text.count("<figure "), name
        # Read again, the page holds what it was made of.
        again = read_documents([tmp_path / f"{name}.html"])
        assert again.results == report.results, name
        if name in DRAWN:
            pdf = write_page(report, tmp_path / f"{name}.pdf").read_bytes()
            assert b"/Type3" not in pdf, name
            assert len(pdf) <= MAX_BYTES / 2, name
