// The answer at a glance: verdict, metrics, what limits, memory, warnings.

import { decades, intervalBar } from "./charts.js";
import { byId, el, redraw, say } from "./dom.js";
import { layoutText } from "./layout.js";
import { drawLimits, drawMemory } from "./parts.js";
import { bare, judged, metricsOf, resourcesOf, shown, span } from "./metrics.js";
import { digits, joined, percent, time } from "./units.js";

const MARK = { true: "✓", false: "✗" };

/** One sentence on what is asked. */
export function question(scenario, catalogue) {
  const machine = catalogue.hardware.find((h) => h.name === scenario.hardware);
  const devices = scenario.tp * scenario.pp * scenario.dp;
  const load =
    scenario.request_rate === null
      ? `${digits(scenario.concurrency, 6)} requests at once`
      : `${digits(scenario.request_rate)} requests/s`;
  const trace = catalogue.traces.find((t) => t.id === scenario.trace);
  const model = catalogue.models.find((m) => m.name === scenario.model);
  const routing = trace
    ? `; routing of ${trace.name}`
    : model?.moe
      ? `; routing assumed (${scenario.routing})`
      : "";
  const where = `${devices} × ${machine?.name ?? scenario.hardware} (${layoutText(scenario)})`;
  const lengths = `${digits(scenario.input_len, 6)} tokens in, ${digits(scenario.output_len, 6)} out`;
  return `${scenario.model} on ${where}, ${load}, ${lengths}${routing}`;
}

/** The answer in a sentence. */
export function sentence(answer) {
  if (!answer.feasible)
    return answer.shortage?.resource === "request rate" ? "It does not keep up." : "It does not fit.";
  const p = answer.prediction;
  const most = resourcesOf(p)[0];
  const pace = `The first token after ${joined(time(p.ttft_s))}, then one every ${joined(time(p.tpot_s))}`;
  const part = most?.share > 0.5 ? "Most" : "The largest part";
  const where = most ? ` ${part} of a token's time goes to ${most.label} (${percent(most.share)}).` : "";
  return `${pace}; ${digits(p.output_throughput)} tokens/s.${where}`;
}

const badge = (name, verdict) =>
  el(
    "li",
    { class: `badge ${verdict.met ? "good" : "bad"} ${verdict.sure ? "" : "likely"}` },
    el("span", { class: "mark", "aria-hidden": "true" }, MARK[verdict.met]),
    el("strong", {}, `${name} limit `),
    verdict.text,
  );

/** What is said aloud when the slider rests. */
export function spoken(answer) {
  const verdicts = metricsOf(answer)
    .map((m) => [m, judged(m)])
    .filter(([, v]) => v);
  return [sentence(answer), answer.reason, ...verdicts.map(([m, v]) => `${m.label} limit ${v.text}.`)]
    .filter(Boolean)
    .join(" ");
}

/** Draw an answer. `take` is told changes that a suggestion asks for. */
export function drawAnswer(answer, catalogue, take) {
  document.title = `${answer.scenario.model} on ${answer.scenario.hardware}: moesim, what if?`;
  const metrics = metricsOf(answer);
  drawVerdict(answer, metrics, catalogue, take);
  redraw(
    byId("metrics"),
    metrics.map((m) => card(m)),
    key(metrics.some((m) => m.limit !== null)),
  );
  redraw(
    byId("strip"),
    metrics
      .slice(0, 3)
      .map((m) =>
        el(
          "span",
          {},
          el("small", {}, m.key === "throughput" ? "tokens/s" : m.label),
          " ",
          el("b", {}, m.key === "throughput" ? bare(m, m.value) : shown(m)),
        ),
      ),
  );
  drawLimits(answer);
  drawMemory(answer);
  drawWarnings(answer);
}

function drawVerdict(answer, metrics, catalogue, take) {
  const verdicts = metrics.map((m) => [m.label, judged(m)]).filter(([, v]) => v);
  byId("verdict").classList.toggle("impossible", !answer.feasible);
  redraw(
    byId("verdict"),
    el("p", { class: "asked" }, question(answer.scenario, catalogue)),
    el("h2", { class: "lead" }, sentence(answer)),
    answer.reason && el("p", { class: "reason" }, answer.reason),
    verdicts.length > 0 &&
      el(
        "ul",
        { class: "badges" },
        verdicts.map(([name, v]) => badge(name, v)),
      ),
    offers(answer.suggestions, take),
  );
}

/** What may be changed to make it possible, as the server says. */
const offers = (suggestions, take) =>
  suggestions?.length > 0 &&
  el(
    "div",
    { class: "offers", role: "group", "aria-label": "What is possible" },
    el("span", { class: "dim" }, "Instead:"),
    suggestions.map(({ change, message }, k) =>
      el(
        "button",
        { type: "button", class: "chip", "data-key": `offer-${k}`, onclick: () => take(change) },
        message,
      ),
    ),
  );

/** What the marks of the bars mean. */
const key = (limited) =>
  el(
    "p",
    { class: "key" },
    Object.entries({
      value: "predicted",
      interval: "90 % interval",
      bound: "bound: no schedule beats it",
      ...(limited && { limit: "limit" }),
    }).map(([kind, text]) => {
      const domain = [1, 100];
      return el(
        "span",
        {},
        intervalBar({
          value: null,
          interval: null,
          bound: null,
          limit: null,
          [kind]: kind === "interval" ? [4, 25] : 10,
          domain,
          small: true,
          axis: false,
          text: "",
        }),
        text,
      );
    }),
  );

function card(m) {
  const [number, unit] = m.format(m.value);
  const verdict = judged(m);
  const domain = decades([m.value, m.bound, m.limit, ...(m.interval ?? [])]);
  const beside = [
    m.interval && `90 % interval ${span(m)}`,
    m.bound && `bound ${shown(m, m.bound)}`,
    m.limit && `limit ${shown(m, m.limit)}`,
  ];
  const said = m.value === null ? [m.missing ?? "no answer"] : [shown(m), ...beside.filter(Boolean)];
  const words = `${m.title}: ${said.join(", ")}`;
  return el(
    "div",
    { class: `metric ${verdict ? (verdict.met ? "good" : "bad") : ""}`, "data-metric": m.key },
    el("h3", { title: m.title }, m.label),
    el(
      "p",
      { class: "big" },
      el("span", {}, number),
      " ",
      el("small", {}, unit),
      verdict && el("span", { class: "mark", "aria-hidden": "true" }, MARK[verdict.met]),
    ),
    intervalBar({ ...m, domain, text: words, format: (v) => (m.key === "cost" ? digits(v) : bare(m, v)) }),
    el(
      "dl",
      {},
      el("div", {}, el("dt", {}, "90 %"), el("dd", {}, m.interval ? span(m, m.bare) : (m.missing ?? "–"))),
      el("div", {}, el("dt", {}, "bound"), el("dd", {}, m.bound ? bare(m, m.bound) : "–")),
      m.limit !== null && el("div", {}, el("dt", {}, "limit"), el("dd", {}, shown(m, m.limit))),
    ),
  );
}

function drawWarnings(answer) {
  const texts = [
    ...(answer.prediction?.warnings ?? []),
    answer.prediction?.interval?.basis && `The interval: ${answer.prediction.interval.basis}.`,
  ].filter(Boolean);
  byId("warnings").hidden = !texts.length;
  redraw(
    byId("warnings"),
    el("h2", { id: "warnings-h" }, "To know"),
    el(
      "ul",
      {},
      texts.map((t) => el("li", {}, t)),
    ),
  );
}

/** What stands there where a question was refused: its faults are beside their fields. */
export function drawRefused(error, take) {
  byId("verdict").classList.add("impossible");
  const lines = error.faults.map(
    (f) => `${[f.where, f.message].filter(Boolean).join(": ")}${f.allowed ? `; allowed: ${f.allowed}` : ""}`,
  );
  redraw(
    byId("verdict"),
    el("h2", { class: "lead" }, "This cannot be asked."),
    el(
      "ul",
      {},
      (lines.length ? lines : [error.message]).map((t) => el("li", {}, t)),
    ),
    offers(error.suggestions, take),
  );
  say(byId("spoken"), ["This cannot be asked.", ...lines].join(" "));
}
