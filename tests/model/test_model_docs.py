"""The code in docs/models.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_blocks_run_in_order(capsys):
    text = DOCS.read_text()
    scope: dict[str, object] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.S))
    assert len(blocks) >= 6
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(DOCS), "exec"), scope)
    printed = capsys.readouterr().out
    for promised in re.findall(r"print\(.*\)  # (?:MiB: )?(.*)", text):
        numbers = re.findall(r"\d+(?:\.\d+)?", promised)
        assert all(number in printed for number in numbers), promised
