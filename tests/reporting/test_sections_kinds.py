"""What sections say is what the documents hold; who is better is only said to be decided where it is."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds import document

from moesim.errors import ConfigError
from moesim.reporting import read_documents
from moesim.reporting.figures.given import percent
from moesim.reporting.sections import compare, sections
from moesim.reporting.sections.compare import Contender, standing


def said(*paths):
    """Sections of files, and all sentences of the first."""
    found = sections(read_documents(paths))
    first = found[0]
    return found, " ".join([first.answer.lead, *(text for _, texts in first.answer.points for text in texts)])


def table(section, title):
    (found,) = (t for t in section.tables if t.title.startswith(title))
    return found


def changed(path, folder, name, **change):
    """A copy of a document with other values."""
    raw = document(path)
    for key, value in change.items():
        raw[key] = value
    (folder / name).write_text(json.dumps(raw))
    return folder / name


def test_simulation(printed_kinds):
    raw = document(printed_kinds["simulation"])
    (section,), words = said(printed_kinds["simulation"])
    assert f"{raw['completed']} of {raw['requests']} requests answered" in words
    assert f"{raw['output_throughput']:,.0f} output tokens/s" in words
    assert f"TTFT {raw['latency']['ttft_s']['p99'] * 1e3:,.4g} ms" in words
    assert f"{100 * raw['attainment']:.0f} % of requests have TTFT within 40 ms, TPOT within 20 ms" in words
    assert raw["interval"]["method"] in words
    assert f"{raw['cost']['usd_per_million_output_tokens']:,.3g} USD per million output tokens" in words
    assert "simulated, not measured" in words
    rows = {row[0]: row for row in table(section, "Latency").rows}
    assert rows["TPOT"][1] == f"{raw['tpot_s'] * 1e3:,.4g}"
    assert rows["TPOT"][-2] == f"{raw['latency']['tpot_s']['p99'] * 1e3:,.4g}"
    assert [f.name for f in section.figures] == ["latency_cdf"] * 3 + ["serving_over_time"]
    drawn = section.figures[3].data
    assert drawn["running"] == pytest.approx(raw["over_time"]["running"])
    assert section.tiles[0].numbers[0].value == raw["output_throughput"]


def test_simulations_side_by_side_say_whether_it_is_decided(printed_kinds, tmp_path):
    raw = document(printed_kinds["replications"])
    low, high = raw["interval"]["output_throughput"]
    span = high - low
    near = copy.deepcopy(raw["interval"]) | {"output_throughput": [low + span / 2, high + span / 2]}
    far = copy.deepcopy(raw["interval"]) | {"output_throughput": [low + 2 * span, high + 2 * span]}
    faster = raw["output_throughput"] + span / 2
    one = changed(printed_kinds["replications"], tmp_path, "slow.json")
    two = changed(
        printed_kinds["replications"], tmp_path, "fast.json", output_throughput=faster, interval=near
    )
    _, words = said(one, two)
    assert f"fast has the highest output throughput ({faster:,.0f} tokens/s)" in words
    assert "not decided" in next(text for text in words.split(". ") if "highest output throughput" in text)
    faster = raw["output_throughput"] + 2 * span
    two = changed(
        printed_kinds["replications"], tmp_path, "fast.json", output_throughput=faster, interval=far
    )
    _, words = said(one, two)
    (sentence,) = (text for text in words.split(". ") if "highest output throughput" in text)
    assert "their intervals do not overlap" in sentence
    (section,) = sections(read_documents([one, two]))
    assert table(section, "Simulations").compares
    assert table(section, "Simulations").columns == ("", "slow", "fast")


def test_plan(printed_kinds, tmp_path):
    raw = document(printed_kinds["plan"])
    plan = raw["plan"]
    (section,), words = said(printed_kinds["plan"])
    assert f"Rent {plan['devices']} devices ({plan['nodes']} x h100-sxm-8)" in words
    assert f"for {plan['usd_per_hour']:,.2f} USD/h" in words
    assert f"p99 of TTFT {plan['metrics']['ttft_p99_s'] * 1e3:,.4g} ms (promised 500 ms)" in words
    assert "the simulator confirms it" in words
    assert f"{raw['searched']['configurations']:,} configurations" in words
    best = max(raw["sensitivities"], key=lambda gain: gain["rate_gain"])
    assert f"10% more {best['what']} would let it carry {best['rate_gain']:.1%} more requests" in words
    assert raw["prices"][0]["date"] in words
    (tornado,) = (f for f in section.figures if f.name == "sensitivity_tornado")
    assert {g["what"] for g in raw["sensitivities"]} == set(tornado.data["input"])
    commands = table(section, "Start it with")
    assert [row[2] for row in commands.rows] == [c["text"] for c in raw["launch"]["commands"]]
    dear = copy.deepcopy(plan) | {"usd_per_hour": 2 * plan["usd_per_hour"]}
    found, words = said(
        printed_kinds["plan"], changed(printed_kinds["plan"], tmp_path, "dear.json", plan=dear)
    )
    assert [s.key for s in found] == ["plans", "plan1", "plan2"]
    assert f"plan has the lowest cost ({plan['usd_per_hour']:,.2f} USD/h), 50 % below dear" in words


def test_replay_curve_and_systems(printed_kinds, tmp_path):
    raw = document(printed_kinds["replay"])
    rules = {rule["policy"]: rule["hit_ratio"] for rule in raw["policies"]}
    (section,), words = said(printed_kinds["replay"])
    best = max(("lru", "lfu"), key=lambda rule: rules[rule])
    assert f"{best} finds" in words
    assert f"no rule finds more than {percent(rules['belady'])} (Belady's" in words
    assert f"{100 * (rules['belady'] - rules[best]):.3g} points" in words
    (figure,) = section.figures
    assert figure.name == "hits_by_layer"
    rows = {row[0]: row for row in table(section, "Hits by rule").rows}
    assert rows["lru"][4] == f"{100 * rules['lru']:.2f}"

    raw = document(printed_kinds["replay-curve"])
    (section,), words = said(printed_kinds["replay-curve"])
    lru, belady = (raw["curves"][rule] for rule in ("lru", "belady"))
    at = lru["capacities"].index(8)
    assert f"finds {percent(lru['hit_ratio'][at])} of {lru['accesses']:,} accesses" in words
    assert f"no rule finds more than {percent(belady['hit_ratio'][at])}" in words
    gaps = [b - a for a, b in zip(lru["hit_ratio"], belady["hit_ratio"], strict=True)]
    assert f"leaves most at {lru['capacities'][gaps.index(max(gaps))]} slots" in words
    assert section.figures[0].name == "hit_ratio_curves"

    raw = document(printed_kinds["replay-systems"])
    (section,), words = said(printed_kinds["replay-systems"])
    times = {row["system"]: row["tpot_s"] for row in raw["rows"]}
    fast = min(times, key=lambda name: times[name])
    assert f"{fast} has the lowest TPOT ({times[fast] * 1e3:,.4g} ms)" in words
    assert "assumes" in words
    drawn = section.figures[0].data
    values = [v for v, m in zip(drawn["value"], drawn["metric"], strict=True) if m == "tpot_s"]
    assert values == list(times.values())
    # Tokens of prompts alone have no time per output token: systems are judged by the first.
    for row in raw["rows"]:
        row["tpot_s"] = row["bounds"]["tpot_s"] = None
    (tmp_path / "prompt.json").write_text(json.dumps(raw))
    _, words = said(tmp_path / "prompt.json")
    first = min(raw["rows"], key=lambda row: row["ttft_s"])
    assert f"{first['system']} has the lowest TTFT" in words


def test_statistics(printed_kinds):
    raw = document(printed_kinds["trace-statistics"])
    (section,), words = said(printed_kinds["trace-statistics"])
    overall = raw["overall"]
    assert f"takes {overall['max_over_mean']:.3g} times the mean load" in words
    assert (
        f"of 8 ranks with experts in order the busiest has {overall['rank_max_over_mean']['8']:.3g}" in words
    )
    low, high = raw["interval"]["max_over_mean"]
    assert f"{low:.4g} to {high:.4g} times" in words
    names = [figure.name for figure in section.figures]
    assert names == ["expert_load_map", "imbalance_by_layer", "expert_affinity", "token_reuse"]
    means = [sum(layer) / len(layer) for layer in raw["loads"]]
    shares = [load / mean for layer, mean in zip(raw["loads"], means, strict=True) for load in layer]
    assert section.figures[0].data["share"] == pytest.approx(shares)
    assert section.figures[3].data["lag_tokens"][0] == 1
    assert section.figures[3].data["mean"][0] == pytest.approx(overall["consecutive_overlap"], rel=1e-9)
    found, words = said(printed_kinds["trace-statistics"], printed_kinds["counts"])
    assert [s.key for s in found] == ["traces", "trace1", "trace2"]
    assert "counts is the most skewed" in words
    assert any("load counts have no tokens" in text for text in found[2].missing)


def test_validations(printed_kinds):
    raw = document(printed_kinds["validation-published"])
    _, words = said(printed_kinds["validation-published"])
    assert f"Of {raw['summary']['rows']} published figures" in words
    assert f"{raw['summary']['unsupported']['n']} cannot be predicted" in words
    raw = document(printed_kinds["validation-reference"])
    (section,), words = said(printed_kinds["validation-reference"])
    summary = raw["summary"]
    assert f"{summary['n']} held-out MoE layers on this CPU: {summary['verdict']}" in words
    assert f"{100 * summary['median_abs_error']:.3g} %" in words
    assert f"{100 * summary['floor']['median']:.3g} %" in words
    scatter, errors = section.figures
    assert (scatter.name, errors.name) == ("predicted_against_measured", "signed_errors")
    assert len(table(section, "Layers").rows) == summary["n"]


def test_validation_of_measured_runs(shared, tmp_path, moesim):
    path = shared("silicon/e2e_serving.csv")
    few = tmp_path / "few.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(lines[:31]), encoding="utf-8")
    code, out, _ = moesim("validate", "serving", few, "--json")
    assert code == 0
    raw = json.loads(out)
    (tmp_path / "few.json").write_text(out)
    (section,), words = said(tmp_path / "few.json")
    judged = raw["summary"]["tpot"]["judged"]
    assert f"TPOT of {judged['n']} runs is off by {100 * judged['median']:.3g} % in the median" in words
    assert "were fitted to" in words
    held = raw["summary"]["calibration"]["held_out"]
    medians = [m["tpot"]["median"] for splits in held.values() for m in splits.values()]
    assert f"TPOT is off by {100 * min(medians):.3g} %" in words
    assert f"to {100 * max(medians):.3g} %" in words
    scatter = section.figures[0]
    against = ("doubtful", "inconsistent", "duplicate_of")
    known = [row for row in raw["rows"] if row["tpot_ms"] and row["pred_tpot_ms"]]
    fine = [row for row in known if not any(row[name] for name in against)]
    assert len(scatter.data["measured"]) == len(fine)


def test_benchmark_runs_and_kernels(shared, tmp_path, moesim):
    shutil.copytree(shared("kernels/l40s/gemm"), tmp_path / "tables" / "l40s" / "gemm")
    for name, words in (
        ("runs", ("validate", "serving", shared("vllm-runs/RTXPRO6000/Llama-3.1-8B"))),
        ("kernels", ("validate", "kernels", tmp_path / "tables")),
    ):
        code, out, _ = moesim(*words, "--json")
        assert code == 0
        (tmp_path / f"{name}.json").write_text(out)
    raw = document(tmp_path / "runs.json")
    (section,), words = said(tmp_path / "runs.json")
    assert f"mean TPOT is off by {100 * raw['rows'][0]['errors']['tpot']['mean_error']:+.3g} %" in words
    assert f"{raw['rows'][0]['requests']:,} requests" in words
    raw = document(tmp_path / "kernels.json")
    (section,), words = said(tmp_path / "kernels.json")
    assert f"{raw['summary']['kernels']} kernels, {raw['summary']['n']:,} measurements" in words
    assert len(table(section, "Kernels").rows) == len(raw["rows"])


def test_scoreboard(printed_kinds):
    raw = document(printed_kinds["scoreboard"])
    (section,), words = said(printed_kinds["scoreboard"])
    part = raw["summary"]["headlines"]
    assert f"Of {part['n']} headlines of {raw['summary']['systems']} published systems" in words
    assert f"{part['verdicts']['reproduced']} are reproduced within 15 %" in words
    assert len(table(section, "Rows").rows) == raw["summary"]["n"]
    assert {f.name for f in section.figures} <= {"scoreboard", "ratio_histogram"}


def test_training(printed_kinds, tmp_path):
    raw = document(printed_kinds["training"])
    (section,), words = said(printed_kinds["training"])
    assert f"{raw['tokens_per_s']:,.0f} tokens/s" in words
    assert f"bound by {raw['bound_by']}" in words
    assert section.figures[0].name == "time_breakdown"
    drawn = section.figures[0].data
    assert sum(drawn["seconds"]) == pytest.approx(sum(line["seconds"] for line in raw["breakdown"]))
    slow = changed(printed_kinds["training"], tmp_path, "slow.json", tokens_per_s=raw["tokens_per_s"] / 2)
    _, words = said(printed_kinds["training"], slow)
    assert f"training trains most: {raw['tokens_per_s']:,.0f} tokens/s, 100 % above slow" in words
    raw = document(printed_kinds["training-search"])
    _, words = said(printed_kinds["training-search"])
    assert f"Of {raw['tried']:,} layouts {raw['fitting']:,} fit" in words
    assert f"{max(one['tokens_per_s'] for one in raw['layouts']):,.0f} tokens/s" in words


def test_placements_side_by_side(printed_kinds, tmp_path):
    raw = document(printed_kinds["placement"])
    judged = copy.deepcopy(raw["load_imbalance"])
    judged["plan"]["fitted"]["mean"] = 1.5
    worse = changed(printed_kinds["placement"], tmp_path, "worse.json", load_imbalance=judged)
    found, words = said(printed_kinds["placement"], worse)
    assert [s.key for s in found] == ["placements", "p1", "p2"]
    assert "placement has the most even ranks" in words
    rows = {row[0]: row[1:] for row in table(found[0], "Placements").rows}
    assert rows["imbalance of the plan, mean layer"][1] == "1.5000"


ENDS = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted).map(tuple)


@given(
    a=st.floats(0.1, 10),
    b=st.floats(0.1, 10),
    one=st.none() | ENDS,
    other=st.none() | ENDS,
    less=st.booleans(),
)
def test_standing_says_decided_only_where_intervals_are_apart(a, b, one, other, less):
    text = standing([Contender("x", a, one), Contender("y", b, other)], "TPOT", "{:g}".format, less=less)
    if a == b:
        assert "the same" in text
        return
    assert text.startswith("x" if (a < b) == less else "y")
    if one is None or other is None:
        assert "interval" in text
        assert "overlap" not in text
    else:
        touching = one[0] <= other[1] and other[0] <= one[1]
        assert ("not decided" in text) == touching
        assert ("do not overlap" in text) == (not touching)
        assert compare.overlap(one, other) == compare.overlap(other, one) == touching


def test_one_contender_has_no_standing():
    assert standing([Contender("x", 1.0), Contender("y", None)], "TPOT", str, less=True) == ""


def test_a_report_of_nothing_readable_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match="no document that has a page"):
        read_documents([tmp_path / "a.json"])
