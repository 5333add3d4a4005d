"""The page's pure modules, run where they run: state, layouts, links, numbers, comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

CATALOGUE = (Path(__file__).parent / "catalogue.js").read_text()
MODULES = ("state", "layout", "permalink", "slider", "metrics", "units")


@pytest.fixture(scope="module")
def blank(chromium, address):
    """A page of the server's without anything running on it, from which modules may be imported."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}static/icon.svg")
    yield page
    context.close()


@pytest.fixture
def run(blank):
    """Run a function body with the modules and a small catalogue; `given` is passed on."""
    names = ", ".join(MODULES)
    loads = ", ".join(f"import('/static/{name}.js')" for name in MODULES)

    def call(body, given=None):
        return blank.evaluate(
            f"""async (given) => {{
              const [{names}] = await Promise.all([{loads}]);
              const catalogue = {CATALOGUE};
              const start = state.initial(catalogue);
              {body}
            }}""",
            given,
        )

    return call


def test_a_link_holds_the_whole_state_and_gives_it_back(run):
    found = run(
        """
        const changes = {input_len: 3000, ttft_limit_ms: 250, backend: "sglang", trace: "t"};
        let s = state.changed(start, changes, catalogue);
        s = state.pinned(s, "one ~ & = # % é <b>");
        s = state.changed(s, {tp: 4, request_rate: 2.5}, catalogue);
        s = state.pinned(s);
        const back = permalink.decode("#" + permalink.encode(s), catalogue);
        return [s, back.state, back.problems];
        """
    )
    assert found[0] == found[1]
    assert found[2] == []
    assert found[1]["pins"][0]["name"] == "one ~ & = # % é <b>"
    assert [pin["label"] for pin in found[1]["pins"]] == ["A", "B"]


@pytest.mark.parametrize(
    "junk",
    [
        "", "#", "#answer", "%%%", "model=<script>&tp=-1&dp=1e99", "pin=", "pin=A~x", "pin=Z~~model=moe",
        "__proto__=1&constructor=2", "tp=NaN&ep=Infinity&input_len=0x10", "model=moe&model=dense",
        "pin=A~%25E0%25A4%25A~model%3Dmoe", "a" * 30_000, "&".join(["pin=A~~tp%3D1"] * 50),
        "trace=../../etc/passwd", "request_rate=-3", "nodes=1.5", "concurrency=",
    ],
)  # fmt: skip
def test_no_link_breaks_the_state(run, junk):
    found, problems, fits = run(
        """
        const {state: s, problems} = permalink.decode(given, catalogue);
        const all = [s.current, ...s.pins.map((p) => p.scenario)];
        return [s, problems, all.every((one) => layout.lies(one, catalogue))];
        """,
        junk,
    )
    assert fits
    assert set(found["current"]) == set(run("return start.current"))
    assert found["current"]["model"] in {"moe", "dense"}
    assert len(found["pins"]) <= 1
    understood = {"", "#", "#answer", "pin=A~%25E0%25A4%25A~model%3Dmoe"}
    assert bool(problems) == (junk not in understood)
    assert len(problems) <= 12


def test_what_a_link_leaves_out_fits_what_it_says(run):
    """A link may name a model alone: the trace, spares and nodes of the start need not fit it."""
    found = run(
        """
        const scenario = {...catalogue.defaults.scenario, trace: "t", redundant: 8};
        const traced = {...catalogue, defaults: {scenario}};
        const links = ["model=dense", "hardware=one", "model=dense&trace=t&redundant=5"];
        return links.map((link) => permalink.decode(link, traced));
        """
    )
    dense, small, both = (one["state"]["current"] for one in found)
    assert (dense["trace"], dense["redundant"], dense["ep"]) == (None, 0, 1)
    assert (small["nodes"], small["tp"] * small["pp"] * small["dp"]) == (1, 1)
    assert both["trace"] is None
    assert "trace: t is not of dense" in found[2]["problems"]


def test_what_cannot_be_laid_out_in_a_link_is_said_and_replaced(run):
    found = run("return permalink.decode('tp=3&dp=5&ep=7', catalogue)")
    assert found["state"]["current"] | {"tp": 0} != found["state"]["current"]
    assert "cannot be laid out" in " ".join(found["problems"])


@pytest.mark.parametrize("nodes", [1, 2, 16])
@pytest.mark.parametrize(
    "changes", [{"tp": 8}, {"tp": 2}, {"pp": 2}, {"dp": 4}, {"ep": 1}, {"redundant": 8}, {"model": "dense"}]
)
def test_a_change_keeps_a_layout_that_can_be_laid_out(run, nodes, changes):
    after, lies, devices = run(
        """
        const larger = state.changed(start, {nodes: given[0]}, catalogue);
        const s = state.changed(larger, given[1], catalogue).current;
        return [s, layout.lies(s, catalogue), layout.devicesOf(s, catalogue)];
        """,
        [nodes, changes],
    )
    assert lies
    # 128 shards of an expert of width 2880 would not be equal.
    if (nodes, changes) != (16, {"ep": 1}):
        assert {name: after[name] for name in changes} == changes
    if "dp" not in changes:
        assert after["tp"] * after["pp"] * after["dp"] == devices


def test_a_trace_leaves_with_its_model_and_nodes_stay_within_the_machine(run):
    found = run(
        """
        const traced = state.changed(start, {trace: "t", nodes: 16}, catalogue);
        return [traced.current, state.changed(traced, {model: "dense"}, catalogue).current,
                state.changed(traced, {hardware: "one"}, catalogue).current];
        """
    )
    assert found[0]["trace"] == "t"
    assert found[1]["trace"] is None
    assert (found[2]["nodes"], found[2]["tp"] * found[2]["pp"] * found[2]["dp"]) == (1, 1)


def test_pins_take_the_first_free_letter_and_six_are_most(run):
    found = run(
        """
        let s = start;
        for (let k = 0; k < 8; k++) s = state.pinned(s);
        const full = s.pins.map((p) => p.label);
        s = state.pinned(state.unpinned(s, "C"), "again");
        const again = s.pins.find((p) => p.label === "C").name;
        return [full, s.pins.map((p) => p.label), again, state.pinned(s) === s];
        """
    )
    assert found == [list("ABCDEF"), list("ABCDEF"), "again", True]


@pytest.mark.parametrize("devices", [5, 7, 25, 48, 384])
@pytest.mark.parametrize("model", ["moe", "dense"])
def test_a_layout_is_found_on_any_number_of_devices(run, devices, model):
    after, lies = run(
        """
        catalogue.hardware.push({name: "odd", devices_per_node: given[0], max_nodes: 1});
        const s = state.changed(start, {hardware: "odd", model: given[1]}, catalogue).current;
        return [s, layout.lies(s, catalogue)];
        """,
        [devices, model],
    )
    assert lies
    assert after["tp"] * after["pp"] * after["dp"] > devices / 2


def test_presets_are_those_that_can_be_laid_out(run):
    found = run(
        "return [start.current, {...start.current, nodes: 2}].map((s) => layout.presets(s, catalogue))"
    )
    for devices, rows in zip((8, 16), found, strict=True):
        assert rows
        for row in rows:
            at = row["layout"]
            assert at["tp"] * at["pp"] * at["dp"] == devices
            assert 2880 % (at["tp"] * at["dp"] // at["ep"]) == 0
    assert len({tuple(row["layout"].values()) for row in found[1]}) == len(found[1])


def test_a_slider_reaches_its_ends_and_steps_never_stand_still(run):
    found = run(
        """
        const range = {min: 1, max: 1000000, step: 1, scale: "log"};
        const [ups, downs] = [[range.min], [range.max]];
        while (ups.at(-1) < range.max) ups.push(slider.stepped(ups.at(-1), true, range));
        while (downs.at(-1) > range.min) downs.push(slider.stepped(downs.at(-1), false, range));
        const places = Array.from({length: 1001}, (_, k) => slider.valueAt(k / 1000, range));
        return {ups, downs, places, back: slider.valueAt(slider.position(4096, range), range)};
        """
    )
    assert found["ups"][:6] == [1, 2, 3, 4, 6, 8]
    assert all(a < b for a, b in zip(found["ups"], found["ups"][1:], strict=False))
    assert all(a > b for a, b in zip(found["downs"], found["downs"][1:], strict=False))
    assert (found["places"][0], found["places"][-1]) == (1, 1_000_000)
    assert all(a <= b for a, b in zip(found["places"], found["places"][1:], strict=False))
    assert found["back"] == 4096


@pytest.mark.parametrize(
    ("one", "other", "decided", "better", "text"),
    [
        ((1.0, [0.9, 1.1]), (2.0, [1.8, 2.2]), True, True, "50 % shorter"),
        ((1.0, [0.5, 2.5]), (2.0, [1.8, 2.2]), False, True, "50 % shorter"),
        ((3.0, [2.9, 3.1]), (1.0, [0.9, 1.1]), True, False, "3 \u00d7 as long"),
        ((300.0, None), (2.0, None), False, False, "150 \u00d7 as long"),
        ((1.0, None), (1.0, None), True, False, "equal"),
    ],
)
def test_what_two_values_say_is_decided_only_where_intervals_part(run, one, other, decided, better, text):
    found = run(
        """
        const of = ([value, interval]) => ({key: "ttft", lower: true, value, interval});
        return metrics.compared(of(given[0]), of(given[1]));
        """,
        [one, other],
    )
    assert found == {"better": better, "decided": decided, "text": text}


def test_the_cost_of_an_interval_is_turned_around(run):
    rows = run(
        """
        const prediction = {
          ttft_s: 1, tpot_s: 0.1, output_throughput: 100, output_throughput_per_device: 50, devices: 2,
          bounds: {output_throughput: 400},
          interval: {output_throughput: [50, 200], output_throughput_per_device: [25, 100]},
        };
        const answer = {prediction, scenario: start.current, usd_per_million_output_tokens: 8, meets: {}};
        return metrics.metricsOf(answer);
        """
    )
    cost = next(row for row in rows if row["key"] == "cost")
    assert cost["interval"] == pytest.approx([4, 16])
    assert cost["bound"] == pytest.approx(2)
    assert next(row for row in rows if row["key"] == "device")["bound"] == 200


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("units.time(0.0123)", "12.3 ms"), ("units.time(0.9999)", "1,000 ms"), ("units.time(7.05)", "7.05 s"),
        ("units.time(2e-6)", "2 \u00b5s"), ("units.rate(13538)", "13.5 k tokens/s"),
        ("units.rate(2e6)", "2 M tokens/s"), ("units.money(2.6)", "2.60 USD"),
        ("units.bytes(141e9)", "141 GB"),
        ("units.time(null)", "\u2013"), ("units.rate(NaN)", "\u2013"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_and_their_unit(run, call, text):
    assert run(f"return units.joined({call})").replace("\u00a0", " ") == text
