"""The notebooks run from a fresh start, and still print what readers see."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
#: Other versions of libraries, and other processors, may round other digits.
CLOSE = 0.05


@pytest.fixture(scope="module")
def refresh():
    spec = importlib.util.spec_from_file_location("refresh_notebooks", FOLDER / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _said(output) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "".join(output["data"].get("text/html", ""))


def _alike(found: str, kept: str) -> None:
    """The same words, and numbers that are close."""
    assert NUMBER.sub("#", found) == NUMBER.sub("#", kept)
    numbers = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (found, kept))
    assert next(numbers) == pytest.approx(next(numbers), rel=CLOSE, abs=1e-3)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs_and_says_what_it_said(refresh, name, tmp_path):
    committed = FOLDER / f"{name}.ipynb"
    assert committed.stat().st_size < 300_000
    kept = json.loads(committed.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(refresh.executed(name, tmp_path)))
    assert len(found["cells"]) == len(kept["cells"])
    for new, old in zip(found["cells"], kept["cells"], strict=True):
        if old["cell_type"] != "code":
            continue
        assert [o["output_type"] for o in new["outputs"]] == [o["output_type"] for o in old["outputs"]], old[
            "source"
        ]
        for output, before in zip(new["outputs"], old["outputs"], strict=True):
            # Nothing is said on stderr: no warnings.
            assert output.get("name", "stdout") == "stdout", _said(output)
            assert sorted(output.get("data", {})) == sorted(before.get("data", {}))
            _alike(_said(output), _said(before))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_teaches_in_the_same_order(path):
    """Question, data, answer, how sure, what next."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    places = [
        text.find(words)
        for words in ("**Question.**", "## The data", "## The answer", "## How sure", "## What next")
    ]
    assert -1 not in places
    assert places == sorted(places)
    assert any("assert " in "".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert str(Path.home()) not in json.dumps(cells)
