"""Systems whose figure is counted or replayed: identities of their papers, and what they are sensitive to."""

import pytest

from moesim.systems import rows, run_row
from moesim.systems.row import Case
from moesim.systems.rows import inference_optimal as optimal
from moesim.systems.rows import merging, vision


def _rows(system):
    return {row.name: row for row in rows() if row.system == system}


@pytest.mark.parametrize("system", ["Merge-then-Compress", "MoTE", "LLM-Viewer"])
def test_counted_systems_are_reproduced_without_moving_an_assumption(system):
    for row in _rows(system).values():
        judged = run_row(row, sweep=False)
        # 1.344 TFLOP/s is printed as 1.
        if row.name != "performance-prefill-norm":
            assert judged.verdict == "reproduced", row.name


def test_every_line_of_the_worked_table_rounds_to_what_is_printed():
    for row in _rows("LLM-Viewer").values():
        printed = row.figure.value
        digits = max(0, 3 - len(str(int(printed)))) if printed >= 1 else 3
        step = 0.5 if row.name.endswith("prefill-norm") and "performance" in row.name else 0.6 * 10**-digits
        assert row.compute(Case()) == pytest.approx(printed, abs=max(step, 0.005 * printed)), row.name


def test_factoring_an_expert_into_full_rank_saves_nothing():
    assert merging.factored_params(rank=0, residue=1.0) == merging.EXPERT
    assert merging.switch_params(merging.EXPERT, merging.EXPERTS) == pytest.approx(1.98e9, rel=0.01)


def test_the_routed_law_needs_a_larger_base_for_fewer_experts():
    sizes = [optimal.size_at_equal_loss(1e9, 16, few) for few in (16, 8, 4, 2)]
    assert sizes[0] == pytest.approx(1e9)
    assert sizes == sorted(sizes)


def test_serving_costs_rise_with_the_experts_and_fall_with_the_base():
    costs = [optimal.cost(3e9, experts, 161, 338) for experts in (4, 16, 32)]
    assert costs == sorted(costs)
    assert optimal.cost(1e9, 16, 161, 338) < costs[1]


def test_a_bound_on_latency_never_makes_serving_cheaper():
    from moesim.errors import ConfigError
    from moesim.hardware import load_hardware
    from moesim.prediction import serving_costs

    def found(bound):
        return serving_costs(
            lambda n: optimal.routed(3e9, n),
            [8],
            load_hardware("a100-sxm-40gb-8"),
            input_len=161,
            output_len=338,
            tpot_s=bound,
        )[0]

    free = found(None)
    tight = found(0.7 * free.tpot_s)
    assert tight.tpot_s <= 0.7 * free.tpot_s
    assert tight.device_s_per_token >= free.device_s_per_token
    with pytest.raises(ConfigError, match="too slow"):
        found(1e-6)


def test_fused_experts_are_never_slower_and_an_encoder_never_faster():
    for tiles in (1, 4, 13):
        for launch_s in (0.0, 5e-5):
            alone = vision.first_token_s(tiles, 32, launch_s, False, True)
            assert alone <= vision.first_token_s(tiles, 32, launch_s, False, False)
            assert alone < vision.first_token_s(tiles, 32, launch_s, True, True)


def test_balanced_shares_end_together():
    seconds = (1.0, 0.4, 2.5)
    ends = [s * t for s, t in zip(vision.balanced_shares(seconds), seconds, strict=True)]
    assert max(ends) == pytest.approx(min(ends))
    assert sum(vision.balanced_shares(seconds)) == pytest.approx(1.0)
