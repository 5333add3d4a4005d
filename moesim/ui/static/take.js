// To take along: command lines, the report, the plan, the answers as JSON.

import { Gone, exportPlan, exportReport } from "./api.js";
import { byId, copy, el, redraw, save, say } from "./dom.js";

const FORMATS = {
  sglang: "SGLang",
  trtllm: "TensorRT-LLM",
  "vllm-ascend": "vLLM Ascend",
  vllm: "vLLM",
  eplb: "EPLB",
};
const ENGINES = { vllm: "vLLM", sglang: "SGLang", trtllm: "TensorRT-LLM" };
let format = "sglang";

/** Draw the section for an answer; `state` and `answers` are asked for when something is taken. */
export function drawTake(answer, now) {
  const said = byId("take").querySelector("#take-said")?.textContent ?? "";
  const open = byId("take").querySelector("details")?.open ?? false;
  const note = el("p", { id: "take-said", class: "said", role: "status" }, said);
  const tell = (text) => say(note, text);
  const job = (busy, work) => async () => {
    tell(busy);
    try {
      tell(await work());
    } catch (error) {
      const faults = (error.faults ?? []).map((f) => [f.where, f.message].filter(Boolean).join(": "));
      tell(
        error instanceof Gone
          ? "The server does not answer; try again."
          : [error.message, ...faults].filter((t, k, all) => all.indexOf(t) === k).join(" "),
      );
    }
  };
  const button = (key, text, title, action, off = false) =>
    el(
      "button",
      { type: "button", id: `take-${key}`, "data-key": `take-${key}`, title, disabled: off, onclick: action },
      text,
    );
  const copied = (text, what) =>
    job("", async () =>
      (await copy(text)) ? `${what} copied.` : "The browser does not allow copying; select the text instead.",
    );

  const launch = Object.entries(answer.launch ?? {});
  const trace = answer.scenario.trace;
  const formats = el(
    "select",
    {
      id: "plan-format",
      "data-key": "plan-format",
      "aria-label": "Format of the plan",
      value: format,
      onchange: (event) => (format = event.target.value),
    },
    Object.entries(FORMATS).map(([value, text]) => el("option", { value }, text)),
  );
  formats.value = format;

  redraw(
    byId("take"),
    el("h2", { id: "take-h" }, "Take it along"),
    el(
      "div",
      { class: "row" },
      button(
        "report",
        "Report",
        "A page of the current and all pinned scenarios, in one file that opens offline",
        job("Making the report ...", async () => {
          const { state } = now();
          const scenarios = [state.current, ...state.pins.map((p) => p.scenario)];
          const labels = ["current", ...state.pins.map((p) => (p.name ? `${p.label}: ${p.name}` : p.label))];
          const { blob, name } = await exportReport(scenarios, labels);
          save(blob, name);
          return `${name} saved.`;
        }),
      ),
      button(
        "json",
        "Answers as JSON",
        "The answers of the current and all pinned scenarios",
        job("", async () => {
          const { state, answers } = now();
          const rows = [
            { label: "current", name: "", answer: answers.get("") },
            ...state.pins.map((p) => ({
              label: p.label,
              name: p.name,
              answer: answers.get(p.label) ?? null,
            })),
          ];
          save(
            new Blob([JSON.stringify({ schema_version: 1, answers: rows }, null, 1)], {
              type: "application/json",
            }),
            "moesim-answers.json",
          );
          return "moesim-answers.json saved.";
        }),
      ),
      el(
        "span",
        { class: "joined" },
        button(
          "plan",
          "Expert plan",
          trace
            ? "The placement of experts from the chosen trace"
            : "Choose a trace first: a plan places experts by their load",
          job("Placing experts ...", async () => {
            const { state } = now();
            const { blob, name } = await exportPlan(state.current, format);
            save(blob, name);
            return `${name} saved.`;
          }),
          !trace,
        ),
        formats,
      ),
      !trace && el("span", { class: "dim" }, "A plan needs a trace."),
    ),
    note,
    answer.command &&
      line("command", "The same in a terminal", answer.command, copied(answer.command, "Command")),
    launch.length > 0 &&
      el(
        "details",
        { open },
        el("summary", { "data-key": "launch" }, "Start the engine so"),
        launch.map(([engine, { script, reason, notes = [] }]) =>
          script
            ? [
                line(`launch-${engine}`, ENGINES[engine] ?? engine, script, copied(script, "Launch command")),
                notes.map((text) => el("p", { class: "dim" }, text)),
              ]
            : el("p", { class: "dim" }, `${ENGINES[engine] ?? engine}: ${reason}`),
        ),
      ),
  );
}

const line = (key, label, text, action) =>
  el(
    "div",
    { class: "command" },
    el(
      "div",
      { class: "head" },
      el("h3", {}, label),
      el(
        "button",
        {
          type: "button",
          class: "small",
          id: `copy-${key}`,
          "data-key": `copy-${key}`,
          "aria-label": `Copy: ${label}`,
          onclick: action,
        },
        "Copy",
      ),
    ),
    el("pre", { tabindex: 0, "data-key": `pre-${key}` }, el("code", {}, text)),
  );
