"""Studies in a scratch folder, and evaluators that worker processes can import."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BASE = """
schema_version: 1
name: {name}
kind: predict
base:
  model: gpt-oss-20b
  hardware: h100-sxm-8
  layout: {{dp: 8, ep: 8}}
  workload: {{input_len: 1024, output_len: 128}}
"""


@pytest.fixture
def study(tmp_path):
    """Write a study file: its base, and whatever follows."""

    def write(rest: str, name: str = "study", base: str = BASE) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(base.format(name=name) + rest)
        return path

    return write


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Make `study_evaluators` importable in worker processes, and read what they log."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", "")))))
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("STUDY_LOG", str(path))
    return lambda: [line.split() for line in path.read_text().splitlines()]
