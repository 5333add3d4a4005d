"""`moesim requests` as a user meets it."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
from request_files import write_all

from moesim.cli.app import main


@pytest.fixture
def moesim(monkeypatch, capsys):
    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["moesim", "requests", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            main()
        done = capsys.readouterr()
        assert (ended.value.code or 0) == code, done.err
        return done

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_all(folder)
    return folder


def test_info(files, moesim):
    document = json.loads(moesim("info", files / "mooncake.jsonl", "--json").out)
    assert (document["schema_version"], document["format"], document["requests"]) == (1, "mooncake", 3)
    assert document["rate_per_s"] == pytest.approx(2 / 2.5)
    assert document["input_tokens"]["total"] == 2140
    assert len(document["provenance"]["inputs"]) == 1
    text = moesim("info", files / "mooncake.jsonl").out
    assert "33.3%" in text


def test_convert_and_generate(files, moesim):
    out = files / "out.parquet"
    moesim("convert", files / "aiperf.jsonl", out, "--arrivals", "closed:2")
    document = json.loads(moesim("info", out, "--json").out)
    assert (document["concurrency"], document["duration_s"], document["sessions"]) == (2, 0.0, 2)
    made = files / "made.jsonl"
    words = ["-n", 500, "--arrivals", "gamma:5:2", "--input-len", "lognormal:800:1", "--output-len", 128]
    done = moesim("generate", made, *words, "--seed", 3)
    assert "500 requests" in done.out
    first = made.read_bytes()
    moesim("generate", made, *words, "--seed", 3)
    assert made.read_bytes() == first
    assert json.loads(moesim("info", made, "--json").out)["output_tokens"]["max"] == 128


def test_bad_input_is_named_all_at_once(files, moesim):
    words = ["-n", 5, "--arrivals", "poison:5", "--input-len", "x", "--output-len", 0]
    done = moesim("generate", files / "absent" / "x.csv", *words, code=2)
    for word in ("5 faults", "--arrivals", "--input-len", "--output-len", "folder does not exist", "suffix"):
        assert word in done.err
    assert not list(files.glob("x*"))
    assert "is a folder" in moesim("info", files, code=2).err
