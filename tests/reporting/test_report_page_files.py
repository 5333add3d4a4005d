"""PDFs and images: everything is on them, nothing is cut, same results same bytes."""

from __future__ import annotations

import re
import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.reporting import blocks, export_pdf, export_png, report, sheets
from moesim.reporting.blocks import Block
from moesim.reporting.figures import DARK, PRINT
from moesim.reporting.sheets import pages_of
from moesim.reporting.typeset import width_of, wrapped

_LETTERS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=80)


@given(text=_LETTERS, width=st.floats(30, 300), size=st.floats(5, 20), bold=st.booleans())
@settings(max_examples=100, deadline=None)
def test_wrapped_text_is_whole_and_within_its_width(text, width, size, bold):
    lines = wrapped(text, width, size, bold)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        assert width_of(line, size, bold) <= width + 1e-6 or len(line) == 1


_BLOCKS = st.lists(st.tuples(st.floats(1, 120), st.booleans()), max_size=40)


@given(parts=_BLOCKS)
@settings(max_examples=100, deadline=None)
def test_pages_take_what_fits_in_order(parts):
    given_blocks = [Block(height, keep=keep) for height, keep in parts]
    pages = list(pages_of(given_blocks, 100))
    assert [block for page in pages for block in page] == given_blocks
    for page in pages:
        assert sum(block.height_pt for block in page) <= 100 + 1e-9 or len(page) == 1
    for page, after in pairwise(pages):
        # What stays with what follows is only parted where the two, with all before, fill a page.
        group = [after[0].height_pt]
        for block in reversed(page):
            if not block.keep:
                break
            group.append(block.height_pt)
        assert len(group) == 1 or sum(group) + sum(_rest(after)) > 100


def _rest(page):
    """Heights of what the first block of a page stays together with."""
    found = []
    for before, block in pairwise(page):
        if not before.keep:
            break
        found.append(block.height_pt)
    return found


@pytest.fixture
def written(monkeypatch):
    """Every line that is written, with where it ends and how wide the sheet is."""
    seen = []
    write = blocks.Pen.write

    def remember(self, x, y, text, size, colour="", bold=False):
        seen.append((text, x, x + width_of(text, size, bold), y, self.width_pt, self.height_pt))
        write(self, x, y, text, size, colour, bold)

    monkeypatch.setattr(blocks.Pen, "write", remember)
    return seen


def _inside(seen):
    for text, left, right, top, width, height in seen:
        assert 0 < left < right <= width - 20, text
        assert 0 < top < height, text
    return " ".join(text for text, *_ in seen)


LONG = "a-name-that-no-line-holds-" * 12


def test_pdf_is_vectors_and_text_of_a4(predictions, tmp_path, written):
    labels = [LONG, "second", "third"]
    title = "T" + "itle of many words " * 12
    data = report(predictions, tmp_path / "a.pdf", title=title, labels=labels).read_bytes()
    words = _inside(written)
    for answer in predictions:
        assert f"{answer.output_throughput:,.0f}" in words
    assert LONG in words.replace(" ", "")
    assert " ".join(title.split()) in " ".join(words.split())
    for heading in ("What limits it", "Proven", "Uncertain", "Provenance"):
        assert heading in words
    assert words.index("What limits it") < words.index("Provenance")
    assert data.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type /Page\b", data))
    assert f"page {pages} of {pages}" in words
    assert set(re.findall(rb"/MediaBox \[ ([^\]]*) \]", data)) == {b"0 0 595.28 841.89"}
    # Fonts with a way back to letters, no pictures of text, no date.
    assert b"/ToUnicode" in data
    assert b"/Type3" not in data
    assert b"CreationDate" not in data
    assert b"/JavaScript" not in data
    assert b"/URI" not in data


def test_same_results_same_files(predictions, tmp_path):
    for suffix in ("pdf", "png"):
        one, two = (report(predictions[:1], tmp_path / f"{n}.{suffix}").read_bytes() for n in "ab")
        assert one == two


def test_pdf_of_a_placement(placed, trace, tmp_path, written):
    data = report(placed, tmp_path / "a.pdf", routing=trace).read_bytes()
    words = _inside(written)
    assert placed.verdict[0].split()[0] in words
    assert f"{placed.predicted['after'].output_throughput:,.0f}" in words
    assert len(data) < 2_000_000


@pytest.mark.parametrize(("theme", "colours"), [("light", PRINT), ("dark", DARK)])
def test_image_is_the_first_screen_in_its_theme(predictions, tmp_path, written, theme, colours):
    data = report(predictions[0], tmp_path / "a.png", theme=theme).read_bytes()
    words = _inside(written)
    assert f"{predictions[0].output_throughput:,.0f} output tokens/s" in words
    assert "Time per output token" in words
    width, height, corner = _png(data)
    assert width == 1440
    assert 600 < height < 6000
    assert "#" + bytes(corner).hex() == colours.paper


def _png(data):
    """Width, height and the first pixel."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, body, head = 8, b"", b""
    while place < len(data):
        (length,), name = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        chunk = data[place + 8 : place + 8 + length]
        head, body = (chunk if name == b"IHDR" else head), (body + chunk if name == b"IDAT" else body)
        assert name not in (b"tIME", b"tEXt"), name
        place += length + 12
    width, height = struct.unpack(">II", head[:8])
    return width, height, tuple(zlib.decompress(body)[1:4])


def test_many_results_fit(predictions, tmp_path, monkeypatch):
    """No figure is taller than its sheet, no image taller than a few screens."""
    seen = []
    lay = sheets.sheet

    def remember(blocks, size_pt, margin_pt, *more):
        seen.append((sum(block.height_pt for block in blocks), size_pt[1] - 2 * margin_pt))
        return lay(blocks, size_pt, margin_pt, *more)

    for module in (export_pdf, export_png):
        monkeypatch.setattr(module, "sheet", remember)
    width, height, _ = _png(report(predictions * 5, tmp_path / "a.png").read_bytes())
    assert (width, height <= 4800) == (1440, True)
    report(predictions * 5, tmp_path / "a.pdf")
    assert len(seen) > 2
    assert all(used <= room + 1e-6 for used, room in seen)


def test_other_suffixes_and_themes(predictions, tmp_path):
    with pytest.raises(ConfigError, match=r"suffix of no report.*\.html, \.pdf, \.png"):
        report(predictions[0], tmp_path / "a.docx")
    with pytest.raises(ConfigError, match="no theme"):
        report(predictions[0], tmp_path / "a.png", theme="blue")
    assert not list(tmp_path.iterdir())
