"""Drafted tokens: how many a step yields, what it costs, and what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim as ms
from moesim.correction import Corrected, calibration_of
from moesim.engine.deployment import Deployment
from moesim.engine.speculation import MOST_GAIN, Speculation, draft_model
from moesim.layout import ExpertMap
from moesim.ops import Batch, LayerKinds, Precision, step_work
from moesim.ops.table import OpTable

PHYSICS = calibration_of("none")
MODEL = ms.load_model("deepseek-r1")
HARDWARE = ms.load_hardware("h200-sxm-8")
LAYOUT = ms.Parallelism(tp=8, ep=8)


def ask(tokens=0, acceptance=None, concurrency=16, model=MODEL, calibration=PHYSICS, **settings):
    engine = ms.Engine(speculative_tokens=tokens, acceptance_rate=acceptance, **settings)
    return ms.predict(
        model, HARDWARE, LAYOUT, ms.Workload(1024, 512, concurrency), engine=engine, calibration=calibration
    )


@given(st.integers(0, 8), st.floats(0, 1))
def test_tokens_of_a_step_are_those_of_a_chain_of_trials(tokens, acceptance):
    """The first token is sure; the next ones last until the first failure."""
    chance = [acceptance**n * (1 - acceptance) for n in range(tokens)] + [acceptance**tokens]
    expected = sum(p * (n + 1) for n, p in enumerate(chance))
    assert Speculation(tokens, acceptance).per_step == pytest.approx(expected)


def _sum(table: OpTable, name: str) -> float:
    return float(sum(np.sum(getattr(op, name) * count) for op, count in table.ops))


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss-20b", "qwen3.5-397b-a17b"])
def test_checking_drafts_is_work_of_as_many_tokens_on_one_cache(name):
    """FLOPs as for so many sequences; the cache of each is read once, and so are the weights."""
    model = ms.load_model(name)
    kinds, precision = LayerKinds.of(model), Precision.of(model, "auto", "auto")
    tables = [
        step_work(model, LAYOUT, Batch.decode_over(n, 2000.0, 1, queries), precision, kinds).table
        for n, queries in ((6.0, 1.0), (24.0, 1.0), (6.0, 4.0))
    ]
    assert _sum(tables[2], "flops") == pytest.approx(_sum(tables[1], "flops"))
    assert _sum(tables[2], "weight_bytes") == pytest.approx(_sum(tables[0], "weight_bytes"))
    # New entries are written for every token; what is read is as without drafts.
    read = [
        sum(float(np.sum(op.cache_bytes * n)) for op, n in table.ops if op.kind == "attention_decode")
        for table in tables
    ]
    assert read[2] == pytest.approx(read[0])


def test_drafts_that_all_fail_cost_time_and_yield_nothing():
    plain, failing = ask(), ask(3, 0.0)
    assert failing.tokens_per_step == 1.0
    assert failing.tpot_s > plain.tpot_s


@pytest.mark.parametrize("concurrency", [1, 16, 256])
def test_the_more_is_accepted_the_faster(concurrency):
    times = [ask(3, a, concurrency).tpot_s for a in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert all(a > b for a, b in pairwise(times))


def test_time_of_a_step_is_shared_by_its_tokens():
    """One request alone: no prefill interferes, so TPOT is the step over its tokens, line by line."""
    answer = ask(2, 0.8, concurrency=1)
    step = float(answer.decode.seconds[0]) + answer.draft_s
    assert answer.tpot_s == pytest.approx(step / (1 + 0.8 + 0.64))
    lines = {line.op: line.seconds for line in answer.breakdown}
    assert sum(lines.values()) == pytest.approx(answer.tpot_s)
    assert lines["draft"] == pytest.approx(answer.draft_s / answer.tokens_per_step)
    assert answer.tpot_s >= answer.bounds["tpot_s"]


def test_a_draft_costs_about_a_layer_and_the_head():
    answer = ask(1, 0.8, concurrency=1)
    ends = {"embedding", "lm_head", "sampling", "host"}
    per_layer = (
        sum(float(e.seconds[0]) for e in answer.decode.entries() if e.op not in ends) / MODEL.num_layers
    )
    head = sum(float(e.seconds[0]) for e in answer.decode.entries() if e.op in ends)
    assert per_layer < answer.draft_s < 2.0 * per_layer + head


def test_what_drafts_is_the_models_own_head_or_like_its_last_layer():
    assert draft_model(MODEL).layers == MODEL.mtp_layers[-1:]
    dense = ms.load_model("llama-3.1-8b")
    assert draft_model(dense).layers == dense.layers[-1:]


def test_the_head_that_drafts_takes_memory():
    plain, drafting = ask(), ask(1)
    more = drafting.memory["weights_bytes"] - plain.memory["weights_bytes"]
    assert more == pytest.approx(plain.memory["weights_bytes"] / MODEL.num_layers, rel=0.25)


def test_unknown_acceptance_widens_the_interval_from_none_to_all():
    shipped = None
    unknown = ask(2, None, calibration=shipped)
    sure = [ask(2, a, calibration=shipped) for a in (0.0, 1.0)]
    for metric in ("tpot_s", "ttft_s", "e2el_s", "output_throughput"):
        low, high = unknown.interval[metric]
        for answer in sure:
            assert low <= answer.interval[metric][0] * (1 + 1e-9)
            assert high >= answer.interval[metric][1] * (1 - 1e-9)
        assert unknown.bounds["tpot_s"] <= unknown.interval["tpot_s"][0] * (1 + 1e-9)
    assert unknown.bounds["tpot_s"] == pytest.approx(sure[1].bounds["tpot_s"])
    assert unknown.interval["tpot_s"][1] == pytest.approx(sure[0].interval["tpot_s"][1])


def test_drafts_that_nobody_speaks_of_may_be_there_where_the_model_has_a_head():
    silent, none = ask(None, calibration=None), ask(0, calibration=None)
    assert silent.tpot_s == none.tpot_s
    assert silent.interval["tpot_s"][1] == none.interval["tpot_s"][1]
    low = max(none.interval["tpot_s"][0] / MOST_GAIN, none.bounds["tpot_s"])
    assert silent.interval["tpot_s"][0] == pytest.approx(low)
    assert silent.interval["output_throughput"][1] >= none.interval["output_throughput"][1]
    headless = ms.load_model("gpt-oss-120b")
    spans = [ask(n, calibration=None, model=headless).interval for n in (None, 0)]
    assert spans[0] == spans[1]


def test_wrong_settings_are_named_together():
    with pytest.raises(ms.ConfigError) as caught:
        ask(-1, 1.5)
    assert [fault.where for fault in caught.value.faults] == ["--speculative-tokens", "--acceptance-rate"]


def test_the_published_gain_of_tensorrt_llm_is_in_reach():
    """DeepSeek-R1 on TensorRT-LLM with drafts against without, paired public runs: 1.9 to 1.25 times.

    The gain falls as batches grow, for then checking drafts costs as much as other tokens do.
    """
    gains = []
    for concurrency in (4, 256):
        times = [
            ask(
                n, 0.8 if n else None, concurrency, backend="trtllm", dtype="auto", kv_cache_dtype="fp8"
            ).tpot_s
            for n in (0, 3)
        ]
        gains.append(times[0] / times[1])
    assert 1.25 < gains[1] < gains[0] < 2.1


def test_placement_is_of_the_model_and_not_of_what_drafts():
    small = replace(MODEL, layers=MODEL.layers[:6])
    plan = ms.ExpertMap.contiguous(len(small.moe_layer_ids), small.num_experts, 8, 16)
    with_plan = ms.predict(
        small,
        HARDWARE,
        ms.Parallelism(dp=8, ep=8),
        ms.Workload(256, 256, 64),
        plan=plan,
        engine=ms.Engine(speculative_tokens=1),
        calibration=PHYSICS,
    )
    assert with_plan.draft_s > 0


def test_drafts_lie_where_the_experts_do():
    """256 experts on 40 ranks divide with 24 spares alone; the head that drafts has as many."""
    layout, machine = ms.Parallelism(dp=40, ep=40), ms.load_hardware("h200-sxm-8", nodes=5)
    plan = ExpertMap.contiguous(len(MODEL.moe_layer_ids), MODEL.num_experts, 40, 24)
    answer = Deployment(
        MODEL, machine, layout, Precision.of(MODEL), plan=plan, speculation=Speculation(1, 0.7)
    ).decode(np.array([400.0]), np.array([1000.0]))
    assert answer.draft_s[0] > 0
    assert answer.token_s[0] == pytest.approx(answer.seconds[0] / 1.7)


class _Gaining:
    """What measured runs taught, had they all been twice as fast as physics says."""

    def factors(self, _identity, _input_len, _output_len, concurrency, *, kernels):  # noqa: ARG002
        return np.full(len(concurrency), 0.5), np.ones(len(concurrency))

    def correct(self, identity, input_len, output_len, concurrency, *, kernels):
        tpot, ttft = self.factors(identity, input_len, output_len, concurrency, kernels=kernels)
        span = np.full(len(tpot), 0.9), np.full(len(tpot), 1.2)
        return Corrected(tpot, ttft, dict.fromkeys(("tpot", "ttft", "e2el"), span), "layout known")


def test_what_runs_gain_beyond_physics_is_not_counted_beside_drafts():
    """Unrecorded drafts are most of what measured runs gain; drafts that are said take their place."""
    calibration = replace(PHYSICS, families={"moe": _Gaining()})
    plain, drafts, physics = (
        ask(n, 0.8 if n else None, calibration=c)
        for n, c in ((0, calibration), (2, calibration), (2, PHYSICS))
    )
    assert plain.calibration["tpot_factor"] == pytest.approx(0.5)
    assert drafts.tpot_s == pytest.approx(physics.tpot_s)
    # Nobody recorded which runs gained by them: the interval holds both.
    low, high = drafts.interval["tpot_s"]
    assert low == pytest.approx(max(0.5 * 0.9 * physics.tpot_s, drafts.bounds["tpot_s"]))
    assert high == pytest.approx(1.2 * physics.tpot_s)
