"""From a checkpoint folder and a file of prompts to a trace on disk."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from recording_models import FAMILIES, build
from typer.testing import CliRunner

from moesim.cli import main
from moesim.cli.app import app
from moesim.errors import ConfigError
from moesim.recording import Recorder, Recording, Rule, check_installed, record_folder, record_requests
from moesim.trace import load_trace

FAMILY = "qwen3_moe"
EXPERTS, K, LAYERS, _ = FAMILIES[FAMILY]
PROMPTS = ["the cat sat on the mat", "a dog", "one two three four five six seven"]
NEW = 5
RULE = Rule(K, normalise=True)

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("transformers") is None,
    reason="recording needs torch and transformers: pip install 'moesim[record]'",
)


@pytest.fixture(scope="module")
def model():
    return build(FAMILY, pytest.importorskip("torch"), pytest.importorskip("transformers"))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A checkpoint with a tokenizer of one token per letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.save_pretrained(path)
    letters = {chr(i): i - 32 for i in range(32, 127)} | {"?": 95}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(path)
    return path


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


@needs_torch
def test_phases_positions_and_tokens(folder, prompts, tmp_path):
    out = tmp_path / "trace.parquet"
    done = record_folder(folder, prompts, out, Recording(max_new_tokens=NEW, weights=True))
    trace = load_trace(out)
    lengths = [len(p) for p in PROMPTS]
    assert (done.requests, done.prefill_tokens, done.decode_tokens) == (3, sum(lengths), 3 * (NEW - 1))
    assert trace.moe_layer_ids == done.moe_layer_ids == LAYERS
    assert (trace.num_experts, trace.top_k, trace.model) == (EXPERTS, K, "tiny")
    for r, (text, n) in enumerate(zip(PROMPTS, lengths, strict=True)):
        rows = trace.request == r
        assert trace.phase[rows].tolist() == [0] * n + [1] * (NEW - 1)
        assert trace.position[rows].tolist() == list(range(n + NEW - 1))
        assert trace.token_id[rows].tolist() == [ord(c) - 32 for c in text] + list(done.outputs[r][:-1])
    assert trace.topk_weights.shape == trace.topk_ids.shape
    np.testing.assert_allclose(trace.topk_weights.astype(float).sum(axis=2), 1, atol=2e-3)
    counts = trace.load_counts().totals
    assert (counts.sum(axis=1) == trace.num_tokens * K).all()


@needs_torch
def test_a_cached_step_routes_as_a_whole_pass_does(model, folder, prompts, tmp_path):
    """What was recorded token by token equals one pass over prompt and output together."""
    import torch

    out = tmp_path / "trace.parquet"
    record_folder(folder, prompts, out, Recording(max_new_tokens=NEW))
    trace = load_trace(out)
    for r in range(len(PROMPTS)):
        rows = trace.request == r
        with Recorder(model, EXPERTS, K, RULE) as recorder, torch.inference_mode():
            logits = model(torch.tensor(trace.token_id[rows])[None].long()).logits[0]
            whole = recorder.take()
        assert np.array_equal(np.sort(trace.topk_ids[rows], 2), np.sort(whole.topk_ids, 2))
        # Greedy: each generated token is the likeliest after what came before it.
        n = len(PROMPTS[r])
        assert logits[n - 1 : -1].argmax(1).tolist() == trace.token_id[rows][n:].tolist()


@needs_torch
def test_seeds_decide_what_is_drawn(model, tmp_path):
    sizes = {"num_experts": EXPERTS, "top_k": K, "rule": RULE}

    def drawn(seed, temperature):
        recording = Recording(max_new_tokens=12, temperature=temperature, seed=seed)
        return record_requests(model, [[1, 2, 3]], tmp_path / "t.parquet", recording, **sizes).outputs

    assert drawn(0, 2.0) == drawn(0, 2.0) != drawn(1, 2.0)
    assert drawn(0, 1e-9) == drawn(0, 0.0)
    first = drawn(0, 0.0)[0][0]
    stopped = record_requests(
        model, [[1, 2, 3]], tmp_path / "t.parquet", Recording(max_new_tokens=12), eos=[first], **sizes
    )
    assert stopped.outputs == ((first,),)
    assert stopped.decode_tokens == 0


@needs_torch
def test_scores_beside_the_trace(model, tmp_path):
    recording = Recording(4, scores=tmp_path / "s", next_scores=tmp_path / "n", token_ids=False)
    out = tmp_path / "t.parquet"
    record_requests(model, [[5, 6, 7], [8]], out, recording, num_experts=EXPERTS, top_k=K, rule=RULE)
    trace = load_trace(out)
    assert trace.token_id is None
    assert sorted(p.name for p in recording.scores.iterdir()) == ["layer_000.npy", "layer_002.npy"]
    assert [p.name for p in recording.next_scores.iterdir()] == ["layer_002.npy"]
    scores = np.load(recording.scores / "layer_002.npy")
    following = np.load(recording.next_scores / "layer_002.npy")
    assert scores.dtype == following.dtype == np.float16
    assert scores.shape == following.shape == (trace.num_tokens, EXPERTS)
    assert not np.array_equal(scores, following)
    # Read back as a trace of its own, the scores choose the same experts, but for ties of rounding.
    again = load_trace(recording.scores, top_k=K)
    assert again.moe_layer_ids == LAYERS
    assert (np.sort(again.topk_ids, axis=2) == np.sort(trace.topk_ids, axis=2)).mean() > 0.98


@needs_torch
def test_command(folder, prompts, tmp_path):
    out = tmp_path / "trace.parquet"
    words = [
        "trace",
        "record",
        folder,
        "--prompts",
        prompts,
        "--max-new-tokens",
        "3",
        "--weights",
        "--scores",
    ]
    done = CliRunner().invoke(app, [str(w) for w in [*words, "-o", out, "--json", "--seed", "4"]])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["phases"] == {"prefill": sum(map(len, PROMPTS)), "decode": 6}
    assert document["written"] == [str(out), str(tmp_path / "trace.scores")]
    assert document["provenance"]["seed"] == 4
    assert str(out) in document["provenance"]["inputs"]
    trace = load_trace(out)
    assert trace.metadata["seed"] == "4"
    assert trace.topk_weights is not None


@needs_torch
def test_every_fault_at_once_and_nothing_left_behind(folder, tmp_path):
    out = tmp_path / "none" / "trace.parquet"
    with pytest.raises(ConfigError) as caught:
        record_folder(tmp_path / "nowhere", tmp_path / "none.txt", out)
    text = str(caught.value)
    assert all(part in text for part in ("3 faults", "MODEL_DIR", "none.txt", "--output"))
    long = tmp_path / "long.txt"
    long.write_text("short\n" + "x" * 63)
    with pytest.raises(ConfigError, match="does not fit the model's context") as caught:
        record_folder(folder, long, tmp_path / "t.parquet", Recording(max_new_tokens=3))
    assert [f.where for f in caught.value.faults] == ["prompt 1"]
    empty = tmp_path / "broken"
    empty.mkdir()
    (empty / "config.json").write_text((folder / "config.json").read_text())
    long.write_text("short")
    with pytest.raises(ConfigError, match="transformers cannot load it"):
        record_folder(empty, long, tmp_path / "t.parquet")
    assert not list(tmp_path.glob("*.parquet*"))
    assert not list(tmp_path.glob(".*.tmp"))


@needs_torch
def test_a_recording_that_fails_leaves_no_file(model, tmp_path):
    sizes = {"num_experts": EXPERTS, "top_k": K, "rule": RULE}
    with pytest.raises(ConfigError, match="prompt 1"):
        record_requests(model, [[1], []], tmp_path / "t.parquet", **sizes)
    recording = Recording(2, scores=tmp_path / "s")
    with pytest.raises(IndexError):
        record_requests(model, [[1], [10**6]], tmp_path / "t.parquet", recording, **sizes)
    assert not list(tmp_path.iterdir())


def test_options_out_of_range_are_named_together():
    with pytest.raises(ConfigError, match="3 faults"):
        Recording(max_new_tokens=-1, temperature=float("nan"), seed=-3)


def test_without_torch_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="torch and transformers"):
        check_installed()
    words = ["moesim", "trace", "record", "model", "--prompts", "p", "-o", str(tmp_path / "t.parquet")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "pip install 'moesim[record]'" in capsys.readouterr().err
