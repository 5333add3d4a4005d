"""Tutel's and ScMoE's models: what they are made of, and how near their tables are."""

import csv

import numpy as np
import pytest

from moesim.hardware import load_hardware
from moesim.overlap import PairSeconds, exchange_of_share
from moesim.systems.row import Case
from moesim.systems.rows import scmoe as scmoe_rows
from moesim.systems.rows import tutel as tutel_rows
from moesim.systems.scmoe import SETTINGS, iteration_seconds, pairs, recovered, speedup
from moesim.systems.tutel import FAIRSEQ, TUTEL, Layer, expert_seconds, ordering_seconds, tutel_seconds


def run(row):
    return row.compute(Case(row.central()))


def errors(rows):
    return [abs(run(row) / row.figure.value - 1.0) for row in rows]


# -- ScMoE


def test_published_speedups_are_those_of_the_shared_table(shared):
    with shared("published/measurements.csv").open(encoding="utf-8", newline="") as file:
        lines = [r for r in csv.DictReader(file) if "2404.05019" in r["source"] and r["metric"] == "speedup"]
    ours = [v for both in scmoe_rows.SPEEDUPS.values() for v in both if v is not None]
    assert sorted(ours) == sorted(float(r["value"]) for r in lines)


def test_tables_of_scmoe_are_within_twelve_percent_in_the_median():
    found = errors([row for row in scmoe_rows.ROWS if row.figure.metric.endswith("speedup")])
    assert len(found) == 21
    assert np.median(found) < 0.12
    assert max(found) < 0.20


def test_the_stated_share_is_what_the_exchange_is_made_of():
    for name, setting in SETTINGS.items():
        for _, pair in pairs(name):
            assert pair.share() == pytest.approx(setting.share)
    pair = PairSeconds(1.0, 1.0, 2.0, 0.5, exchange_of_share(0.6, 2.0, 0.5))
    assert pair.share() == pytest.approx(0.6)


def test_the_longer_the_shortcut_the_more_it_hides():
    for name in SETTINGS:
        for training in (False, True):
            order = ("pos-3", "pos-2", "pos-1", "shared", "top-2", "top-3")
            seconds = [iteration_seconds(name, variant, training) for variant in order]
            assert seconds == sorted(seconds)


def test_without_communication_a_shortcut_saves_nothing_over_a_shared_expert():
    pair = PairSeconds(1.0, 2.0, 3.0, 0.5, 0.0)
    assert pair.seconds("pos-3") == pair.seconds("shared")
    assert pair.pipelined(2) == pytest.approx(pair.seconds("top-2"))


def test_training_gains_less_where_exchanges_are_what_is_saved():
    for name in SETTINGS:
        assert speedup(name, "pos-2", True) < speedup(name, "pos-2", False)


def test_a_shortcut_hides_all_of_a_short_copy_and_less_of_a_longer_one():
    hidden = [recovered("gpt3-xl", migration, 128) for migration in (0.1, 0.5, 1.0, 2.0, 4.0)]
    assert hidden[0] == 1.0
    assert hidden == sorted(hidden, reverse=True)
    # Once the window is full, what is hidden are the same seconds.
    assert 4.0 * hidden[-1] == pytest.approx(2.0 * hidden[-2])


# -- Tutel


def test_ratios_of_tutel_within_one_node_to_128_gpus_are_within_fifteen_percent():
    near = [r for r in tutel_rows.ROWS if "2048" not in r.name and "over-fairseq" not in r.name]
    # The dense model, which SwinV2-MoE is compared with, slows down at 128 GPUs: not modelled.
    largest = [r for r in near if r.name.startswith("swin") and r.name.endswith("128")]
    found = errors([r for r in near if r not in largest])
    assert len(found) == 18
    assert max(found) < 0.15
    assert np.median(found) < 0.05
    assert max(errors(largest)) < 0.20


def test_the_cells_of_tutel_are_those_of_the_shared_table(shared):
    with shared("published/measurements.csv").open(encoding="utf-8", newline="") as file:
        lines = [r for r in csv.DictReader(file) if r["system"].startswith(("Tutel", "Dense"))]
    memory = {int(r["batch"]): r for r in lines if r["locator"] == "Table 5"}
    for tokens in (8192, 16384, 32768):
        line = memory[tokens]
        rows = {r.name: r.figure.value for r in tutel_rows.ROWS}
        assert rows[f"memory-tutel-{tokens}"] == float(line["value"])
        assert f"{rows[f'memory-fairseq-{tokens}']} GiB" in line["baseline"]
    images = {
        (r["system"], r["phase"], int(r["num_devices"])): float(r["value"])
        for r in lines
        if r["locator"] == "Table 7"
    }
    for gpus, both in tutel_rows.THROUGHPUT.items():
        for phase, value in zip(("train", "infer"), both, strict=True):
            ours = images["Tutel MoE", phase, gpus] / images["Dense", phase, gpus]
            assert value == pytest.approx(ours)


def test_a_mask_costs_with_the_square_of_the_tokens_and_rows_with_the_tokens():
    hardware = load_hardware("a100-sxm-80gb-8")
    small, large = (Layer(tokens, 2048, 2048, 2, 2) for tokens in (16384, 32768))
    dense = [sum(ordering_seconds(layer, hardware, False)) for layer in (small, large)]
    sparse = [sum(ordering_seconds(layer, hardware, True)) for layer in (small, large)]
    assert dense[1] / dense[0] == pytest.approx(4.0, rel=0.1)
    assert sparse[1] / sparse[0] == pytest.approx(2.0, rel=0.1)
    assert small.mask_entries == 16384 * 32768


def test_each_of_tutels_steps_helps_and_never_hurts():
    layer = Layer(16384, 2048, 2048, 2, 2)
    for nodes in (1, 4, 32):
        hardware = load_hardware("a100-sxm-80gb-8", nodes=nodes)
        seconds = [tutel_seconds(layer, hardware, options) for options in tutel_rows.STEPS]
        assert seconds == sorted(seconds, reverse=True)
    assert tutel_seconds(layer, hardware, FAIRSEQ) > tutel_seconds(layer, hardware, TUTEL)


def test_experts_that_get_few_rows_per_device_are_padded_without_the_flexible_exchange():
    hardware = load_hardware("a100-sxm-80gb-8")
    layer = Layer(16384, 2048, 2048, 2, 2)
    assert expert_seconds(layer, hardware, 16, False) == expert_seconds(layer, hardware, 16, True)
    assert expert_seconds(layer, hardware, 2048, False) > 1.5 * expert_seconds(layer, hardware, 2048, True)


def test_a_faster_network_is_never_slower():
    layer = Layer(16384, 2048, 2048, 2, 2)
    hardware = load_hardware("a100-sxm-80gb-8", nodes=4)
    slow, fast = (tutel_seconds(layer, hardware, TUTEL, efficiency=e) for e in (0.5, 0.9))
    assert fast < slow


# -- the others


@pytest.mark.parametrize(
    "module", ["fsmoe", "fastermoe", "hierarchical", "locmoe", "speculative", "moetuner", "tutel", "scmoe"]
)
def test_every_row_says_what_it_does_not_reproduce_and_why(module):
    from importlib import import_module

    from moesim.systems import run_row
    from moesim.systems.row import CAUSES

    for row in import_module(f"moesim.systems.rows.{module}").ROWS:
        if row.compute is None:
            assert row.reason
            assert row.cause in CAUSES
            continue
        judged = run_row(row, sweep=False)
        assert np.isfinite(judged.ours)
        if judged.verdict != "reproduced":
            assert row.reason, row.name
            assert row.cause in CAUSES, row.name


def test_every_claim_of_these_systems_is_answered():
    from moesim.systems import claims, rows

    ours = ("FSMoE", "Tutel", "ScMoE", "SMILE", "HetuMoE", "LocMoE", "Speculative MoE", "MoETuner")
    answered = {claim for row in rows() for claim in row.claims}
    assert {c.claim for c in claims().values() if c.system in ours} <= answered


def test_more_skew_makes_shadows_worth_more():
    from moesim.systems.rows.fastermoe import gain as faster

    gains = [faster(Case({"skew": skew, "tokens": 8192.0}), True, False) for skew in (0.2, 0.8, 1.4)]
    assert gains == sorted(gains)


def test_the_solved_placement_is_no_worse_than_blocks_on_requests_it_was_not_made_for():
    from moesim.systems.rows.moetuner import layer_parts

    case = Case({"tokens": 8192.0, "share": 0.5})
    before, after = (layer_parts(case, "h100-sxm-8", 1, plan) for plan in (0, 1))
    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_loads_of_moetuner_are_those_that_are_shown_and_no_less_concentrated_elsewhere():
    from moesim.systems.rows.moetuner import RANKS, SHOWN, concentrated

    rng = np.random.default_rng(3)
    loads = rng.dirichlet(np.full(8, 20.0), 32)
    hottest = loads.reshape(32, RANKS, -1).sum(axis=-1)
    blocks, shares = hottest.argmax(axis=-1), np.full(32, 0.5)
    for layer, (rank, part) in SHOWN.items():
        blocks[layer], shares[layer] = rank, part
    found = concentrated(loads, blocks, shares)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert found[14, :2].sum() == pytest.approx(0.64)
    assert found[23, 6:].sum() == pytest.approx(0.69)
    assert found.reshape(32, RANKS, -1).sum(axis=-1).max(axis=-1).min() >= 0.5 - 1e-12
    # What a block has already it keeps, and within a block nothing moves.
    assert concentrated(loads, hottest.argmax(axis=-1), np.zeros(32)) == pytest.approx(loads)
    assert found[14, 0] / found[14, 1] == pytest.approx(loads[14, 0] / loads[14, 1])


def test_the_middle_of_moetuners_measured_loads_is_what_the_assumption_says():
    from moesim.systems.rows.moetuner import SHARE, SHOWN

    shown = np.mean([part for _, part in SHOWN.values()])
    assert SHARE.high == pytest.approx(shown)
    assert SHARE.value == pytest.approx((SHARE.low + shown) / 2.0, abs=0.005)


def test_the_hottest_block_of_measured_mixtral_loads(shared):
    from moesim.systems.rows.moetuner import RANKS, SHARE

    counts = np.load(shared("traces/olmoe-counts/olmoe_mixtral_counts.npz"))
    found = []
    for name in counts.files:
        if name.startswith("mistral") and name.endswith("counts"):
            parts = counts[name] / counts[name].sum(axis=1, keepdims=True)
            found.extend(parts.reshape(len(parts), RANKS, -1).sum(axis=-1).max(axis=-1))
    assert len(found) == 15
    assert np.mean(found) == pytest.approx(SHARE.low, abs=0.005)


def test_locality_helps_until_nodes_have_no_experts_and_more_of_it_never_hurts():
    from moesim.overlap import busiest_sent
    from moesim.systems.rows.locmoe import over_hash

    case = {"experts": 0.5, "width": 4096.0}
    gains = [over_hash(Case({**case, "local": local}), 128) for local in (0.0625, 0.3, 0.6, 0.9)]
    assert gains == sorted(gains)
    assert gains[0] < 1.0 < gains[1]
    assert all(over_hash(Case({**case, "local": local}), 256) < 1.0 for local in (0.1, 0.5, 1.0))
    assert [busiest_sent(n, 16, 0.0) for n in (2, 16)] == [0.5, 15 / 16]


def test_ttft_rows_are_those_of_the_shared_table_and_save_no_more_than_exchanges_take(shared):
    from moesim.systems.rows.speculative import LOCAL, TTFT, first_token

    names = {"DeepSeek-V2-Lite": "deepseek-v2-lite", "Qwen3-30B-A3B": "qwen3-30b-a3b"}
    with shared("published/measurements.csv").open(encoding="utf-8", newline="") as file:
        lines = [r for r in csv.DictReader(file) if r["system"] == "Sem-MoE"]
    table = {
        (names[r["model"]], int(r["input_len"])): float(r["value"])
        for r in lines
        if r["metric"] == "TTFT_reduction"
    }
    assert table == TTFT
    for name, tokens in TTFT:
        before, after = LOCAL[name]
        assert 0.0 < first_token(name, tokens) < (after - before) / (100.0 - before)


def test_two_levels_pay_on_rails_by_how_little_leaves_a_leaf():
    from moesim.systems.rows.hierarchical import se_moe_gain

    gains = [se_moe_gain(Case({"taper": taper, "tokens": 4096.0})) for taper in (1.0, 1.25, 1.5, 2.0)]
    assert gains == sorted(gains)
    # Without a narrow spine there is nothing to avoid, and what is exchanged inside comes on top.
    assert gains[0] < 1.0 < gains[-1]
