// Charts as SVG: widths in per cent or measured, text that stays text, values in words as well.

import { el, say, svg } from "./dom.js";

/** Whole decades that hold all of `values`: a scale that rarely moves while a slider does. */
export function decades(values) {
  const known = values.filter((x) => Number.isFinite(x) && x > 0);
  if (!known.length) return [1, 10];
  const low = 10 ** Math.floor(Math.log10(Math.min(...known)) + 1e-9);
  const high = 10 ** Math.ceil(Math.log10(Math.max(...known)) - 1e-9);
  return high > low ? [low, high] : [low, low * 10];
}

/** From 0 to a round number, and the steps between: `[top, step]`. */
export function linear(values) {
  const most = Math.max(...values.filter(Number.isFinite), 0) || 1;
  const size = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((m) => m * 5 >= most) ?? 10 * size;
  return [Math.ceil(most / step - 1e-9) * step, step];
}

const RUNGS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

/** Like `decades`, closer: to the next of `RUNGS`. */
export function rungs(values) {
  const known = values.filter((x) => Number.isFinite(x) && x > 0);
  if (!known.length) return [1, 10];
  const near = (x) => RUNGS.map((m) => m * 10 ** Math.floor(Math.log10(x)));
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const low = near(least).findLast((m) => m <= least * (1 + 1e-9));
  const high = near(most).find((m) => m >= most * (1 - 1e-9));
  return high > low ? [low, high] : [low, low * 2];
}

export const logAt = (x, [low, high]) => Math.min(1, Math.max(0, Math.log(x / low) / Math.log(high / low)));

/** One value with its interval, its bound and its limit on a logarithmic scale; each has a shape of its own. */
export function intervalBar({
  value,
  interval,
  bound,
  limit,
  domain,
  text,
  format,
  small = false,
  axis = true,
}) {
  const height = small ? 14 : 34;
  const middle = small ? 7 : 11;
  const x = (v) => `${2 + 96 * logAt(v, domain)}%`;
  const wide = (a, b) => `${Math.max(0.5, 96 * (logAt(b, domain) - logAt(a, domain)))}%`;
  const marks = axis ? [svg("line", { class: "axis", x1: "2%", x2: "98%", y1: middle, y2: middle })] : [];
  for (let d = domain[0]; axis && d <= domain[1] * 1.001; d *= 10) {
    marks.push(svg("line", { class: "axis", x1: x(d), x2: x(d), y1: middle - 3, y2: middle + 3 }));
  }
  if (interval)
    marks.push(
      svg("rect", {
        class: "interval",
        x: x(interval[0]),
        width: wide(interval[0], interval[1]),
        y: middle - 4,
        height: 8,
        rx: 2,
      }),
    );
  if (bound)
    marks.push(svg("line", { class: "bound", x1: x(bound), x2: x(bound), y1: middle - 7, y2: middle + 7 }));
  if (limit)
    marks.push(svg("line", { class: "limit", x1: x(limit), x2: x(limit), y1: middle - 9, y2: middle + 9 }));
  if (value) marks.push(svg("circle", { class: "value", cx: x(value), cy: middle, r: small ? 3.5 : 4.5 }));
  if (!small && (value || bound)) {
    marks.push(svg("text", { class: "tick", x: "1%", y: 31 }, format(domain[0])));
    marks.push(svg("text", { class: "tick end", x: "99%", y: 31 }, format(domain[1])));
  }
  const spoken = text ? { role: "img", "aria-label": text } : { "aria-hidden": "true" };
  return svg("svg", { class: "bar", width: "100%", height, ...spoken }, marks);
}

/** Parts of a whole, side by side. `parts` are `{label, share, slot, text}`; small ones keep a hairline. */
export function stackedBar(parts, text, height = 30) {
  const whole = parts.reduce((sum, p) => sum + p.share, 0) || 1;
  let at = 0;
  const marks = parts.map((part) => {
    const share = part.share / whole;
    const left = at;
    at += share;
    const wide = share > 0.12 && part.short;
    return svg(
      "g",
      { class: `part ${part.slot}` },
      svg("rect", { x: `${left * 100}%`, width: `${share * 100}%`, y: 0, height }),
      svg("title", {}, part.text),
      wide && svg("text", { x: `${(left + share / 2) * 100}%`, y: height / 2 + 4 }, part.short),
    );
  });
  return svg("svg", { class: "stack", width: "100%", height, role: "img", "aria-label": text }, marks);
}

// Marks as outlines, so that all marks of a curve are one path; each curve has a shape of its own.
const MARKS = [
  (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  (x, y, r) => `M${x - r},${y + r}L${x},${y - r}L${x + r},${y + r}Z`,
  (x, y, r) => `M${x - r},${y - r}L${x},${y + r}L${x + r},${y - r}Z`,
  (x, y, r) => `M${x - r},${y}L${x},${y - r}L${x + r},${y}L${x},${y + r}Z`,
  (x, y, r) => `M${x - r},${y - r / 2}h${2 * r}v${r}h${-2 * r}Z`,
];
const outline = (k, points, r) =>
  points.map((p) => MARKS[k % MARKS.length](Number(p.x.toFixed(1)), Number(p.y.toFixed(1)), r)).join("");

/** Round numbers in a domain, as many as are easily read. */
function ticks([low, high], most) {
  const inside = (steps) => {
    const out = [];
    for (let d = 10 ** Math.floor(Math.log10(low)); d <= high * 1.001; d *= 10)
      out.push(...steps.map((m) => m * d));
    return out.filter((t) => t >= low * 0.999 && t <= high * 1.001);
  };
  const choices = [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1]].map(inside);
  return choices.find((found) => found.length <= most) ?? choices.at(-1);
}

/** Names beside the ends of curves, moved apart where they would lie on each other. */
function apart(names, most) {
  const placed = [];
  for (const name of names.toSorted((a, b) => a.y - b.y)) {
    while (placed.some((p) => Math.abs(p.y - name.y) < 12 && Math.abs(p.x - name.x) < 46)) name.y += 3;
    placed.push({ ...name, y: Math.min(name.y, most) });
  }
  return placed.map(({ x, y, text }) => svg("text", { class: "name", x, y }, text));
}

/**
 * Curves over a logarithmic axis. One stop for the keyboard: arrows walk the points, and say them.
 *
 * `curves` are `{name, slot, points: [{x, y, text, faint, current}]}`; `verticals` are `{x, text}`.
 */
export function lineChart(
  holder,
  { curves, verticals = [], xLabel, yLabel, xFormat, yFormat, text, onpick },
) {
  const readout = el("output", { class: "readout" });
  const note = "Arrow keys or the pointer read the points; Enter takes one.";
  let draw = { curves, verticals, xLabel, yLabel, xFormat, yFormat, text, onpick };
  let at = null;
  let places = [];
  const plot = svg("svg", {
    class: "chart",
    width: "100%",
    height: 300,
    role: "application",
    tabindex: 0,
    "aria-describedby": "curve-readout",
  });
  readout.id = "curve-readout";
  say(readout, note);
  holder.replaceChildren(plot, readout);

  function paint() {
    const width = Math.max(280, plot.clientWidth || 640);
    const all = draw.curves.flatMap((c) => c.points);
    const height = all.length ? 300 : 60;
    plot.setAttribute("height", height);
    const [left, right, top, bottom] = [54, 14, 24, 40];
    if (!all.length) {
      places = [];
      plot.replaceChildren(
        svg("text", { class: "label mid", x: "50%", y: 34 }, "Nothing to draw: no load fits."),
      );
      return;
    }
    const xs = rungs([...all.map((p) => p.x), ...draw.verticals.map((v) => v.x)]);
    const [most, step] = linear(all.map((p) => p.y));
    const X = (v) => left + (width - left - right) * logAt(v, xs);
    const Y = (v) => height - bottom - (height - top - bottom) * (v / most);
    const marks = [];
    for (const t of ticks(xs, width < 500 ? 6 : 9)) {
      marks.push(
        svg("line", { class: "grid", x1: X(t), x2: X(t), y1: top, y2: height - bottom }),
        svg("text", { class: "tick mid", x: X(t), y: height - bottom + 14 }, draw.xFormat(t)),
      );
    }
    for (let t = 0; t <= most * 1.001; t += step) {
      marks.push(
        svg("line", { class: "grid", x1: left, x2: width - right, y1: Y(t), y2: Y(t) }),
        svg("text", { class: "tick end", x: left - 6, y: Y(t) + 4 }, draw.yFormat(t)),
      );
    }
    marks.push(
      svg("text", { class: "label mid", x: (left + width - right) / 2, y: height - 6 }, draw.xLabel),
    );
    for (const v of draw.verticals) {
      marks.push(svg("line", { class: "limit", x1: X(v.x), x2: X(v.x), y1: top, y2: height - bottom }));
      const flip = X(v.x) > width - 130;
      marks.push(
        svg("text", { class: `tick ${flip ? "end" : ""}`, x: X(v.x) + (flip ? -5 : 5), y: top + 10 }, v.text),
      );
    }
    places = [];
    const names = [];
    // The current curve is drawn last, above the others.
    for (const [k, curve] of [...draw.curves.entries()].reverse()) {
      const spots = curve.points.map((point) => ({ x: X(point.x), y: Y(point.y), curve: k, point }));
      places.push(...spots);
      const kinds = [
        ["point", (p) => !p.faint && !p.current, 3.5],
        ["point faint", (p) => p.faint && !p.current, 3.5],
        ["point current", (p) => p.current, 6],
      ];
      const inner = [
        svg("path", {
          class: "line",
          d: spots.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)},${p.y.toFixed(1)}`).join(""),
        }),
        ...kinds.map(([name, of, r]) =>
          svg("path", {
            class: name,
            d: outline(
              k,
              spots.filter((p) => of(p.point)),
              r,
            ),
          }),
        ),
      ];
      const end = curve.points.at(-1);
      if (end && curve.name)
        names.push({
          x: Math.min(X(end.x) + 7, width - right - 7 * curve.name.length),
          y: Math.max(top - 2, Y(end.y) - 7),
          text: curve.name,
        });
      marks.push(svg("g", { class: `curve ${curve.slot}` }, inner));
    }
    marks.push(svg("text", { class: "label", x: 2, y: 11 }, draw.yLabel), apart(names, height - bottom));
    plot.replaceChildren(...marks.flat());
    plot.setAttribute("aria-label", draw.text);
    ring();
  }
  function ring() {
    plot.querySelector(".ring")?.remove();
    const place = at && places.find((p) => p.curve === at.curve && p.point.key === at.key);
    if (!place) return;
    plot.append(svg("circle", { class: "ring", cx: place.x, cy: place.y, r: 9 }));
    say(readout, place.point.text);
  }
  const go = (place) => {
    at = place ? { curve: place.curve, key: place.point.key } : null;
    if (!at) say(readout, note);
    ring();
  };
  const pick = () => {
    const place = at && places.find((p) => p.curve === at.curve && p.point.key === at.key);
    if (place && place.curve === 0) draw.onpick?.(place.point);
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const far = (p) => Math.hypot(p.x - event.clientX + box.left, p.y - event.clientY + box.top);
    const place = places.toSorted((a, b) => far(a) - far(b))[0];
    go(place && far(place) < 40 ? place : null);
  });
  plot.addEventListener("pointerleave", () => go(null));
  plot.addEventListener("click", pick);
  plot.addEventListener("blur", () => go(null));
  plot.addEventListener("keydown", (event) => {
    const walk = places.toSorted((a, b) => a.curve - b.curve || a.point.key - b.point.key);
    const here = walk.findIndex((p) => at && p.curve === at.curve && p.point.key === at.key);
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (event.key in steps && walk.length) {
      const start = here < 0 ? walk.findIndex((p) => p.point.current) : here + steps[event.key];
      go(walk[Math.min(walk.length - 1, Math.max(0, start))]);
    } else if (event.key === "Enter") pick();
    else if (event.key === "Escape") go(null);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(paint).observe(plot);
  paint();
  return (next) => {
    draw = next;
    paint();
  };
}
