"""Rows of MoE-Gen and MoE-Lens: what is published is what the source says, and how many are met."""

from __future__ import annotations

import csv

import pytest

from moesim.errors import ConfigError
from moesim.systems.gen_paper import bed_box, dataset_hours, paper_plan
from moesim.systems.row import Case
from moesim.systems.rows import moe_gen, moe_lens
from moesim.systems.verdict import REPRODUCED, judge
from moesim.throughput.result import Workload

NAMES = {
    "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "DeepSeek-V2 236B": "deepseek-v2",
    "DeepSeek-R1 671B": "deepseek-r1",
    "DeepSeek-V2-Lite": "deepseek-v2-lite",
}


def central(row):
    return row.compute(Case({a.name: a.value for a in row.assumed}))


def test_seven_in_ten_of_the_printed_figures_are_met():
    rows = [row for row in moe_gen.ROWS if not row.headline and row.variant == "paper"]
    met = sum(judge(row.figure.value, central(row)) == REPRODUCED for row in rows)
    assert len(rows) == 35
    assert met / len(rows) >= 0.7


def test_one_headline_each_with_its_range():
    for module in (moe_gen, moe_lens):
        (head,) = [row for row in module.ROWS if row.headline]
        assert head.figure.grade == "P"
        assert head.assumed
    assert len({row.name for row in moe_gen.ROWS}) == len(moe_gen.ROWS)


def test_published_figures_are_those_of_the_table(shared):
    """Every row of the shared table that is in ours has its value; where the CPU is idle, G is H."""
    with (shared("published") / "measurements.csv").open(newline="", encoding="utf-8") as handle:
        listed = [r for r in csv.DictReader(handle) if "2503.09716" in r["source"]]
    ours = {
        (table, mode, model, phase, prompt, output if phase == "decode" else 0, value)
        for table, _, mode, model, phase, prompt, output, _, value in moe_gen.TABLE
    }
    found = 0
    for r in listed:
        if not r["system"].startswith("MoE-Gen") or r["phase"] == "offline dataset":
            continue
        model, value = NAMES[r["model"]], float(r["value"])
        modes = (
            "G" if r["system"].endswith("(G)") or ("deepseek" in model and r["phase"] == "decode") else "H"
        )
        text = r["input_len"]
        prompt = int(text[:-1]) * 1024 if text.endswith("K") else int(text)
        out = r["output_len"]
        output = 0 if r["phase"] == "prefill" else int(out[:-1]) * 1024 if out.endswith("K") else int(out)
        assert (r["locator"], modes, model, r["phase"], prompt, output, value) in ours
        found += 1
    assert found >= 20


def test_the_mean_that_is_not_named_decides_the_gain():
    row = next(r for r in moe_lens.ROWS if r.headline)
    arithmetic, geometric = (row.compute(Case({"mean": mean})) for mean in (1.0, 0.0))
    assert 1 < geometric < arithmetic


def test_a_batch_that_the_paper_prints_is_what_the_memory_allows():
    """Table 8: 50, 100 and 200 sequences are what 256 GB hold beside the model."""
    for prompt, output, batch in ((16384, 8192, 50), (8192, 4096, 100), (4096, 2048, 200)):
        got = paper_plan(bed_box("C1"), "C1", "mixtral-8x7b", "H", Workload(prompt, output)).batch
        assert batch <= got < 1.02 * batch


def test_a_printed_figure_past_a_provable_bound():
    """Table 9: 33.6 tok/s with 32 sequences. They meet every expert, and the link does not carry that."""
    plan = paper_plan(bed_box("C2"), "C2", "mixtral-8x7b", "G", Workload(512, 32, 32))
    assert plan.bounds["link"] < 33.6 / 2
    assert plan.decode_tokens_per_s <= plan.bounds["link"]


def test_hours_add_prompts_and_outputs():
    plan = paper_plan(bed_box("C2"), "C2", "mixtral-8x22b", "H", Workload(512, 256))
    both = dataset_hours(plan, 8500)
    prompts = 8500 * 512 / plan.prefill_tokens_per_s / 3600
    assert both == pytest.approx(prompts + 8500 * 256 / plan.decode_tokens_per_s / 3600)
    first = paper_plan(bed_box("C2"), "C2", "mixtral-8x22b", "G", Workload(512, 1))
    assert dataset_hours(first, 100) == pytest.approx(100 * 512 / first.prefill_tokens_per_s / 3600)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="C1, C2, C3"):
        bed_box("C9")
    with pytest.raises(ConfigError, match="G, H"):
        paper_plan(bed_box("C1"), "C1", "mixtral-8x7b", "X", Workload(1, 1))
