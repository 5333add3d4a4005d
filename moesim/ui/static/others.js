// The same devices laid out otherwise.

import { byId, el, redraw } from "./dom.js";
import { layoutText } from "./layout.js";
import { digits, joined, time } from "./units.js";

const counted = (rows, done) => {
  const fit = rows.filter((r) => r.feasible).length;
  return done
    ? `${fit || "None"} of ${rows.length} fit${fit ? "; the most throughput first" : ""}.`
    : "Looking ...";
};

/** Draw layouts, the most throughput first; `found` is `{layouts, done}`, `take` is told a click. */
export function drawLayouts(found, scenario, take) {
  const rows = found.layouts.toSorted(
    (a, b) => b.feasible - a.feasible || (b.output_throughput ?? 0) - (a.output_throughput ?? 0),
  );
  const best = rows.find((r) => r.feasible);
  const within = (value, limit) => limit === null || value * 1e3 <= limit;
  const asked = scenario.ttft_limit_ms !== null || scenario.tpot_limit_ms !== null;
  const fine = (r) => within(r.ttft_s, scenario.ttft_limit_ms) && within(r.tpot_s, scenario.tpot_limit_ms);
  const here = (r) => ["tp", "pp", "dp", "ep"].every((f) => r[f] === scenario[f]);
  redraw(
    byId("layouts"),
    el(
      "h2",
      { id: "layouts-h" },
      `Other layouts of the same ${scenario.tp * scenario.pp * scenario.dp} devices`,
    ),
    el("p", { class: "dim" }, counted(rows, found.done)),
    rows.length > 0 &&
      el(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layouts", "data-key": "layouts" },
        el(
          "table",
          { class: "layouts" },
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              el("th", { scope: "col" }, "layout"),
              ["tokens/s", "TPOT", "TTFT"].map((t) => el("th", { scope: "col", class: "n" }, t)),
              asked && el("th", { scope: "col" }, "limits"),
              el("td", {}),
            ),
          ),
          el(
            "tbody",
            {},
            rows.map((r) =>
              el(
                "tr",
                { class: here(r) ? "here" : "", "aria-current": here(r) ? "true" : null },
                el("th", { scope: "row" }, layoutText(r)),
                r.feasible
                  ? [
                      el(
                        "td",
                        { class: "n" },
                        el("span", {
                          class: "length",
                          style: { "--share": r.output_throughput / best.output_throughput },
                        }),
                        digits(r.output_throughput),
                      ),
                      el("td", { class: "n" }, joined(time(r.tpot_s))),
                      el("td", { class: "n" }, joined(time(r.ttft_s))),
                      asked && el("td", {}, fine(r) ? "✓ met" : "✗ not met"),
                    ]
                  : el(
                      "td",
                      { colspan: asked ? 4 : 3, class: "dim reason", title: r.reason },
                      r.reason || "does not fit",
                    ),
                el(
                  "td",
                  {},
                  here(r)
                    ? "here"
                    : el(
                        "button",
                        {
                          type: "button",
                          class: "small",
                          "data-key": `lay-${layoutText(r)}`,
                          "aria-label": `Take ${layoutText(r)}`,
                          onclick: () => take({ tp: r.tp, pp: r.pp, dp: r.dp, ep: r.ep }),
                        },
                        "Take",
                      ),
                ),
              ),
            ),
          ),
        ),
      ),
  );
}
