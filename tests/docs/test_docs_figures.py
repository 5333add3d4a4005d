"""Figures of accuracy in the documentation are those that lie in the data."""

from __future__ import annotations

import json
from pathlib import Path

from moesim.files import data_dir

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-well.md").read_text(encoding="utf-8")
FAMILIES, LEVELS = ("moe", "dense", "disaggregated"), ("sweep", "layout", "system", "model")


def _calibration():
    return json.loads((data_dir("hardware") / "serving" / "calibration.json").read_text())["provenance"]


def _rows(section: str, until: str) -> list[list[str]]:
    """Cells of the table rows between two texts, without headings."""
    text = PAGE[PAGE.index(section) : PAGE.index(until)]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _pair(score, digits: int) -> str:
    """Median and 90 % quantile as the page has them."""
    p90 = score["p90"] * 100
    return f"{score['median'] * 100:.1f} / {p90:.{digits}f} %"


def test_predictions_as_they_are_asked():
    found = _calibration()["unnamed"]
    expected = [
        [
            _pair(s["tpot"], 0),
            f"{s['tpot']['coverage']:.1%}",
            _pair(s["ttft"], 0),
            f"{s['ttft']['coverage']:.1%}",
        ]
        for s in (found[family][level] for family in FAMILIES for level in LEVELS)
    ]
    assert [
        [c.replace(" %", "%") for c in row[2:]] for row in _rows("**`moesim predict`", "**The same runs")
    ] == [[c.replace(" %", "%") for c in row] for row in expected]


def test_predictions_where_the_campaign_is_known():
    found = _calibration()["held_out"]["moe"]
    expected = [[_pair(found[level]["tpot"], 0), _pair(found[level]["ttft"], 0)] for level in LEVELS]
    assert [row[2:] for row in _rows("**The same runs", "**Physics alone**")] == expected


def test_physics_alone():
    scores = json.loads((ROOT / "moesim" / "validate" / "accepted.json").read_text())["scores"]
    pairs = [
        (scores["tpot"][f"judged {k}"], scores["ttft"][f"judged {k}"])
        for k in ("moe agg", "dense agg", "disagg")
    ]
    expected = [[f"{tpot['n']:,}", _pair(tpot, 1), _pair(ttft, 1)] for tpot, ttft in pairs]
    assert [row[1:] for row in _rows("**Physics alone**", "**Beside others**")] == expected


def test_kernels_are_those_of_the_calibration_page():
    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    page = page[page.index("## Error on rows left out") :]
    for row in _rows("**Rows left out**", "Command: `benchmarks/kernel_accuracy.py`"):
        line = next(line for line in page.splitlines() if line.startswith(f"| {row[0]} | "))
        assert [cell.split(" (")[0].strip() for cell in line.strip("|").split("|")][1:] == row[1:], row[0]
