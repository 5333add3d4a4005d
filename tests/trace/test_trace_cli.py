"""``moesim trace info`` and ``moesim trace convert``, as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from trace_helpers import DEEPSEEK_LITE, GPT_OSS, make_counts, make_trace

from moesim.files import data_dir
from moesim.trace import load_trace, write_trace

TOKENS = data_dir("traces") / "gpt-oss-20b-synthetic.npz"
LOADS = data_dir("traces") / "deepseek-v3-synthetic.json"


def test_info(moesim):
    code, out, err = moesim("trace", "info", TOKENS)
    assert (code, err) == (0, "")
    assert "3,320 (1,239 prefill, 2,081 decode)" in out
    assert "24 (0-23)" in out
    assert "gpt-oss-20b" in out


def test_info_json(moesim):
    code, out, _ = moesim("trace", "info", LOADS, "--model", "deepseek-v3", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["kind"] == "load_counts"
    assert (document["format"], document["model"], document["top_k"]) == ("sglang-json", "deepseek-v3", 8)
    assert document["moe_layer_ids"] == list(range(3, 61))
    assert [layer["layer_id"] for layer in document["layers"]] == document["moe_layer_ids"]
    assert document["selections_per_layer"] == 8_000_000
    assert document["schema_version"] == 1
    assert list(document["provenance"]["inputs"]) == [str(LOADS)]
    loads = load_trace(LOADS).totals
    skew = loads.max(axis=1) / loads.mean(axis=1)
    assert document["max_over_mean"]["mean"] == pytest.approx(skew.mean())
    assert document["max_over_mean"]["worst_layer_id"] == 3 + int(skew.argmax())


def test_info_guesses_the_model_from_the_catalogue(moesim, tmp_path):
    np.savez(tmp_path / "x.npz", topk_ids=make_trace(300, DEEPSEEK_LITE).topk_ids)
    _, out, err = moesim("trace", "info", tmp_path / "x.npz", "--json")
    document = json.loads(out)
    assert (document["model"], document["moe_layer_ids"][0]) == ("deepseek-v2-lite", 1)
    assert any("taken as deepseek-v2-lite" in w for w in document["warnings"])
    assert err == ""
    _, _, err = moesim("trace", "info", tmp_path / "x.npz")
    assert "warning: the file does not name its model" in err


def test_info_of_parquet_is_that_of_its_source(moesim, tmp_path):
    moesim("trace", "convert", TOKENS, tmp_path / "t.parquet")
    paths = (TOKENS, tmp_path / "t.parquet")
    documents = [json.loads(moesim("trace", "info", path, "--json")[1]) for path in paths]
    for document in documents:
        for key in ("path", "format", "provenance"):
            del document[key]
    assert documents[0] == documents[1]


def test_convert_there_and_back(moesim, tmp_path):
    code, out, err = moesim("trace", "convert", TOKENS, tmp_path / "a.parquet")
    assert (code, err) == (0, "")
    assert "a.parquet (parquet)" in out
    moesim("trace", "convert", tmp_path / "a.parquet", tmp_path / "b.npz")
    # The arrays, not the container: zip headers differ between versions of Python.
    with np.load(TOKENS) as before, np.load(tmp_path / "b.npz") as after:
        assert before.files == after.files
        for name in before.files:
            np.testing.assert_array_equal(before[name], after[name])


def test_convert_to_sglang_covers_all_decoder_layers(moesim, tmp_path):
    trace = make_trace(50, DEEPSEEK_LITE)
    write_trace(trace, tmp_path / "t.npz")
    code, out, _ = moesim("trace", "convert", tmp_path / "t.npz", tmp_path / "c", "--to", "sglang", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["format"] == "sglang"
    assert "top-k" in document["lost"]
    stored = json.loads((tmp_path / "c").read_text())["logical_count"]
    assert np.sum(stored, axis=1).tolist() == [0] + [300] * 26


def test_all_faults_of_the_output_at_once(moesim, tmp_path):
    code, out, err = moesim("trace", "convert", TOKENS, tmp_path / "no" / "x.foo")
    assert (code, out) == (2, "")
    assert "folder does not exist" in err
    assert "suffix of no format" in err
    code, _, err = moesim("trace", "convert", TOKENS, tmp_path / "x.npz", "--to", "csv")
    assert code == 2
    assert "parquet, npz, sglang" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "deepseek-v3"], "trace has 24 MoE layers, deepseek-v3 has 58"),
        (["--model", "gpt-oss-21b"], "gpt-oss-20b"),
        (["--model", "llama-2-7b"], "is a dense model"),
        (["--num-experts", "16"], "trace has 32 experts per layer"),
        (["--num-experts", "0"], "is no number of experts"),
    ],
)
def test_wrong_hints(moesim, options, expected):
    code, out, err = moesim("trace", "info", TOKENS, *options)
    assert (code, out) == (2, "")
    assert expected in err


def test_wrong_files(moesim, tmp_path):
    (tmp_path / "half.npz").write_bytes(TOKENS.read_bytes()[:100_000])
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0JFIF")
    for name in ("half.npz", "photo.jpg", "missing.npz", "."):
        code, out, err = moesim("trace", "info", tmp_path / name)
        assert (code, out) == (2, ""), name
        assert str(tmp_path) in err


def test_gpt_oss_under_its_own_name(moesim, tmp_path):
    write_trace(make_counts(2, GPT_OSS), tmp_path / "c.parquet")
    code, out, _ = moesim("trace", "info", tmp_path / "c.parquet", "--model", "openai/gpt-oss-20b", "--json")
    document = json.loads(out)
    assert (code, document["steps"], document["tokens"], document["phases"]) == (0, 2, None, None)
