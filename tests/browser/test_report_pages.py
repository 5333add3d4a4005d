"""Report pages in a browser: quiet, self-contained, legible in light, dark and print; data can be saved."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from program import run_here

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
HOSTILE = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A report of two predictions, one under a hostile name, and of a plan."""
    folder = tmp_path_factory.mktemp("report")
    common = "predict --model gpt-oss-20b --hardware h100-sxm-8 --dp 8 --ep 8 --input-len 1024 --json"
    for name, crowd in ("few", 16), (HOSTILE.replace("/", "\u2044"), 256):
        done = run_here(*common.split(), "--concurrency", crowd)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.json").write_text(done.stdout)
    trace = Path(__file__).resolve().parents[2] / "traces" / "gpt-oss-20b-synthetic.npz"
    done = run_here("place", trace, "--model", "gpt-oss-20b", "--hardware", "h100-sxm-8", "--ep", 8, "--json")
    assert done.returncode == 0, done.stderr
    (folder / "plan.json").write_text(done.stdout)
    done = run_here("report", *sorted(folder.glob("*.json")), "-o", folder / "page.html")
    assert done.returncode == 0, done.stderr
    return folder / "page.html"


@pytest.fixture
def report(open_page, page_file):
    """Open the page without any network."""

    def open_offline(**options):
        watched = open_page(page_file.as_uri(), offline=True, **options)
        assert watched.failed == []
        assert [url for url in watched.asked if not url.startswith("data:")] == [page_file.as_uri()]
        return watched

    return open_offline


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_quiet_and_legible(report, scheme):
    page = report(color_scheme=scheme).page
    assert page.locator("figure svg").count() >= 4
    assert page.title() != "taken"
    for fold in page.locator("summary").all():
        fold.click()
    seen, bad = page.evaluate(CONTRAST)
    assert seen > 300
    assert bad == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_is_no_wider_than_the_screen(report, width):
    page = report(width=width).page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_report_prints(report):
    page = report(color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") in {
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    }
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 2


def test_the_data_of_a_report_can_be_saved(report):
    page = report().page
    links = page.locator("a[download]")
    saved = {}
    for link in links.all():
        with page.expect_download() as waiting:
            link.click()
        saved[waiting.value.suggested_filename] = Path(waiting.value.path()).read_text()
    tables = [text for name, text in saved.items() if name.endswith(".csv")]
    assert len(tables) >= 4
    for text in tables:
        rows = [row for row in csv.reader(io.StringIO(text)) if row and not row[0].startswith("#")]
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    documents = [json.loads(text) for name, text in saved.items() if name.endswith(".json")]
    assert documents
    assert json.loads(page.locator("#moesim-data").text_content()) == documents[0]
