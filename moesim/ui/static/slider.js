// A number: a slider for the hand, a field for the exact value.

import { el } from "./dom.js";
import { digits } from "./units.js";

const STEPS = 1000;
// Which way a key leads, and by how many steps.
const KEYS = {
  ArrowUp: [true, 1],
  ArrowRight: [true, 1],
  ArrowDown: [false, 1],
  ArrowLeft: [false, 1],
  PageUp: [true, 4],
  PageDown: [false, 4],
};

/** Where `value` lies from 0 to 1. */
export function position(value, { min, max, scale }) {
  if (max <= min) return 0;
  const low = scale === "log" ? Math.log(Math.max(min, 1e-9)) : min;
  const high = scale === "log" ? Math.log(max) : max;
  const at = scale === "log" ? Math.log(Math.max(value, 1e-9)) : value;
  return Math.min(1, Math.max(0, (at - low) / (high - low)));
}

/** The value at `at` from 0 to 1: two digits, or a power of two close by; the ends exactly. */
export function valueAt(at, { min, max, step, scale }) {
  if (at <= 0) return min;
  if (at >= 1) return max;
  const raw =
    scale === "log"
      ? Math.exp(Math.log(Math.max(min, 1e-9)) * (1 - at) + Math.log(max) * at)
      : min + (max - min) * at;
  if (scale !== "log") return tidy(Math.round(raw / step) * step, min, max);
  const power = 2 ** Math.round(Math.log2(raw));
  const near = Math.abs(power / raw - 1) < 0.03 ? power : Number(raw.toPrecision(2));
  return tidy(Math.round(near / step) * step, min, max);
}

/** The next tidy value up or down: 1, 2, 3, 4, 6, 8, 12, ... on a logarithmic scale. */
export function stepped(value, up, { min, max, step, scale }) {
  if (scale !== "log") return tidy(value + (up ? step : -step), min, max);
  const rungs = [];
  for (let k = -20; k <= 40; k++) rungs.push(2 ** k, 1.5 * 2 ** k);
  const some = rungs.filter((r) => r >= min && r <= max && Math.abs(r / step - Math.round(r / step)) < 1e-9);
  const beyond = up ? some.find((r) => r > value * (1 + 1e-9)) : some.findLast((r) => r < value * (1 - 1e-9));
  return tidy(beyond ?? (up ? max : min), min, max);
}

const tidy = (x, min, max) => Math.min(max, Math.max(min, Number(x.toPrecision(12))));

/**
 * A labelled pair of slider and field; the field alone where it is `bare`.
 *
 * `onvalue(value, settled)` is called while it moves and once more when it rests. Returns `{node, show, field, bar}`;
 * `show` puts a value there without calling back.
 */
export function slider({ id, label, unit, bare = false, onvalue }) {
  let range = { min: 0, max: 1, step: 1, scale: "linear" };
  let shown = null;
  const bar = el("input", {
    type: "range",
    id: `${id}-slider`,
    min: 0,
    max: STEPS,
    step: 1,
    "aria-labelledby": `${id}-label`,
  });
  const field = el("input", {
    type: "text",
    inputmode: "decimal",
    id,
    "aria-describedby": `${id}-fault`,
    maxlength: 12,
    size: 7,
  });
  const give = (value, settled) => {
    shown = value;
    mark(value);
    onvalue(value, settled);
  };
  const mark = (value) => {
    bar.setAttribute("aria-valuetext", `${digits(value, 4)} ${unit}`.trim());
    bar.style.setProperty("--at", `${position(value, range) * 100}%`);
  };
  const moved = (settled) => {
    // A key may have put the value between two places of the slider.
    const value =
      Math.round(position(shown, range) * STEPS) === Number(bar.value)
        ? shown
        : valueAt(bar.value / STEPS, range);
    field.value = plain(value);
    give(value, settled);
  };
  bar.addEventListener("input", () => moved(false));
  bar.addEventListener("change", () => moved(true));
  const pressed = (many, ends) => (event) => {
    let value = ends ? { Home: range.min, End: range.max }[event.key] : undefined;
    if (event.key in many) {
      const [up, times] = many[event.key];
      value = shown;
      for (let k = 0; k < times; k++) value = stepped(value, up, range);
    }
    if (value === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    field.value = plain(value);
    show(value);
    give(value, true);
  };
  bar.addEventListener("keydown", pressed(KEYS, true));
  field.addEventListener("keydown", pressed({ ArrowUp: KEYS.ArrowUp, ArrowDown: KEYS.ArrowDown }, false));
  const typed = (settled) => {
    const text = field.value.trim().replaceAll(",", "").replaceAll(" ", "");
    const value = text === "" ? NaN : Number(text);
    if (Number.isFinite(value)) bar.value = Math.round(position(value, range) * STEPS);
    give(Number.isFinite(value) ? value : field.value, settled);
  };
  field.addEventListener("input", () => typed(false));
  field.addEventListener("change", () => typed(true));
  function show(value, given = range) {
    range = given;
    shown = value;
    // What is being written stays as it is, as long as it means this or nothing yet.
    const written = field.value === "" ? NaN : Number(field.value.replaceAll(",", ""));
    if (document.activeElement !== field || (written !== value && Number.isFinite(written)))
      field.value = plain(value);
    bar.value = Math.round(position(value, range) * STEPS);
    mark(value);
  }
  const node = el(
    "div",
    { class: "field", "data-field": id },
    el("label", { for: id, id: `${id}-label` }, label),
    el("span", { class: "exact" }, field, el("span", { class: "unit" }, unit)),
    !bare && bar,
    el("p", { class: "fault", id: `${id}-fault` }),
  );
  return { node, show, field, bar };
}

const plain = (value) => (typeof value === "number" ? String(value) : "");
