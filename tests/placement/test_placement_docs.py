"""The code in docs/placement.md runs as written and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs" / "placement.md"


def test_blocks_run_in_order(capsys):
    text = DOCS.read_text()
    scope: dict[str, object] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.S))
    assert len(blocks) >= 5
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(DOCS), "exec"), scope)
    printed = capsys.readouterr().out
    promised = re.findall(r"print\(.*\)  # (.*)", text)
    assert len(promised) >= 4
    assert printed.splitlines() == promised
