"""Plans: the front is what nothing beats, effects come in order, loads are those asked."""

import numpy as np
import pytest
from drawing import EVIL, curve, drawn, sound, texts

from moesim.errors import ConfigError
from moesim.reporting.figures import (
    Effect,
    LoadPoint,
    PlanPoint,
    load_curve,
    pareto_front,
    sensitivity_tornado,
)

RNG = np.random.default_rng(5)


def points(n, y="tpot_s"):
    status = ("confirmed", "refuted", "")
    return [
        PlanPoint(f"plan {i}", {"usd_per_hour": a, y: b}, status[i % 3], f"gpu {i % 2}", chosen=i == 3)
        for i, (a, b) in enumerate(RNG.integers(1, 12, (n, 2)).tolist())
    ]


@pytest.mark.parametrize(("y", "less"), [("tpot_s", True), ("output_throughput", False)])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_front_is_what_nothing_that_holds_beats(y, less, n):
    given = points(n, y)
    figure = pareto_front(given, y=y)
    sound(figure)
    values = [(p.values["usd_per_hour"], p.values[y] * (1 if less else -1)) for p in given]
    holds = [p.status != "refuted" for p in given]

    def beaten(i):
        return any(
            holds[j]
            and values[j][0] <= values[i][0]
            and values[j][1] <= values[i][1]
            and (values[j] != values[i] or j < i)
            for j in range(n)
            if j != i
        )

    wanted = [holds[i] and not beaten(i) for i in range(n)]
    assert figure.data["on_front"] == wanted
    assert f"{sum(wanted)} of {n}" in figure.alt
    line = max(drawn(figure).axes[0].lines, key=lambda line: line.get_drawstyle().startswith("steps"))
    assert len(line.get_xdata()) == sum(wanted)


def test_points_say_what_they_are_without_colour():
    figure = pareto_front(points(12), limit=8.0)
    canvas = drawn(figure)
    looks = {
        (line.get_marker(), line.get_markerfacecolor() == "none")
        for line in canvas.axes[0].lines
        if len(line.get_xdata()) and line.get_linestyle() == "None"
    }
    # Two groups: circles and squares; filled, hollow, and with a cross over them; the ring of the chosen.
    assert looks == {("o", False), ("o", True), ("s", False), ("s", True), ("x", True)}
    names = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert {"simulation agrees", "simulation does not agree", "not simulated", "chosen", "gpu 0"} <= set(
        names
    )
    assert any(text.startswith("limit") for text in texts(canvas))


def test_points_without_both_values_are_left_out_and_said():
    given = [
        *points(4),
        PlanPoint("no price", {"usd_per_hour": None, "tpot_s": 1.0}),
        PlanPoint(EVIL, {"usd_per_hour": 1.0, "tpot_s": float("nan")}),
        PlanPoint(EVIL, {"usd_per_hour": 1.0, "tpot_s": 0.5}, group=EVIL),
    ]
    figure = pareto_front(given)
    sound(figure)
    assert "without both values: 2" in figure.caption
    assert len(figure.data["name"]) == 5


def test_a_front_of_nothing_and_unknown_words_are_refused():
    with pytest.raises(ConfigError):
        pareto_front([])
    with pytest.raises(ConfigError) as raised:
        pareto_front([PlanPoint("a", {}, "maybe"), PlanPoint("b", {}, "perhaps")])
    assert len(raised.value.faults) == 3


def test_effects_come_in_order_of_what_they_change():
    effects = [
        Effect("little", 9.9, 10.1, "-10 %", "+10 %"),
        Effect("one-sided", None, 7.0, "", "+10 %"),
        Effect("both ways", 12.0, 9.0, "half", "twice"),
        Effect("same side", 11.0, 10.5),
        Effect(EVIL, 10.0, 10.0),
    ]
    figure = sensitivity_tornado(effects, "ttft_s", 10.0, seed=2)
    sound(figure, "seed 2", "5 inputs")
    order = ["one-sided", "both ways", "same side", "little", EVIL]
    # 3 s each: the name decides.
    assert figure.data["input"] == ["both ways", "one-sided", *order[2:]]
    canvas = drawn(figure)
    bars = canvas.axes[0].patches
    assert len(bars) == 9
    first = bars[0]
    assert (first.get_x(), first.get_width()) == (10_000, 2000)
    assert {bar.get_hatch() or "" for bar in bars} == {"", "////"}
    assert {"half", "twice"} <= set(texts(canvas))
    assert "both ways tells most: half gives 12,000 ms, twice gives 9,000 ms" in figure.caption


def test_only_the_most_telling_of_many_are_drawn():
    effects = [Effect(f"input {i:02}", 1.0 - i / 100, 1.0 + i / 100) for i in range(30)]
    figure = sensitivity_tornado(effects, "usd_per_hour", 1.0)
    assert len(drawn(figure).axes[0].get_yticks()) == 20
    assert "10 inputs, each of which changes it by 0.18 USD/h at most" in figure.caption
    assert len(figure.data["input"]) == 30


def test_effects_without_an_end_are_refused():
    for wrong in ([], [Effect("a", None, None)], [Effect("a", 1.0, 2.0), Effect("b", float("nan"), None)]):
        with pytest.raises(ConfigError):
            sensitivity_tornado(wrong, "tpot_s", 1.0)


def test_loads_are_drawn_in_order_and_the_best_within_the_limit_is_said():
    loads = [LoadPoint(c, 0.01 + c * 1e-4, c / (0.01 + c * 1e-4)) for c in (256, 64, 16, 1024)]
    curves = {"a": [*loads, LoadPoint(4096, None, None)], "b": loads[:2], EVIL: loads[:1]}
    figure = load_curve(curves, limit_s=0.04)
    sound(figure, "7 loads of 3 deployments")
    x, y = curve(drawn(figure), "a")
    assert x.tolist() == pytest.approx([11.6, 16.4, 35.6, 112.4])
    assert y.tolist() == pytest.approx([c / (0.01 + c * 1e-4) for c in (16, 64, 256, 1024)])
    assert "a 7,191 tokens/s at 256 requests (35.6 ms)" in figure.caption
    assert "1 load that does not fit" in figure.caption
    assert "64" in texts(drawn(figure))


def test_loads_that_all_fail_are_refused():
    for wrong in ({}, {"a": []}, {"a": [LoadPoint(1, None, None)]}):
        with pytest.raises(ConfigError):
            load_curve(wrong)


def test_thousands_of_plans_of_many_machines_stay_small():
    given = [
        PlanPoint(f"plan {i}", {"usd_per_hour": float(x), "tpot_s": float(y)}, group=f"gpu {i % 50}")
        for i, (x, y) in enumerate(RNG.lognormal(0, 1, (5000, 2)))
    ]
    figure = pareto_front(given)
    assert len(figure.svg()) < 250_000
    names = [text.get_text() for text in drawn(figure).legends[0].get_texts()]
    assert "43 others" in names
    assert len(figure.data["name"]) == 5000


def test_a_limit_far_from_all_points_does_not_press_them_together():
    given = [PlanPoint(str(i), {"usd_per_hour": 10.0 + i, "ttft_s": 0.05 + 0.01 * i}) for i in range(5)]
    without, near, above, below = (
        drawn(pareto_front(given, y="ttft_s", limit=limit)) for limit in (None, 0.1, 2.0, 0.001)
    )
    assert above.axes[0].get_ylim() == below.axes[0].get_ylim() == without.axes[0].get_ylim()
    assert near.axes[0].get_ylim()[1] > 100
    assert "limit 100 ms" in texts(near)
    assert "limit 2,000 ms \N{UPWARDS ARROW}" in texts(above)
    assert "limit 1 ms \N{DOWNWARDS ARROW}" in texts(below)
    wide = [PlanPoint(str(i), {"usd_per_hour": 10.0 * 3**i, "ttft_s": 0.05 + 0.01 * i}) for i in range(3)]
    axes = drawn(pareto_front(wide, y="ttft_s")).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
