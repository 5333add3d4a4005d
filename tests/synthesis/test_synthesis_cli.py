"""``moesim trace generate``, as a user meets it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from synthesis_helpers import trace

from moesim.cli import main
from moesim.trace import load_trace, write_trace


@pytest.fixture
def moesim(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["moesim", "trace", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stopped.value.code, captured.out, captured.err

    return run


def test_from_a_shipped_profile(moesim, tmp_path):
    out = tmp_path / "t.npz"
    code, text, _ = moesim("--profile", "mixtral", "--tokens", 500, "--requests", 9, "--phase", "both",
                           "-o", out, "--json")  # fmt: skip
    assert code == 0
    document = json.loads(text)
    assert (document["layers"], document["num_experts"], document["top_k"]) == (32, 8, 2)
    assert document["assumed"]
    made = load_trace(out)
    assert (made.num_tokens, made.request.max() + 1, set(made.phase)) == (500, 9, {0, 1})


def test_like_a_trace_and_saved(moesim, tmp_path):
    source, out, saved = tmp_path / "s.npz", tmp_path / "t.parquet", tmp_path / "p.npz"
    write_trace(trace(2400), source)
    code, text, _ = moesim("--like", source, "--tokens", 2400, "-o", out, "--check", "--save-profile", saved)
    assert "consecutive_overlap" in text
    assert code == (1 if " off" in text else 0)
    assert text.count(" ok") > 20
    again = tmp_path / "u.parquet"
    assert moesim("--profile", saved, "--tokens", 2400, "-o", again)[0] == 0
    assert (load_trace(again).topk_ids == load_trace(out).topk_ids).all()


def test_from_numbers(moesim, tmp_path):
    out = tmp_path / "t.parquet"
    code, text, _ = moesim("--layers", 3, "--experts", 16, "--top-k", 2, "--skew", 0.4, "--persistence", 0.4,
                           "--coupling", 0.3, "--tokens", 20_000, "--check", "-o", out, "--json")  # fmt: skip
    rows = {row["name"]: row for row in json.loads(text)["check"]}
    assert rows["consecutive_overlap"]["target"] == 0.4
    assert abs(rows["consecutive_overlap"]["error"]) < 0.1
    assert code == (0 if all(row["passes"] for row in rows.values()) else 1)
    assert (np.diff(np.sort(load_trace(out).topk_ids.astype(int), axis=2), axis=2) > 0).all()


def test_every_fault_at_once(moesim, tmp_path):
    out = tmp_path / "missing" / "t.txt"
    code, _, err = moesim("--layers", 2, "--tokens", 0, "--phase", "later", "-o", out)
    assert code == 2
    for what in ("its folder does not exist", "no suffix", "--tokens", "--phase", "needed together"):
        assert what in err
    code, _, err = moesim("--profile", "olmoe", "--model", "mixtral-8x7b", "--skew", 1, "--tokens", 5,
                          "-o", tmp_path / "t.npz")  # fmt: skip
    assert code == 2
    assert "more than once" in err
    assert "shape a design" in err
    code, _, err = moesim("--model", "llama-2-7b", "--tokens", 5, "-o", tmp_path / "t.npz")
    assert (code, "routes nothing" in err) == (2, True)
    code, _, err = moesim("--profile", "olmo", "--tokens", 5, "-o", tmp_path / "t.npz")
    assert (code, "nearest: olmoe" in err) == (2, True)
    assert not list(tmp_path.iterdir())
