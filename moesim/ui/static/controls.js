// The form on the left: every field of a scenario, faults beside their fields.

import { choice } from "./choice.js";
import { el, redraw, say } from "./dom.js";
import { devicesOf, dpOptions, epOptions, layoutText, ppOptions, presets, tpOptions } from "./layout.js";
import { CHOICES, LAYOUT, SLIDERS, TRAFFIC, briefs, machineText, modelText } from "./fields.js";
import { slider } from "./slider.js";
import { FIELDS, fits, range, read } from "./state.js";
import { tracePicker } from "./traces.js";
import { digits } from "./units.js";

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
    const part = slider({
      id: field,
      label,
      unit,
      bare: field === "seed",
      onvalue: (value, settled) => set(field, value, settled),
    });
    parts[field] = () => part.show(scenario[field] ?? usual[field], range(field, catalogue, scenario));
    return part;
  };
  // What an unasked limit or rate starts from.
  const usual = {
    request_rate: 10,
    ttft_limit_ms: catalogue.defaults.scenario.ttft_limit_ms ?? 1000,
    tpot_limit_ms: catalogue.defaults.scenario.tpot_limit_ms ?? 50,
  };

  const pick = (field, label, options, hint) => {
    const part = choice({ id: field, label, hint, onvalue: (value) => set(field, value, true) });
    parts[field] = () => part.show(options(), scenario[field]);
    return part.node;
  };

  const facts = (id) => el("p", { class: "hint", id });
  const modelFacts = facts("model-facts");
  const machineFacts = facts("hardware-facts");
  const used = facts("layout-facts");
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Layouts by name" });
  const group = (title, id, ...children) =>
    el(
      "details",
      { class: "group", open: true, id },
      el("summary", {}, el("h2", {}, title), el("span", { class: "brief", id: `${id}-brief` })),
      el("div", { class: "fields" }, ...children),
    );

  const kinds = [...new Set(catalogue.hardware.map((h) => h.kind ?? ""))];
  const machines = kinds.map((kind) => [
    kind,
    catalogue.hardware.filter((h) => (h.kind ?? "") === kind).map((h) => [h.name, h.title || h.name]),
  ]);
  const models = [
    ["", catalogue.models.filter((m) => m.predicted !== false).map((m) => [m.name, m.title || m.name])],
  ];
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
    el(
      "label",
      { class: "radio" },
      el("input", {
        type: "radio",
        name: "load",
        value,
        onchange: () => change({ request_rate: value === "rate" ? usual.request_rate : null }, true),
      }),
      label,
    );
  const load = el(
    "div",
    { class: "field wide", role: "radiogroup", "aria-label": "Load given as" },
    radio("crowd", "requests at once"),
    radio("rate", "requests/s"),
  );
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
    const box = el("input", {
      type: "checkbox",
      id: `${field}-on`,
      onchange: () => change({ [field]: box.checked ? usual[field] : null }, true),
    });
    const draw = parts[field];
    parts[field] = () => {
      const on = scenario[field] !== null;
      if (on) usual[field] = scenario[field];
      box.checked = on;
      part.field.disabled = part.bar.disabled = !on;
      part.node.classList.toggle("off", !on);
      draw();
    };
    part.node.prepend(
      el(
        "label",
        { class: "check", for: `${field}-on`, title: `Ask for a ${SLIDERS[field][0]}` },
        box,
        el("span", { class: "unseen" }, `Ask for a ${SLIDERS[field][0]}`),
      ),
    );
    return part.node;
  };

  const traffic = el(
    "div",
    { class: "chips", role: "group", "aria-label": "Traffic by name" },
    TRAFFIC.map(([name, input, output]) =>
      el(
        "button",
        {
          type: "button",
          class: "chip",
          "data-key": name,
          title: `${digits(input)} tokens in, ${digits(output)} out`,
          onclick: () => change({ input_len: input, output_len: output }, true),
        },
        name,
      ),
    ),
  );

  const trace = tracePicker(catalogue, {
    choose: (id) => set("trace", id ?? "none", true),
    added: (found) =>
      change(
        !fits(found, model()) && catalogue.models.some((m) => m.name === found.model)
          ? { model: found.model, trace: found.id }
          : { trace: found.id },
        true,
      ),
    ask: askTrace,
  });
  parts.trace = () => trace.show(scenario);

  redraw(
    form,
    group(
      "Model and machine",
      "g-model",
      pick("model", "Model", () => models),
      modelFacts,
      pick("hardware", "Hardware", () => machines),
      machineFacts,
      number("nodes").node,
    ),
    group(
      "Layout",
      "g-layout",
      chips,
      el(
        "div",
        { class: "row4" },
        Object.entries(LAYOUT).map(([f, [label, hint]]) => pick(f, label, options[f], hint)),
      ),
      used,
      el("p", { class: "fault", id: "layout-fault" }),
    ),
    group(
      "Traffic",
      "g-traffic",
      traffic,
      number("input_len").node,
      number("output_len").node,
      load,
      crowd.node,
      rate.node,
      trace.node,
    ),
    group("Limits", "g-limits", limit("ttft_limit_ms"), limit("tpot_limit_ms")),
    group(
      "Engine",
      "g-engine",
      el(
        "div",
        { class: "row2" },
        Object.entries(CHOICES).map(([f, [label, names]]) =>
          pick(f, label, () => [["", (catalogue.choices[f] ?? []).map((v) => [v, names[v] ?? v])]]),
        ),
      ),
      number("redundant").node,
      number("seed").node,
    ),
    el("p", { class: "fault", id: "other-fault", role: "alert" }),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  // Where the answer is below the form, the form is folded and says what is in it.
  if (window.matchMedia("(max-width: 60rem)").matches)
    for (const one of form.querySelectorAll(".group")) one.open = false;

  return {
    /** Put a scenario into the fields. */
    show(next) {
      for (const field of Object.keys(problems.here)) {
        if (scenario && next[field] !== scenario[field]) faultAt("here", field, "");
      }
      scenario = next;
      for (const draw of Object.values(parts)) draw();
      say(modelFacts, modelText(model()));
      say(machineFacts, machineText(catalogue.hardware.find((h) => h.name === scenario.hardware)));
      for (const [id, text] of Object.entries(briefs(scenario)))
        say(form.querySelector(`#${id}-brief`), text);
      say(used, `${scenario.tp * scenario.pp * scenario.dp} of ${devicesOf(scenario, catalogue)} devices`);
      for (const button of traffic.children) {
        const [, input, output] = TRAFFIC.find(([name]) => name === button.dataset.key);
        button.setAttribute(
          "aria-pressed",
          String(input === scenario.input_len && output === scenario.output_len),
        );
      }
      redraw(
        chips,
        presets(scenario, catalogue).map(({ name, title, layout }) =>
          el(
            "button",
            {
              type: "button",
              class: "chip",
              "data-key": name,
              title: `${title}: ${layoutText(layout)}`,
              "aria-pressed": String(Object.entries(layout).every(([k, v]) => scenario[k] === v)),
              onclick: () => change(layout, true),
            },
            name,
          ),
        ),
      );
    },
    /** Show the server's faults where they belong; those of no field below. */
    fault(faults) {
      const rest = [];
      for (const { where = "", message = "", allowed = "" } of faults) {
        const name = String(where).replace(/^-+/, "").replaceAll("-", "_");
        const field =
          Object.hasOwn(FIELDS, name) || name === "layout" ? name : { tensor_parallel_size: "tp" }[name];
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
