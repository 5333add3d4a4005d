// Which routing: a bundled trace, one of your own, or none.

import { Gone } from "./api.js";
import { el, say } from "./dom.js";
import { fits } from "./state.js";
import { bytes, digits, joined } from "./units.js";

const MOST_BYTES = 64e6;

/** A list of traces with a place to add one: `choose(id)`, `added(trace)`; `ask(file)` resolves to the new trace. */
export function tracePicker(catalogue, { choose, added, ask }) {
  const list = el("select", {
    id: "trace",
    "aria-describedby": "trace-hint trace-fault",
    onchange: () => choose(list.value === "none" ? null : list.value),
  });
  const hint = el("p", { class: "hint", id: "trace-hint" });
  const fault = el("p", { class: "fault", id: "trace-fault" });
  const file = el("input", {
    type: "file",
    id: "trace-file",
    class: "unseen",
    onchange: () => file.files[0] && take(file.files[0]),
  });
  const drop = el(
    "label",
    { class: "drop", for: "trace-file" },
    file,
    "Add a trace or load counts: choose or drop a file",
  );

  async function take(given) {
    say(fault, "");
    if (given.size > MOST_BYTES)
      return say(fault, `${given.name}: ${joined(bytes(given.size))}; at most ${joined(bytes(MOST_BYTES))}`);
    say(hint, `Reading ${given.name} ...`);
    try {
      const trace = await ask(given);
      if (!catalogue.traces.some((t) => t.id === trace.id)) catalogue.traces.push(trace);
      added(trace);
    } catch (error) {
      const said = (error.faults ?? []).map((f) => [f.where, f.message].filter(Boolean).join(": "));
      say(hint, "");
      say(fault, error instanceof Gone ? "The server does not answer." : said.join("\n") || error.message);
    } finally {
      file.value = "";
    }
    return undefined;
  }

  // The whole page takes a dropped file, so that a miss does not leave the page.
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer?.files.length) take(event.dataTransfer.files[0]);
    });
  }

  let drawn = "";
  return {
    node: el(
      "div",
      { class: "field", "data-field": "trace" },
      el("label", { for: "trace" }, "Routing"),
      list,
      drop,
      hint,
      fault,
    ),
    show(scenario) {
      const model = catalogue.models.find((m) => m.name === scenario.model);
      const fitting = catalogue.traces.filter((t) => fits(t, model));
      const other = catalogue.traces.filter((t) => !fits(t, model));
      const text = JSON.stringify([fitting, other]);
      if (text !== drawn) {
        drawn = text;
        const option = (t) => el("option", { value: t.id }, `${t.name}${t.kind ? ` (${t.kind})` : ""}`);
        list.replaceChildren(
          el("option", { value: "none" }, "assumed (no trace)"),
          ...fitting.map(option),
          ...(other.length
            ? [
                el(
                  "optgroup",
                  { label: "of other models" },
                  other.map((t) =>
                    el(
                      "option",
                      { value: t.id, disabled: true },
                      `${t.name}${t.model ? `: ${t.model}` : ""}`,
                    ),
                  ),
                ),
              ]
            : []),
        );
      }
      list.value = scenario.trace ?? "none";
      const trace = catalogue.traces.find((t) => t.id === scenario.trace);
      const facts = trace && [
        trace.model && `of ${trace.model}`,
        trace.layers && `${trace.layers} layers`,
        trace.tokens && `${digits(trace.tokens)} tokens`,
      ];
      say(hint, facts ? facts.filter(Boolean).join(", ") : "");
      document.getElementById("routing")?.closest(".field")?.classList.toggle("off", Boolean(trace));
    },
  };
}
