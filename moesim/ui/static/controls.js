// The form on the left: every field of a scenario, faults beside their fields.

import { el, redraw, say } from "./dom.js";
import { devicesOf, dpOptions, epOptions, layoutText, ppOptions, presets, tpOptions } from "./layout.js";
import { slider } from "./slider.js";
import { FIELDS, fits, range, read } from "./state.js";
import { tracePicker } from "./traces.js";
import { bytes, count, digits, joined } from "./units.js";

const SLIDERS = {
  nodes: ["Nodes", ""],
  input_len: ["Input length", "tokens"],
  output_len: ["Output length", "tokens"],
  concurrency: ["Concurrency", "requests"],
  request_rate: ["Request rate", "requests/s"],
  ttft_limit_ms: ["TTFT limit", "ms"],
  tpot_limit_ms: ["TPOT limit", "ms"],
  redundant: ["Redundant experts", ""],
  seed: ["Seed", ""],
};
const CHOICES = {
  backend: ["Engine", { vllm: "vLLM", sglang: "SGLang", trtllm: "TensorRT-LLM" }],
  dtype: ["Weights", { auto: "checkpoint's" }],
  kv_cache_dtype: ["KV cache", { auto: "16 bits" }],
  overlap: ["Overlap", { none: "none", "two-batch": "two batches", streams: "streams" }],
  routing: ["Assumed routing", {}],
};
const TRAFFIC = [
  ["Chat", 1024, 512],
  ["Summary", 8192, 512],
  ["Reasoning", 1024, 8192],
  ["Code", 16384, 1024],
];
const LAYOUT = {
  tp: ["TP", "tensor parallel: ranks that share each attention"],
  pp: ["PP", "pipeline parallel: stages of layers"],
  dp: ["DP", "data parallel: copies of attention"],
  ep: ["EP", "expert parallel: ranks that experts are spread over"],
};

/** What each group says of itself while it is folded. */
const briefs = (s) => ({
  "g-model": `${s.model}, ${s.nodes} × ${s.hardware}`,
  "g-layout": layoutText(s),
  "g-traffic": `${digits(s.input_len, 6)} in, ${digits(s.output_len, 6)} out, ${s.request_rate === null ? digits(s.concurrency, 6) : `${digits(s.request_rate)}/s`}`,
  "g-limits": [["TTFT", s.ttft_limit_ms], ["TPOT", s.tpot_limit_ms]].map(([name, ms]) => (ms === null ? "" : `${name} ${digits(ms)} ms`)).filter(Boolean).join(", ") || "none",
  "g-engine": [s.backend, s.dtype === "auto" ? "" : s.dtype].filter(Boolean).join(", "),
});

/** Build the form. `change(changes, settled)` is told every change; returns `{show, fault, clear}`. */
export function controls(form, catalogue, change, askTrace) {
  let scenario = null;
  const parts = {};
  // What is wrong with a field: as it is written here, and as the server says.
  const problems = { here: {}, there: {} };

  const set = (field, raw, settled) => {
    const [value, problem] = read(field, raw, catalogue);
    faultAt("here", field, problem ? problem.replace(`${field}: `, "") : "");
    if (!problem) change({ [field]: value }, settled);
  };
  const faultAt = (whose, field, text) => {
    const spot = form.querySelector(`#${CSS.escape(field)}-fault`);
    problems[whose][field] = text;
    const all = [problems.here[field], problems.there[field]].filter(Boolean).join("\n");
    if (spot) say(spot, all);
    form.querySelector(`#${CSS.escape(field)}`)?.setAttribute("aria-invalid", String(Boolean(all)));
    return Boolean(spot);
  };

  const number = (field) => {
    const [label, unit] = SLIDERS[field];
    const part = slider({ id: field, label, unit, bare: field === "seed", onvalue: (value, settled) => set(field, value, settled) });
    parts[field] = () => part.show(scenario[field] ?? usual[field], range(field, catalogue, scenario));
    return part;
  };
  // What an unasked limit or rate starts from.
  const usual = {
    request_rate: 10,
    ttft_limit_ms: catalogue.defaults.scenario.ttft_limit_ms ?? 1000,
    tpot_limit_ms: catalogue.defaults.scenario.tpot_limit_ms ?? 50,
  };

  const choice = (field, label, options, hint) => {
    const list = el("select", { id: field, "aria-describedby": `${field}-fault`, onchange: () => set(field, list.value, true) });
    let drawn = "";
    parts[field] = () => {
      const groups = options();
      const text = JSON.stringify(groups);
      if (text !== drawn) {
        drawn = text;
        list.replaceChildren(...groups.map(([name, items]) => {
          const made = items.map(([value, title]) => el("option", { value }, title));
          return name ? el("optgroup", { label: name }, made) : made;
        }).flat());
      }
      list.value = scenario[field] === null ? "none" : String(scenario[field]);
    };
    return el("div", { class: "field", "data-field": field },
      el("label", { for: field, title: hint }, label), list, el("p", { class: "fault", id: `${field}-fault` }));
  };

  const facts = (id) => el("p", { class: "hint", id });
  const modelFacts = facts("model-facts");
  const machineFacts = facts("hardware-facts");
  const used = facts("layout-facts");
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Layouts by name" });
  const group = (title, id, ...children) =>
    el("details", { class: "group", open: true, id }, el("summary", {}, el("h2", {}, title), el("span", { class: "brief", id: `${id}-brief` })), el("div", { class: "fields" }, ...children));

  const kinds = [...new Set(catalogue.hardware.map((h) => h.kind ?? ""))];
  const machines = kinds.map((kind) => [kind, catalogue.hardware.filter((h) => (h.kind ?? "") === kind).map((h) => [h.name, h.title || h.name])]);
  const models = [["", catalogue.models.filter((m) => m.predicted !== false).map((m) => [m.name, m.title || m.name])]];
  const model = () => catalogue.models.find((m) => m.name === scenario.model);
  const numbers = (values) => [["", values.map((n) => [String(n), String(n)])]];
  const options = {
    tp: () => numbers(tpOptions(model(), devicesOf(scenario, catalogue))),
    pp: () => numbers(ppOptions(model(), devicesOf(scenario, catalogue), scenario.tp)),
    dp: () => numbers(dpOptions(devicesOf(scenario, catalogue), scenario.tp, scenario.pp)),
    ep: () => numbers(epOptions(model(), scenario.tp, scenario.dp, scenario.redundant)),
  };

  const rate = number("request_rate");
  const crowd = number("concurrency");
  const radio = (value, label) =>
    el("label", { class: "radio" }, el("input", { type: "radio", name: "load", value, onchange: () => change({ request_rate: value === "rate" ? usual.request_rate : null }, true) }), label);
  const load = el("div", { class: "field wide", role: "radiogroup", "aria-label": "Load given as" }, radio("crowd", "requests at once"), radio("rate", "requests/s"));
  parts.load = () => {
    const open = scenario.request_rate !== null;
    if (open) usual.request_rate = scenario.request_rate;
    load.querySelector('[value="rate"]').checked = open;
    load.querySelector('[value="crowd"]').checked = !open;
    rate.node.hidden = !open;
    crowd.node.hidden = open;
  };

  const limit = (field) => {
    const part = number(field);
    const box = el("input", { type: "checkbox", id: `${field}-on`, onchange: () => change({ [field]: box.checked ? usual[field] : null }, true) });
    const draw = parts[field];
    parts[field] = () => {
      const on = scenario[field] !== null;
      if (on) usual[field] = scenario[field];
      box.checked = on;
      part.field.disabled = part.bar.disabled = !on;
      part.node.classList.toggle("off", !on);
      draw();
    };
    part.node.prepend(el("label", { class: "check", for: `${field}-on`, title: `Ask for a ${SLIDERS[field][0]}` }, box, el("span", { class: "unseen" }, `Ask for a ${SLIDERS[field][0]}`)));
    return part.node;
  };

  const traffic = el("div", { class: "chips", role: "group", "aria-label": "Traffic by name" }, TRAFFIC.map(([name, input, output]) =>
    el("button", { type: "button", class: "chip", "data-key": name, title: `${digits(input)} tokens in, ${digits(output)} out`, onclick: () => change({ input_len: input, output_len: output }, true) }, name)));

  const trace = tracePicker(catalogue, {
    choose: (id) => set("trace", id ?? "none", true),
    added: (found) => change(!fits(found, model()) && catalogue.models.some((m) => m.name === found.model) ? { model: found.model, trace: found.id } : { trace: found.id }, true),
    ask: askTrace,
  });
  parts.trace = () => trace.show(scenario);

  redraw(form,
    group("Model and machine", "g-model", choice("model", "Model", () => models), modelFacts, choice("hardware", "Hardware", () => machines), machineFacts, number("nodes").node),
    group("Layout", "g-layout", chips, el("div", { class: "row4" }, Object.entries(LAYOUT).map(([f, [label, hint]]) => choice(f, label, options[f], hint))), used, el("p", { class: "fault", id: "layout-fault" })),
    group("Traffic", "g-traffic", traffic, number("input_len").node, number("output_len").node, load, crowd.node, rate.node, trace.node),
    group("Limits", "g-limits", limit("ttft_limit_ms"), limit("tpot_limit_ms")),
    group("Engine", "g-engine", el("div", { class: "row2" }, Object.entries(CHOICES).map(([f, [label, names]]) =>
      choice(f, label, () => [["", (catalogue.choices[f] ?? []).map((v) => [v, names[v] ?? v])]]))), number("redundant").node, number("seed").node),
    el("p", { class: "fault", id: "other-fault", role: "alert" }),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  // Where the answer is below the form, the form is folded and says what is in it.
  if (window.matchMedia("(max-width: 60rem)").matches) for (const one of form.querySelectorAll(".group")) one.open = false;

  return {
    /** Put a scenario into the fields. */
    show(next) {
      for (const field of Object.keys(problems.here)) {
        if (scenario && next[field] !== scenario[field]) faultAt("here", field, "");
      }
      scenario = next;
      for (const draw of Object.values(parts)) draw();
      const m = model();
      say(modelFacts, m ? `${count(m.total_params)} parameters, ${count(m.active_params)} active; ${m.layers} layers${m.moe === false ? ", no experts" : `, ${m.num_experts} experts, top ${m.top_k}`}` : "");
      const h = catalogue.hardware.find((one) => one.name === scenario.hardware);
      const price = h?.usd_per_device_hour;
      say(machineFacts, h ? `${h.devices_per_node} × ${joined(bytes(h.memory_bytes))} per node${price ? `; ${price.toFixed(2)} USD per device and hour` : "; no price known"}` : "");
      for (const [id, text] of Object.entries(briefs(scenario))) say(form.querySelector(`#${id}-brief`), text);
      say(used, `${scenario.tp * scenario.pp * scenario.dp} of ${devicesOf(scenario, catalogue)} devices`);
      for (const button of traffic.children) {
        const [, input, output] = TRAFFIC.find(([name]) => name === button.dataset.key);
        button.setAttribute("aria-pressed", String(input === scenario.input_len && output === scenario.output_len));
      }
      redraw(chips, presets(scenario, catalogue).map(({ name, title, layout }) =>
        el("button", {
          type: "button", class: "chip", "data-key": name, title: `${title}: ${layoutText(layout)}`,
          "aria-pressed": String(Object.entries(layout).every(([k, v]) => scenario[k] === v)), onclick: () => change(layout, true),
        }, name)));
    },
    /** Show the server's faults where they belong; those of no field below. */
    fault(faults) {
      const rest = [];
      for (const { where = "", message = "", allowed = "" } of faults) {
        const name = String(where).replace(/^-+/, "").replaceAll("-", "_");
        const field = Object.hasOwn(FIELDS, name) || name === "layout" ? name : { tensor_parallel_size: "tp" }[name];
        const text = allowed ? `${message}; allowed: ${allowed}` : message;
        if (!field || !faultAt("there", field, text)) rest.push(where ? `${where}: ${text}` : text);
      }
      say(form.querySelector("#other-fault"), rest.join("\n"));
    },
    /** Take the server's faults away. */
    clear() {
      for (const field of Object.keys(problems.there)) faultAt("there", field, "");
      say(form.querySelector("#other-fault"), "");
    },
  };
}
