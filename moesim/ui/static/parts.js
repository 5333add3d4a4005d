// What an answer is made of: the time of a token, the memory of a device.

import { stackedBar } from "./charts.js";
import { byId, el, redraw } from "./dom.js";
import { memoryOf, resourcesOf } from "./metrics.js";
import { bytes, digits, joined, percent, time } from "./units.js";

const legend = (parts, value) =>
  el(
    "ul",
    { class: "legend" },
    parts.map((p) =>
      el("li", {}, el("i", { class: `swatch ${p.slot}` }), el("span", {}, p.label), el("b", {}, value(p))),
    ),
  );

/** Where the time of a token goes: by resource, and unfolded by operation. */
export function drawLimits(answer) {
  const parts = resourcesOf(answer.prediction);
  const lines = answer.prediction?.breakdown ?? [];
  const open = byId("limits").querySelector("details")?.open ?? false;
  const longest = Math.max(...lines.map((l) => Math.abs(l.seconds)), 1e-12);
  redraw(
    byId("limits"),
    el("h2", { id: "limits-h" }, "What limits it"),
    parts.length
      ? [
          stackedBar(parts, `Where the time of an output token goes: ${parts.map((p) => p.text).join("; ")}`),
          legend(parts.slice(0, 6), (p) => percent(p.share)),
          el(
            "details",
            { open },
            el("summary", { "data-key": "ops" }, "By operation"),
            el(
              "table",
              { class: "ops" },
              el(
                "tbody",
                {},
                lines.slice(0, 12).map((l) =>
                  el(
                    "tr",
                    {},
                    el("th", { scope: "row" }, l.op.replaceAll("_", " ")),
                    el(
                      "td",
                      { class: "n" },
                      joined(time(Math.abs(l.seconds)))[0] === "–"
                        ? "–"
                        : `${l.seconds < 0 ? "−" : ""}${joined(time(Math.abs(l.seconds)))}`,
                    ),
                    el(
                      "td",
                      { class: "length" },
                      el("span", {
                        class: `length ${l.seconds < 0 ? "less" : ""}`,
                        style: { "--share": Math.abs(l.seconds) / longest },
                      }),
                    ),
                    el("td", { class: "dim" }, l.bound_by),
                  ),
                ),
              ),
            ),
          ),
        ]
      : el("p", { class: "dim" }, "Nothing runs."),
  );
}

/** What fills the fullest device, or what is missing where it does not fit. */
export function drawMemory(answer) {
  const m = memoryOf(answer.prediction);
  const p = answer.prediction;
  redraw(
    byId("memory"),
    el("h2", { id: "memory-h" }, "Memory of the fullest device"),
    m
      ? [
          stackedBar(
            m.parts,
            `${joined(bytes(m.used))} of ${joined(bytes(m.whole))}: ${m.parts.map((x) => x.text).join("; ")}`,
          ),
          legend(m.parts, (x) => joined(bytes(x.share))),
          el(
            "p",
            { class: "dim" },
            [
              `${joined(bytes(m.used))} of ${joined(bytes(m.whole))} used.`,
              p.running < p.concurrency * 0.999
                ? ` The cache holds ${digits(p.running)} of ${digits(p.concurrency)} requests; the others wait.`
                : "",
              p.load_imbalance
                ? ` The busiest rank has ${digits(p.load_imbalance)} times the mean load of experts.`
                : "",
            ].join(""),
          ),
        ]
      : short(answer.shortage),
  );
}

/** What is missing where it does not fit. */
function short(shortage) {
  if (!shortage?.resource?.startsWith("memory")) return el("p", { class: "dim" }, "–");
  const { needed, available } = shortage;
  const parts = [
    { key: "there", label: "to use", share: available, slot: "s2" },
    { key: "short", label: "missing", share: Math.max(0, needed - available), slot: "s1" },
  ].map((p) => ({ ...p, short: p.label, text: `${p.label}: ${joined(bytes(p.share))}` }));
  return [
    stackedBar(parts, parts.map((p) => p.text).join("; ")),
    legend(parts, (p) => joined(bytes(p.share))),
  ];
}
