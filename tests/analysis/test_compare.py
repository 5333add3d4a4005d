"""Comparison of loads: closed forms, properties, an independent library, published likenesses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from check_traces import SHAPE, clean, clean_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial import distance

from moesim.analysis import compare_phases, compare_traces
from moesim.analysis.compare import deal, jensen_shannon, ranks_of, spearman, top_overlap
from moesim.errors import ConfigError, TraceError
from moesim.files import data_dir
from moesim.model import load_model
from moesim.trace import DECODE, PREFILL, LoadCounts, load_trace, write_trace

TOKENS = data_dir("traces") / "gpt-oss-20b-synthetic.npz"
MEASURES = ("cosine", "total_variation", "jensen_shannon", "spearman", "top_overlap", "noise")


def loads(rows, **fields):
    counts = np.asarray(rows, float)
    return LoadCounts(counts[None], fields.get("layers", tuple(range(len(counts)))), 2)


matrices = hnp.arrays(np.float64, (3, 12), elements=st.integers(0, 50)).filter(lambda a: a.any(axis=1).all())


def test_the_same_is_the_same():
    c = compare_traces(clean_counts(), clean_counts(), ranks=[4, 8])
    for name, value in (("cosine", 1), ("total_variation", 0), ("jensen_shannon", 0), ("spearman", 1)):
        np.testing.assert_allclose(getattr(c, name), value, atol=1e-12)
    np.testing.assert_array_equal(c.top_overlap, 1)
    for transfer in c.transfers:
        np.testing.assert_array_equal(transfer.dealt_on_a, transfer.dealt_on_b)
        np.testing.assert_array_equal(transfer.dealt_on_a, transfer.dealt_for_b)


def test_disjoint_loads():
    c = compare_traces(loads([[3, 1, 0, 0]]), loads([[0, 0, 5, 5]]))
    assert (c.cosine[0], c.total_variation[0], c.jensen_shannon[0], c.top_overlap[0]) == (0, 1, 1, 0)


@settings(max_examples=60, deadline=None)
@given(matrices, matrices)
def test_measures_agree_with_scipy(a, b):
    c = compare_traces(loads(a), loads(b))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        p, q = x / x.sum(), y / y.sum()
        assert c.cosine[i] == pytest.approx(1 - distance.cosine(p, q), abs=1e-12)
        assert c.total_variation[i] == pytest.approx(distance.cityblock(p, q) / 2, abs=1e-12)
        assert c.jensen_shannon[i] == pytest.approx(distance.jensenshannon(p, q, base=2) ** 2, abs=1e-9)
        if len(set(p)) > 1 and len(set(q)) > 1:
            assert c.spearman[i] == pytest.approx(stats.spearmanr(p, q).statistic, abs=1e-12)
        else:
            assert np.isnan(c.spearman[i])
    np.testing.assert_array_equal(ranks_of(a), stats.rankdata(a, axis=1))


@settings(max_examples=40, deadline=None)
@given(matrices, matrices, st.permutations(range(12)), st.integers(1, 9))
def test_order_of_traces_names_of_experts_and_scale_do_not_matter(a, b, names, scale):
    one, other = compare_traces(loads(a), loads(b)), compare_traces(loads(b), loads(a))
    renamed = compare_traces(loads(a[:, names] * scale), loads(b[:, names]))
    for name in ("cosine", "total_variation", "jensen_shannon", "spearman"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12)
        np.testing.assert_allclose(getattr(one, name), getattr(renamed, name), atol=1e-12)
    np.testing.assert_allclose(one.top_overlap, other.top_overlap)
    tv = one.total_variation
    # Lin 1991: the divergence is at most the variation; Pinsker's inequality bounds it from below.
    assert (one.jensen_shannon <= tv + 1e-12).all()
    assert (one.jensen_shannon >= tv**2 / (2 * np.log(2)) - 1e-12).all()


def test_the_hottest_tenth():
    p = np.arange(20.0)[None]
    q = p.copy()
    q[0, [19, 0]] = q[0, [0, 19]]
    assert top_overlap(p, q)[0] == 0.5  # 18 and 19 against 0 and 18
    assert top_overlap(p, p)[0] == 1
    assert top_overlap(np.ones((1, 3)), np.array([[0.0, 1, 2]]))[0] == 0  # one at least: expert 0, expert 2


def test_noise_is_the_variation_of_two_samples_of_one_traffic():
    """Independent draws of the same shares, over many layers."""
    rng = np.random.default_rng(3)
    share = rng.dirichlet(np.full(64, 2.0), size=400)
    a = np.array([rng.multinomial(2_000, p) for p in share])
    b = np.array([rng.multinomial(5_000, p) for p in share])
    c = compare_traces(loads(a), loads(b))
    assert c.total_variation.mean() == pytest.approx(c.noise.mean(), rel=0.02)


def test_two_halves_of_a_trace_are_alike_and_two_traces_are_not():
    trace = clean(requests=100)
    even = trace.request % 2 == 0
    halves = [
        replace(
            trace,
            topk_ids=trace.topk_ids[k],
            request=trace.request[k],
            position=trace.position[k],
            phase=trace.phase[k],
        )
        for k in (even, ~even)
    ]
    same = compare_traces(*halves)
    other = compare_traces(halves[0], clean(seed=9, requests=100))
    assert same.total_variation.mean() < 1.3 * same.noise.mean()
    assert other.total_variation.mean() > 4 * other.noise.mean()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (2, 12), elements=st.integers(1, 50)), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_dealing_gives_every_expert_a_place_and_every_rank_as_many(a, ranks):
    plan = deal(a, ranks)
    assert (plan.replica_counts == 1).all()
    assert plan.slots_per_rank == 12 // ranks
    # Each rank gets one expert of every round, so no two ranks differ by more than the hottest expert.
    rank_loads = plan.rank_loads(a)
    assert (np.ptp(rank_loads, axis=1) <= a.max(axis=1) + 1e-9).all()


def test_a_placement_is_judged_on_the_other_trace():
    a, b = loads([[8, 4, 2, 1]]), loads([[1, 2, 4, 8]])
    (t,) = compare_traces(a, b, ranks=[2]).transfers
    assert (t.contiguous[0], t.dealt_on_a[0], t.dealt_on_b[0], t.dealt_for_b[0]) == (
        12 / 7.5,
        9 / 7.5,
        9 / 7.5,
        9 / 7.5,
    )
    (t,) = compare_traces(loads([[8, 4, 1, 1]]), loads([[9, 1, 1, 9]]), ranks=[2]).transfers
    assert (t.dealt_on_a[0], t.dealt_on_b[0], t.dealt_for_b[0]) == (9 / 7, 18 / 10, 10 / 10)


def test_layers_are_matched_by_id():
    a = clean_counts()
    b = replace(a, counts=a.counts[:, 2:5], moe_layer_ids=(4, 5, 6))
    c = compare_traces(a, b)
    assert (c.layer_ids, c.left_out) == ((4, 5, 6), (2, 3, 7))
    np.testing.assert_allclose(c.total_variation, 0)


def test_layers_without_load_are_left_out():
    a = clean_counts()
    counts = a.counts.copy()
    counts[:, 1] = 0
    c = compare_traces(a, replace(a, counts=counts))
    assert (c.left_out, len(c.layer_ids)) == ((3,), 5)


def test_what_cannot_be_compared():
    with pytest.raises(TraceError, match="first trace has 4 experts per layer, the second 6"):
        compare_traces(loads([[1, 2, 3, 4]]), loads([[1] * 6]))
    with pytest.raises(TraceError, match="no loaded layer in common"):
        compare_traces(loads([[1, 2]]), loads([[1, 2]], layers=(5,)))
    with pytest.raises(ConfigError, match="divisor of 2"):
        compare_traces(loads([[1, 2]]), loads([[1, 2]]), ranks=[3])
    with pytest.raises(TraceError, match="load counts do not tell"):
        compare_phases(loads([[1, 2]]))
    one = replace(clean(), phase=np.full(800, PREFILL, np.int8))
    with pytest.raises(TraceError, match="no decode tokens"):
        compare_phases(one)


def test_phases_of_one_trace():
    trace = clean()
    c = compare_phases(trace, ranks=[4])
    parts = [(trace.topk_ids[trace.phase == p] == 5).sum() for p in (PREFILL, DECODE)]
    assert sum(parts) == (trace.topk_ids == 5).sum()
    assert c.selections == (200 * 4, 600 * 4)
    assert c.layer_ids == SHAPE.moe_layer_ids


def test_small_pieces():
    assert jensen_shannon(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]]))[0] == 0
    assert np.isnan(spearman(np.ones((1, 3)), np.arange(3.0)[None])[0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # Prefill and decode of one workload, and of different ones.
        (
            "decode_in1800out100",
            "prefill_in1800out100",
            {"cosine": 0.95, "total_variation": 0.11, "spearman": 0.88, "top_overlap": 0.75},
        ),
        ("decode_in1000out1000", "prefill_in1000out1000", {"cosine": 0.87, "total_variation": 0.19}),
    ],
)
def test_prefill_and_decode_of_deepseek_v3(shared, a, b, expected):
    """The likenesses that were computed independently from the same public counts, to their rounding."""
    model = load_model("deepseek-v3")
    c = compare_traces(
        *(load_trace(shared(f"traces/deepseek-v3-counts/{n}.json"), shape=model) for n in (a, b))
    )
    assert len(c.layer_ids) == 58
    for name, value in expected.items():
        assert getattr(c, name).mean() == pytest.approx(value, abs=0.006), name


def test_tasks_of_esft_are_unlike(shared):
    """Published range over task pairs: cosine .59 to .73, variation .29 to .44."""
    model = load_model("deepseek-v2-lite")
    c = compare_traces(
        *(
            load_trace(shared(f"traces/esft-deepseek-v2-lite/{n}.npz"), shape=model)
            for n in ("intent", "summary")
        )
    )
    assert 0.59 <= c.cosine.mean() <= 0.73
    assert 0.29 <= c.total_variation.mean() <= 0.44
    assert c.total_variation.mean() > 10 * c.noise.mean()


def test_families_of_gpt_oss_benchmarks(shared):
    """Within a family .98 to .998; MMLU against GPQA .76 to .87 (here .75 to .81: a subset of the traces)."""
    folder = shared("traces/gpt-oss-20b")
    trace = load_trace(folder / "decode.npz", shape=load_model("gpt-oss-20b"))
    named = {int(k): v["dataset"] for k, v in json.loads((folder / "requests.json").read_text()).items()}

    def part(dataset):
        keep = np.isin(trace.request, [k for k, v in named.items() if v == dataset])
        return replace(
            trace,
            topk_ids=trace.topk_ids[keep],
            request=trace.request[keep],
            position=trace.position[keep],
            phase=trace.phase[keep],
        )

    mmlu, mmlu_too, gpqa = part("mmlu_test"), part("mmlu_validation"), part("gpqa_diamond")
    assert 0.98 <= compare_traces(mmlu, mmlu_too).cosine.mean() <= 1
    assert 0.75 <= compare_traces(mmlu, gpqa).cosine.mean() <= 0.87


def test_command_json(moesim, tmp_path):
    write_trace(clean(), tmp_path / "a.npz")
    write_trace(clean(1), tmp_path / "b.parquet")
    code, out, _ = moesim("trace", "compare", tmp_path / "a.npz", tmp_path / "b.parquet", "--ep", 8, "--json")
    document = json.loads(out)
    expected = compare_traces(clean(), clean(1), ranks=[8])
    assert code == 0
    for name in MEASURES:
        assert document["overall"][name]["mean"] == pytest.approx(getattr(expected, name).mean())
    assert [layer["layer_id"] for layer in document["layers"]] == list(SHAPE.moe_layer_ids)
    assert document["load_imbalance"][0]["ep"] == 8
    assert document["load_imbalance"][0]["dealt_on_b"]["max"] == pytest.approx(
        expected.transfers[0].dealt_on_b.max()
    )
    assert len(document["provenance"]["inputs"]) == 2


def test_command_text(moesim):
    code, out, err = moesim("trace", "compare", TOKENS, "--by-phase", "--ep", 8)
    assert (code, err) == (0, "")
    assert "(prefill)" in out
    assert "rank load at EP 8" in out


def test_command_refusals(moesim, tmp_path):
    code, _, err = moesim("trace", "compare", TOKENS)
    assert (code, "name two traces" in err) == (2, True)
    code, _, err = moesim("trace", "compare", TOKENS, TOKENS, "--by-phase")
    assert code == 2
    code, _, err = moesim("trace", "compare", tmp_path / "x", tmp_path / "y")
    assert (code, err.count("no such file")) == (2, 2)
    code, _, err = moesim("trace", "compare", TOKENS, data_dir("traces") / "deepseek-v3-synthetic.json")
    assert (code, "256" in err) == (2, True)
