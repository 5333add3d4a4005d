// Throughput against time per token over the load, with pinned scenarios.

import { lineChart } from "./charts.js";
import { slotOf } from "./compare.js";
import { byId, el, redraw, say } from "./dom.js";
import { digits, joined, rate, thousands, time } from "./units.js";

let update = null;
let each = false;
let redo = null;

const loadsOf = (answer) =>
  answer.curve.by === "request_rate" ? answer.curve.request_rate : answer.curve.concurrency;
const load = (answer, n) =>
  answer.curve.by === "request_rate" ? `${digits(n)} requests/s` : `${digits(n, 6)} requests at once`;

/** Points of an answer's curve, in the order of the load; tokens/s of a device where `each` is chosen. */
export function pointsOf(answer, name) {
  const c = answer?.curve;
  if (!c) return [];
  const limit = answer.scenario.ttft_limit_ms;
  const { tp, pp, dp } = answer.scenario;
  const share = each ? 1 / (tp * pp * dp) : 1;
  const reads = (at, y, x, ttft) =>
    [
      `${name}, ${at}: ${joined(rate(y))}${each ? " per device" : ""}`,
      `TPOT ${joined(time(x))}`,
      `TTFT ${joined(time(ttft))}`,
    ].join(", ");
  const out = [];
  c.tpot_s.forEach((_, k) => {
    if (!c.feasible[k] || !(c.tpot_s[k] > 0) || !(c.output_throughput[k] > 0)) return;
    const n = loadsOf(answer)[k];
    const late = limit !== null && c.ttft_s[k] * 1e3 > limit;
    const y = c.output_throughput[k] * share;
    out.push({
      key: n,
      x: c.tpot_s[k],
      y,
      faint: late,
      load: n,
      text: reads(load(answer, n), y, c.tpot_s[k], c.ttft_s[k]) + (late ? ", beyond the TTFT limit" : ""),
    });
  });
  const p = answer.prediction;
  if (p && answer.feasible) {
    const here = c.by === "request_rate" ? p.request_rate : p.concurrency;
    const near = out.findIndex((o) => Math.abs(Math.log(o.load / here)) < 0.02);
    const y = p.output_throughput * share;
    const point = {
      key: here,
      x: p.tpot_s,
      y,
      current: true,
      load: here,
      text: reads(`here, ${load(answer, here)}`, y, p.tpot_s, p.ttft_s),
    };
    if (near >= 0) out[near] = point;
    else out.push(point);
  }
  return out.sort((a, b) => a.key - b.key);
}

/** Draw the curves of the current scenario and the pins; `pick(by, load)` is told a picked point. */
export function drawCurve(state, answers, pick) {
  redo = () => drawCurve(state, answers, pick);
  const limit = state.current.tpot_limit_ms;
  const curves = [
    {
      name: state.pins.length ? "current" : "",
      slot: slotOf(""),
      points: pointsOf(answers.get(""), "current"),
    },
    ...state.pins.map((p) => ({
      name: p.label,
      slot: slotOf(p.label),
      points: pointsOf(answers.get(p.label), p.name || `scenario ${p.label}`),
    })),
  ];
  const count = curves.filter((c) => c.points.length).length;
  const drawn = {
    curves,
    onpick: (point) => pick(answers.get("")?.curve?.by ?? "concurrency", point.load),
    verticals: limit === null ? [] : [{ x: limit / 1e3, text: `TPOT limit ${joined(time(limit / 1e3))}` }],
    xLabel: "time per output token (TPOT), logarithmic",
    yLabel: each ? "output tokens/s per device" : "output tokens/s",
    xFormat: (v) => joined(time(v)),
    yFormat: (v) => joined(thousands(v)),
    text: `Throughput against time per output token, by load (curves: ${count}); the table below has the values`,
  };
  const home = byId("curve");
  if (!update) {
    const holder = el("div", {});
    const box = el("input", {
      type: "checkbox",
      onchange: () => {
        each = box.checked;
        redo();
      },
    });
    redraw(
      home,
      el(
        "div",
        { class: "head" },
        el("h2", { id: "curve-h" }, "Throughput against time per token, by load"),
        el("label", { class: "dim" }, box, "per device"),
      ),
      el("p", { class: "dim", id: "curve-note" }),
      holder,
      el(
        "details",
        {},
        el("summary", {}, "As a table"),
        el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "The curve as a table" },
          el("table", { id: "curve-table" }),
        ),
      ),
    );
    update = lineChart(holder, drawn);
  } else update(drawn);
  const late = state.current.ttft_limit_ms === null ? "" : "; hollow marks are beyond the TTFT limit";
  say(byId("curve-note"), `Each mark is a load, the large one is here${late}. Click a mark to go there.`);
  const c = answers.get("")?.curve;
  if (!c) return;
  redraw(
    byId("curve-table"),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        [c.by === "request_rate" ? "requests/s" : "requests at once", "tokens/s", "TPOT", "TTFT"].map((t) =>
          el("th", { scope: "col", class: "n" }, t),
        ),
      ),
    ),
    el(
      "tbody",
      {},
      loadsOf(answers.get("")).map((n, k) =>
        el(
          "tr",
          {},
          el("th", { scope: "row", class: "n" }, digits(n)),
          c.feasible[k]
            ? [digits(c.output_throughput[k]), joined(time(c.tpot_s[k])), joined(time(c.ttft_s[k]))].map(
                (t) => el("td", { class: "n" }, t),
              )
            : el("td", { colspan: 3, class: "dim" }, "not possible"),
        ),
      ),
    ),
  );
}
