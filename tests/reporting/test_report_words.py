"""The words follow the numbers."""

from __future__ import annotations

import pytest

from moesim.reporting.documents import HardwareSources, Objective
from moesim.reporting.gather import placement_document, prediction_document
from moesim.reporting.sections import labels_of, placements, sources
from moesim.reporting.sections import predictions as predicted


def _sentences(answer):
    return {heading: " ".join(sentences) for heading, sentences in answer.points}


def test_a_loss_is_called_a_loss(placed, trace):
    document = placement_document(placed, trace)
    lost = document.model_copy(update={"verdict": ["At 1 request the plan LOSES 3 %."]})
    assert "LOSES 3 %" in placements.answer(lost).lead


def test_limits_and_proof_of_a_placement(placed, trace):
    said = _sentences(placements.answer(placement_document(placed, trace)))
    name, share = placed.predicted["after"].bottleneck[0]
    assert f"{predicted.RESOURCES[name]} {share:.0%}" in said["What limits it"]
    assert "40 slots (8 redundant) on 8 ranks" in said["Proven"]
    low, high = placed.predicted["after"].interval["tpot_s"]
    assert f"{low * 1e3:,.4g} ms and {high * 1e3:,.4g} ms" in said["Uncertain"]


def test_predictions_side_by_side(predictions):
    answers = [prediction_document(p) for p in predictions]
    answer = predicted.answer(answers, ["uniform", "real", "overlap"])
    best = max(
        zip(predictions, ("uniform", "real", "overlap"), strict=True), key=lambda p: p[0].output_throughput
    )
    assert (
        f"{best[1]} has the highest output throughput ({best[0].output_throughput:,.0f} tokens/s)"
        in answer.lead
    )
    # Intervals of measured runs are wide, and say nothing of such a difference.
    assert answer.lead.count("not decided") == 2
    (low, high), level = answers[0].interval.output_throughput, answers[0].interval
    far = level.model_copy(update={"output_throughput": (2 * high, 3 * high), "tpot_s": (1e-9, 2e-9)})
    fast = answers[0].model_copy(update={"output_throughput": 2.5 * high, "tpot_s": 1.5e-9, "interval": far})
    lead = predicted.answer([answers[0], fast], ["old", "new"]).lead
    assert low < high
    assert lead.count("their intervals do not overlap") == 2
    assert f"new has the highest output throughput ({2.5 * high:,.0f} tokens/s)" in lead
    slow = answers[0].model_copy(update={"running": 100.0})
    assert (
        "Only 100 of 256 requests run at once"
        in _sentences(predicted.answer([slow], ["a"]))["What limits it"]
    )


def test_labels_are_what_differs(predictions):
    answers = [prediction_document(p) for p in predictions]
    other = answers[0].model_copy(update={"concurrency": 64.0})
    assert labels_of([answers[0], other]) == ["256 requests", "64 requests"]
    assert labels_of([answers[0], answers[0]]) == ["1", "2"]
    assert labels_of([answers[0]]) == ["gpt-oss-20b"]
    assert labels_of([answers[0], other, other]) == ["1: 256 requests", "2: 64 requests", "3: 64 requests"]


def test_hardware_that_is_not_known():
    known = {
        "a": "a paper [seen]",
        "b": "a guess [assumed]; really",
        "c": "memory [recalled]",
        "d": "no bracket",
    }
    (sentence,) = sources.of_hardware([HardwareSources(name="box", title="Box", sources=known)])
    assert sentence.startswith("2 of the 4 numbers that describe box")
    assert (
        sources.of_hardware([HardwareSources(name="box", title="Box", sources={"a": "a paper [seen]"})]) == []
    )


def test_tables_hold_the_numbers(placed, trace, predictions):
    document = placement_document(placed, trace)
    rows = {row[0]: row for row in placements.imbalance(document).rows}
    assert rows["plan"][1] == f"{placed.judged['plan'].fitted.mean:.4f}"
    assert float(rows["lower bound"][1]) <= float(rows["plan"][1])
    assert [row[0] for row in placements.priced(document.predicted).rows] == [
        "before (contiguous)", "greedy", "best without redundancy", "after (the plan)"
    ]  # fmt: skip
    answers = [prediction_document(p) for p in predictions]
    broken = predicted.broken_down(answers, ["a", "b", "c"])
    for column, prediction in enumerate(predictions, start=2):
        total = sum(float(row[column]) for row in broken.rows if row[column] != "-")
        assert total == pytest.approx(prediction.tpot_s * 1e3, abs=1e-4 * len(broken.rows))
    assert broken.numeric == (False, False, True, True, True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("x [seen]", "seen"), ("x [1] [derived]; note", "derived"), ("x", ""), ("", ""), ("a [b", "b")],
)
def test_status(source, expected):
    assert sources.status(source) == expected


def test_what_is_proven_is_of_what_was_asked_for(placed, trace):
    document = placement_document(placed, trace)
    asked = document.model_copy(
        update={"objective": Objective(terms="max-load + 0.2 remote-nodes"), "dispatch": "sglang-static"}
    )
    (plain,), (other,) = (dict(placements.answer(d).points)["Proven"] for d in (document, asked))
    assert "more even" in plain
    assert "dispatch" not in plain
    assert "be better (max-load + 0.2 remote-nodes)" in other
    assert "under sglang-static dispatch" in other
