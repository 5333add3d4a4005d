// What is chosen: one current scenario and up to six pinned ones. Pure: every function gives a new state.

import { repaired } from "./layout.js";

export const MOST_PINS = 6;
export const LABELS = ["A", "B", "C", "D", "E", "F"];
const LONGEST_NAME = 60;

/** Kind of every field of a scenario; `null` stands where it is not asked for. */
export const FIELDS = {
  model: "name",
  hardware: "name",
  nodes: "whole",
  tp: "whole",
  pp: "whole",
  dp: "whole",
  ep: "whole",
  redundant: "whole",
  input_len: "whole",
  output_len: "whole",
  concurrency: "whole",
  request_rate: "number?",
  dtype: "choice",
  kv_cache_dtype: "choice",
  backend: "choice",
  overlap: "choice",
  trace: "name?",
  routing: "choice",
  ttft_limit_ms: "number?",
  tpot_limit_ms: "number?",
  seed: "whole",
};

const LAYOUT = ["tp", "pp", "dp", "ep"];

/** Names a field may hold, or null where it holds a number. */
export function allowed(field, catalogue) {
  if (field === "model") return catalogue.models.map((m) => m.name);
  if (field === "hardware") return catalogue.hardware.map((h) => h.name);
  if (field === "trace") return catalogue.traces.map((t) => t.id);
  return FIELDS[field] === "choice" ? (catalogue.choices[field] ?? []) : null;
}

/** Least and most of a number, and where a slider starts and ends. */
export function range(field, catalogue, scenario) {
  const given = catalogue.limits[field] ?? {
    min: 1,
    max: 1e6,
    step: 1,
    scale: "linear",
    unit: "",
    label: field,
  };
  if (field === "nodes") {
    const machine = catalogue.hardware.find((h) => h.name === scenario?.hardware);
    return { ...given, max: Math.max(1, machine?.max_nodes ?? given.max) };
  }
  // As many spares as experts are plenty.
  const model = field === "redundant" && catalogue.models.find((m) => m.name === scenario?.model);
  return model ? { ...given, max: Math.min(given.max, model.num_experts ?? 0) } : given;
}

/** Whether a trace can be of a model: its MoE layers, experts and experts per token are the same. */
export function fits(trace, model) {
  if (!model?.moe) return false;
  const equal = (a, b) => a === null || a === undefined || b === undefined || a === b;
  return (
    equal(trace.num_experts, model.num_experts) &&
    equal(trace.top_k, model.top_k) &&
    equal(trace.layers, model.moe_layers)
  );
}

/** `[value, problem]`: what `raw` means for `field`, and why not, in words, if it cannot. */
export function read(field, raw, catalogue) {
  const kind = FIELDS[field];
  if (kind.endsWith("?") && (raw === null || raw === "" || raw === "none")) return [null, null];
  if (kind.startsWith("name") || kind === "choice") {
    const names = allowed(field, catalogue);
    const text = String(raw).slice(0, 200);
    return names.includes(text) ? [text, null] : [null, `${field}: there is no “${text}” here`];
  }
  const text = String(raw).trim();
  const value = text === "" ? NaN : Number(text);
  const { min, max } = range(field, catalogue);
  const whole = kind === "whole";
  if (!Number.isFinite(value) || (whole && !Number.isInteger(value))) {
    return [null, `${field}: “${text.slice(0, 40)}” is not a ${whole ? "whole number" : "number"}`];
  }
  if (!LAYOUT.includes(field) && (value < min || value > max))
    return [null, `${field}: ${value} is not from ${min} to ${max}`];
  if (value < 0 || value > 1e9 || (LAYOUT.includes(field) && value < 1))
    return [null, `${field}: ${value} is out of range`];
  return [value, null];
}

/** A whole scenario out of whatever came: unknown fields and values are replaced by `base`, and said. */
export function clean(raw, base, catalogue) {
  const scenario = { ...base };
  const problems = [];
  for (const [field, value] of Object.entries(raw ?? {})) {
    if (!Object.hasOwn(FIELDS, field)) {
      problems.push(`“${field.slice(0, 40)}” is not known`);
      continue;
    }
    const [good, problem] = read(field, value, catalogue);
    if (problem) problems.push(problem);
    else scenario[field] = good;
  }
  const trace = catalogue.traces.find((t) => t.id === scenario.trace);
  const model = catalogue.models.find((m) => m.name === scenario.model);
  if (trace && !fits(trace, model)) {
    if (raw.trace) problems.push(`trace: ${trace.name} is not of ${scenario.model}`);
    scenario.trace = null;
  }
  scenario.nodes = Math.min(scenario.nodes, range("nodes", catalogue, scenario).max);
  scenario.redundant = Math.min(scenario.redundant, range("redundant", catalogue, scenario).max);
  const fixed = repaired(scenario, scenario, null, catalogue);
  // What was written down is kept as it is where it can be laid out; else the nearest.
  if (LAYOUT.some((f) => fixed[f] !== scenario[f])) {
    problems.push(
      `layout: ${LAYOUT.map((f) => `${f}=${scenario[f]}`).join(" ")} cannot be laid out; the nearest was taken`,
    );
  }
  return { scenario: fixed, problems };
}

/** The first trace that can be of the scenario's model, or null. */
const traceOf = (scenario, catalogue) => {
  const model = catalogue.models.find((m) => m.name === scenario.model);
  return catalogue.traces.find((t) => fits(t, model))?.id ?? null;
};

/** What a page without a link starts from: the server's defaults, with a bundled trace where one fits. */
export function initial(catalogue) {
  const base = catalogue.defaults.scenario;
  const { scenario } = clean(base, base, catalogue);
  return { current: { ...scenario, trace: scenario.trace ?? traceOf(scenario, catalogue) }, pins: [] };
}

/** The state with `changes` made to the current scenario, its layout repaired to what can be. */
export function changed(state, changes, catalogue) {
  const before = state.current;
  let after = { ...before, ...changes };
  after.nodes = Math.min(after.nodes, range("nodes", catalogue, after).max);
  const model = catalogue.models.find((m) => m.name === after.model);
  const trace = catalogue.traces.find((t) => t.id === after.trace);
  if (trace && !fits(trace, model) && changes.trace === undefined) after.trace = traceOf(after, catalogue);
  after.redundant = Math.min(after.redundant, range("redundant", catalogue, after).max);
  const one = LAYOUT.filter((f) => f in changes);
  const touches = ["model", "hardware", "nodes", "redundant", ...LAYOUT].some((f) => f in changes);
  if (touches && one.length < LAYOUT.length) after = repaired(before, after, one[0] ?? null, catalogue);
  return { ...state, current: after };
}

export const same = (a, b) => Object.keys(FIELDS).every((f) => a[f] === b[f]);

/** Fields in which scenarios are not all the same. */
export const differing = (scenarios) =>
  Object.keys(FIELDS).filter((f) => scenarios.some((s) => s[f] !== scenarios[0][f]));

/** The current scenario kept under the first free letter; unchanged where six are. */
export function pinned(state, name = "") {
  const label = LABELS.find((l) => !state.pins.some((p) => p.label === l));
  if (!label) return state;
  const pin = { label, name: name.slice(0, LONGEST_NAME), scenario: { ...state.current } };
  return { ...state, pins: [...state.pins, pin].sort((a, b) => a.label.localeCompare(b.label)) };
}

export const unpinned = (state, label) => ({ ...state, pins: state.pins.filter((p) => p.label !== label) });

export const renamed = (state, label, name) => ({
  ...state,
  pins: state.pins.map((p) => (p.label === label ? { ...p, name: name.slice(0, LONGEST_NAME) } : p)),
});

/** The pinned scenario becomes the current one. */
export function taken(state, label) {
  const pin = state.pins.find((p) => p.label === label);
  return pin ? { ...state, current: { ...pin.scenario } } : state;
}
