"""Rules from logits to experts, and prompts from files; neither needs torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import ConfigError
from moesim.recording import Rule, read_prompts, route

LOGITS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(0, 2, (6, 8)))


@given(LOGITS)
def test_softmax_weights_are_shares_of_all_or_of_the_chosen(logits):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids, weights = route(logits, Rule(3))
    np.testing.assert_allclose(weights, np.take_along_axis(p, ids, 1))
    assert np.allclose(np.sort(p, axis=1)[:, :-4:-1], weights)
    _, normalised = route(logits, Rule(3, normalise=True))
    np.testing.assert_allclose(normalised, weights / weights.sum(axis=1, keepdims=True))
    # A softmax made to sum to one over the chosen is a softmax over the chosen alone.
    np.testing.assert_allclose(normalised, route(logits, Rule(3, scoring="chosen_softmax"))[1])


@given(LOGITS)
def test_scoring_moves_weights_and_not_the_choice(logits):
    ids = route(logits, Rule(3))[0]
    for scoring in ("sigmoid", "chosen_softmax"):
        assert np.array_equal(ids, route(logits, Rule(3, scoring=scoring))[0])
    np.testing.assert_allclose(route(logits, Rule(3, scale=2.5))[1], 2.5 * route(logits, Rule(3))[1])


@given(LOGITS, st.permutations(range(8)))
def test_renaming_experts_renames_the_choice(logits, order):
    ids, weights = route(logits, Rule(3, scoring="sigmoid"))
    moved, same = route(logits[:, order], Rule(3, scoring="sigmoid"))
    assert np.array_equal(np.array(order)[moved], ids)
    np.testing.assert_allclose(same, weights)


@given(LOGITS)
def test_a_correction_bias_chooses_and_does_not_weigh(logits):
    bias = np.zeros(8)
    bias[5] = 2.0
    ids, weights = route(logits, Rule(3, scoring="sigmoid"), bias)
    assert (ids[:, 0] == 5).all()
    np.testing.assert_allclose(weights, np.take_along_axis(1 / (1 + np.exp(-logits)), ids, 1))


@given(LOGITS)
def test_groups_limit_the_choice(logits):
    """By trying every pair of groups."""
    rule = Rule(3, scoring="sigmoid", groups=4, top_groups=2)
    ids, _ = route(logits, rule)
    scores = (1 / (1 + np.exp(-logits))).reshape(6, 4, 2)
    for row, chosen in enumerate(ids):
        best = np.argsort(scores[row].sum(axis=1))[-2:]
        allowed = [e for e in range(8) if e // 2 in best]
        expected = sorted(allowed, key=lambda e: -logits[row, e])[:3]
        assert sorted(chosen) == sorted(expected)


def test_group_scores_differ_by_family():
    logits = np.log(np.array([[9.0, 1.0, 6.0, 5.5]]))
    first = {"n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"}
    v2, v3 = (Rule.of({"model_type": f"deepseek_{v}", **first}, 2) for v in ("v2", "v3"))
    assert sorted(route(logits, v2)[0][0]) == [0, 1]
    assert sorted(route(logits, v3)[0][0]) == [2, 3]


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"model_type": "mixtral"}, Rule(2, normalise=True)),
        ({"model_type": "qwen3_moe", "norm_topk_prob": True}, Rule(2, normalise=True)),
        ({"model_type": "olmoe", "norm_topk_prob": False}, Rule(2)),
        ({"model_type": "gpt_oss"}, Rule(2, scoring="chosen_softmax")),
        ({"model_type": "new", "scoring_func": "sigmoid"}, Rule(2, scoring="sigmoid")),
        (
            {"model_type": "deepseek_v3", "n_group": 8, "topk_group": 4, "norm_topk_prob": True}
            | {"routed_scaling_factor": 2.5},
            Rule(2, "sigmoid", True, 8, 4, "top2", 2.5),
        ),
        (
            {"model_type": "deepseek_v2", "topk_method": "greedy", "n_group": 8, "topk_group": 3},
            Rule(2, group_score="max"),
        ),
    ],
)
def test_rules_of_configs(config, rule):
    assert Rule.of(config, 2) == rule


def test_an_unknown_scoring_is_refused():
    with pytest.raises(ConfigError, match="scoring_func"):
        Rule.of({"model_type": "new", "scoring_func": "cosine"}, 2)


def test_prompts_of_lines_and_of_json_lines(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_bytes("one\r\n\n two \u2028 words\n".encode())
    assert read_prompts(text) == ["one", " two \u2028 words"]
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "one\\ntwo", "id": 3}\n\n{"prompt": "three"}\n')
    assert read_prompts(lines) == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b"\n \n", "holds no prompt"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"prompt": 3}\n[1]\nno json\n{"prompt": ""}\n{"prompt": "fine"}', "line 4"),
        (b"[" * 3000, "has no prompt"),
        (b"{}\n" * 9, "and 4 more lines"),
    ],
)
def test_prompts_that_are_none_are_named(tmp_path, content, message):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_prompts(file)


def test_a_missing_file_of_prompts_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
