"""The page of real runs: whole, self-contained, and for those who do not see the figures too."""

from __future__ import annotations

import json
import re

import pytest

from moesim.reporting import write_reference


def _row(i, **more):
    measured = 1e-4 * 3**i
    row = {
        "name": f"layer {i}",
        "layer": "<b>few</b>",
        "tokens": 4**i,
        "routing": ("uniform", "zipf:1.5", "trace:m")[i % 3],
        "recorded": False if i % 3 == 2 else None,
        "offloaded": 0.5 * (i % 2),
        "dtype": "fp32",
        "experts_hit": 8,
        "loads": 3,
        "predicted_loads": 3,
        "predicted_s": measured * 1.1,
        "low_s": measured,
        "high_s": measured * 1.3,
        "measured_s": measured,
        "error": 0.1,
        "raw_error": 0.12,
        "roofline_error": -0.5,
        "inside": True,
    }
    return row | more


def document(rows, drift=True):
    errors = dict.fromkeys(
        ("median_abs_error", "p90_abs_error", "p95_abs_error", "max_abs_error", "median_signed_error"), 0.1
    )
    summary = {
        "device": "cpu",
        "n": len(rows),
        "rounds": 7,
        "frozen": True,
        "verdict": "passed",
        **errors,
        "coverage": 0.9,
        "interval_level": 0.9,
        "raw": errors,
        "paired": errors if drift else None,
        "roofline": errors,
        "floor": {"median": 0.01, "p95": 0.04, "most": 0.1},
        "paired_floor": {"median": 0.01, "p95": 0.02} if drift else None,
        "drift": {"anchors": 5, "median": 1.02, "least": 0.98, "most": 1.1} if drift else None,
        "beaten": 1,
        "beaten_by": 0.02,
        "by": {"dtype": {"fp32": {"n": len(rows), **errors, "coverage": 1.0}}},
    }
    return {
        "rows": rows,
        "summary": summary,
        "machine": {"before": {"cpu": "A & B <CPU>", "gpu": None, "load": [0.1, 0.2, 0.3]}},
        "facts": {"date": "2026-11-22", "seed": 0},
        "hardware_sha256": "0" * 64,
        "recordings": {"m": {"source": "profile </script>", "real": False}},
    }


@pytest.mark.parametrize("drift", [True, False], ids=["paired", "raw"])
def test_page(tmp_path, drift):
    seen = {"moesim": "1", "python": "3", "seed": 0, "inputs": {"runs.json": "ab"}}
    path = write_reference(document([_row(i) for i in range(5)], drift), tmp_path / "page.html", seen)
    text = path.read_text()
    assert write_reference(document([_row(i) for i in range(5)], drift), path, seen).read_text() == text
    assert "<b>few</b>" not in text
    assert "A &amp; B &lt;CPU&gt;" in text
    assert "beat their bound in some round: 1, by up to 2.0 %" in text
    assert text.count("</script>") == 1
    assert not re.search(r'(src|href)="(?!#)', text)
    assert text.count('role="img" aria-label="') == 2
    assert ("paired with the drift" in text) == drift
    data = json.loads(re.search(r'id="moesim-data">(.*)</script>', text, re.S)[1])
    assert len(data["rows"]) == 5
    assert data["provenance"]["inputs"] == {"runs.json": "ab"}
