// Pinned scenarios: kept, renamed, taken back, and compared with the current one.

import { decades, intervalBar } from "./charts.js";
import { byId, el, redraw } from "./dom.js";
import { bare, compared, judged, metricsOf, shown, span } from "./metrics.js";
import { FIELDS, MOST_PINS, differing } from "./state.js";
import { digits } from "./units.js";

const NAMES = {
  input_len: "input tokens",
  output_len: "output tokens",
  request_rate: "requests/s",
  kv_cache_dtype: "KV cache",
  dtype: "weights",
  backend: "engine",
  ttft_limit_ms: "TTFT limit, ms",
  tpot_limit_ms: "TPOT limit, ms",
  routing: "assumed routing",
  redundant: "redundant experts",
  tp: "TP",
  pp: "PP",
  dp: "DP",
  ep: "EP",
};

/** Colour slot and shape number of a label; the current scenario has the first. */
export const slotOf = (label) => (label ? `p${"ABCDEF".indexOf(label) + 1}` : "p0");

/**
 * Draw pins and comparison.
 *
 * `answers` maps labels, and "" for the current scenario, to answers; `act` is told `pin`, `unpin`, `rename`, `take`.
 */
export function drawPins(state, answers, catalogue, act) {
  const full = state.pins.length >= MOST_PINS;
  redraw(
    byId("pins"),
    el(
      "div",
      { class: "head" },
      el(
        "div",
        {},
        el("h2", { id: "pins-h" }, state.pins.length ? "Compared" : "Compare"),
        state.pins.length === 0 &&
          el("p", { class: "dim" }, "Pin this scenario, change something, and see both side by side."),
      ),
      el(
        "button",
        { type: "button", id: "pin", "data-key": "pin", class: "primary", disabled: full, onclick: act.pin },
        full ? "Six are pinned" : "Pin this scenario",
      ),
    ),
    state.pins.length > 0 &&
      el(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Comparison" },
        table(state, answers, catalogue, act),
      ),
  );
}

function head(pin, act) {
  const name = el("input", {
    type: "text",
    value: pin.name,
    placeholder: `scenario ${pin.label}`,
    maxlength: 60,
    "aria-label": `Name of scenario ${pin.label}`,
    "data-key": `name-${pin.label}`,
    onchange: () => act.rename(pin.label, name.value),
  });
  return el(
    "th",
    { scope: "col", class: "pin" },
    el(
      "div",
      { class: "tag" },
      el("span", { class: `letter ${slotOf(pin.label)}` }, pin.label),
      el(
        "button",
        {
          type: "button",
          class: "small",
          "data-key": `take-${pin.label}`,
          "aria-label": `Take scenario ${pin.label}`,
          title: "Make it the current scenario",
          onclick: () => act.take(pin.label),
        },
        "Take",
      ),
      el(
        "button",
        {
          type: "button",
          class: "small",
          "data-key": `unpin-${pin.label}`,
          "aria-label": `Remove scenario ${pin.label}`,
          title: "Remove",
          onclick: () => act.unpin(pin.label),
        },
        "×",
      ),
    ),
    name,
  );
}

function table(state, answers, catalogue, act) {
  const columns = [{ label: "", scenario: state.current }, ...state.pins];
  const fields = differing(columns.map((c) => c.scenario));
  const metrics = columns.map((c) => (answers.get(c.label) ? metricsOf(answers.get(c.label)) : null));
  const kinds = metrics[0] ?? metrics.find(Boolean) ?? [];
  return el(
    "table",
    { class: "compare" },
    el(
      "caption",
      { class: "unseen" },
      "The current scenario beside pinned ones; what is said below a value is of the current one against it",
    ),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("td", {}),
        el(
          "th",
          { scope: "col", class: "pin" },
          el("div", { class: "tag" }, el("span", { class: "letter p0" }, "●"), el("span", {}, "current")),
        ),
        state.pins.map((p) => head(p, act)),
      ),
    ),
    el(
      "tbody",
      {},
      fields.length === 0 &&
        el(
          "tr",
          {},
          el("th", { scope: "row" }, "inputs"),
          el("td", { colspan: columns.length, class: "dim" }, "the same"),
        ),
      fields.map((f) =>
        el(
          "tr",
          { class: "input" },
          el("th", { scope: "row" }, NAMES[f] ?? f),
          columns.map((c) =>
            el(
              "td",
              { class: c.scenario[f] !== state.current[f] ? "differs" : "" },
              text(f, c.scenario[f], catalogue),
            ),
          ),
        ),
      ),
      kinds.map((kind, k) =>
        row(
          kind,
          columns,
          metrics.map((m) => m?.[k] ?? null),
          answers,
        ),
      ),
    ),
  );
}

function row(kind, columns, cells, answers) {
  const domain = decades(cells.flatMap((m) => (m ? [m.value, m.bound, ...(m.interval ?? [])] : [])));
  return el(
    "tr",
    { "data-metric": kind.key },
    el("th", { scope: "row", title: kind.title }, kind.label, kind.unit && el("small", {}, ` ${kind.unit}`)),
    cells.map((m, c) => {
      if (!m) return el("td", { class: "dim" }, answers.has(columns[c].label) ? "–" : "...");
      if (m.value === null)
        return el(
          "td",
          { class: "dim" },
          answers.get(columns[c].label)?.feasible === false ? "not possible" : (m.missing ?? "–"),
        );
      const against = c && cells[0] ? compared(cells[0], m) : null;
      const verdict = judged(m);
      return el(
        "td",
        {},
        el(
          "div",
          { class: "value" },
          el("b", {}, bare(m, m.value)),
          verdict && el("span", { class: "mark", title: verdict.text }, verdict.met ? " ✓" : " ✗"),
        ),
        intervalBar({
          ...m,
          domain,
          small: true,
          format: () => "",
          text: `${shown(m)}${m.interval ? `, 90 % interval ${span(m)}` : ""}`,
        }),
        against &&
          el(
            "div",
            { class: `against ${against.decided ? (against.better ? "better" : "worse") : "open"}` },
            against.text === "equal" ? "equal" : `current: ${against.text}`,
            !against.decided && el("span", {}, "intervals overlap: not decided"),
          ),
      );
    }),
  );
}

function text(field, value, catalogue) {
  if (value === null) return "none";
  if (field === "trace") return catalogue.traces.find((t) => t.id === value)?.name ?? String(value);
  return FIELDS[field] === "whole" ? digits(value, 12) : String(value);
}
